package etcd_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// few is a limit of 100 small keys below /d/x, and of none but those there and in /d/y.
func few(i *etcd.Item) (string, etcd.Limit) {
	switch {
	case strings.HasPrefix(i.Key, "/d/x"):
		return "x", etcd.Limit{Keys: 100, Bytes: 2000, Value: 50}
	case strings.HasPrefix(i.Key, "/d/y"):
		return "y", etcd.Limit{Keys: 1000, Bytes: 1000, Value: 1000}
	}
	return "other", etcd.Limit{}
}

// putMany writes keys by the hundred.
func putMany(t *testing.T, c *clientv3.Client, from, to int, format, value string) {
	t.Helper()
	for some := range slices.Chunk(numbers(from, to), 100) {
		var ops []clientv3.Op
		for _, i := range some {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf(format, i), value))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
}

func numbers(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// state is what a mirror has, and how many keys there are besides.
func (m *mirror) has() (set map[string]etcd.Item, excess map[string]int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set = map[string]etcd.Item{}
	for k, i := range m.set {
		set[k] = i
	}
	if len(m.updates) > 0 {
		excess = m.updates[len(m.updates)-1].Excess
	}
	return set, excess
}

// Of too many keys the oldest are followed, whether they were there before or come later; the others are counted, and
// take the place of those that go.
func TestFollowKeepsToLimits(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	putMany(t, c, 50, 100, "/d/x%04d", "first")
	putMany(t, c, 0, 50, "/d/x%04d", "second") // younger, though listed before
	putMany(t, c, 100, 1000, "/d/x%04d", "third")
	putMany(t, c, 0, 300, "/d/z%04d", "of no class")
	before := follow(t, c, "/d/", etcd.Bound(0, few))
	before.whole(t, 0)
	wait := func(m *mirror, what string, want func(map[string]etcd.Item, map[string]int) bool) {
		t.Helper()
		await.True(t, what, func() bool { return want(m.has()) })
		if set, _ := m.has(); len(set) > 101 {
			t.Errorf("%s: %d keys are kept", what, len(set))
		}
	}
	oldest := func(set map[string]etcd.Item, excess map[string]int) bool {
		return len(set) == 100 && set["/d/x0000"].Key != "" && set["/d/x0099"].Key != "" && excess["x"] == 900 &&
			excess["other"] == 300
	}
	wait(before, "the oldest are followed", oldest)
	putMany(t, c, 1000, 3000, "/d/x%04d", "more")
	putMany(t, c, 500, 600, "/d/x%04d", "changed")
	wait(before, "those that come are counted", func(set map[string]etcd.Item, excess map[string]int) bool {
		return len(set) == 100 && excess["x"] == 2900
	})
	after := follow(t, c, "/d/", etcd.Bound(0, few))
	wait(after, "who comes later follows the same", func(set map[string]etcd.Item, excess map[string]int) bool {
		was, _ := before.has()
		for key := range set {
			if was[key].Key == "" {
				return false
			}
		}
		return len(set) == len(was)
	})
	del(t, c, "/d/x0000")
	if _, err := c.Delete(t.Context(), "/d/x2", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*mirror{before, after} {
		wait(m, "there is room for another", func(set map[string]etcd.Item, excess map[string]int) bool {
			return len(set) == 100 && set["/d/x0000"].Key == "" && excess["x"] == 1899
		})
	}
	if _, err := c.Delete(t.Context(), "/d/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	wait(before, "nothing is left", func(set map[string]etcd.Item, excess map[string]int) bool {
		return len(set) == 0 && excess["x"] == 0
	})
}

// A value that is too long costs no memory, and its key stays.
func TestFollowLeavesOutLongValues(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	long := strings.Repeat("v", 1<<20)
	put(t, c, "/d/x1", long)
	put(t, c, "/d/x2", "short")
	m := follow(t, c, "/d/", etcd.Bound(time.Hour, few))
	cut := func(key string) func() bool {
		return func() bool { set, _ := m.has(); return set[key].Cut && len(set[key].Value) == 0 }
	}
	await.True(t, "one that was there is cut", cut("/d/x1"))
	put(t, c, "/d/x2", long)
	await.True(t, "one that becomes long is cut", cut("/d/x2"))
	put(t, c, "/d/x2", "short again")
	await.True(t, "it is back", func() bool { set, _ := m.has(); return string(set["/d/x2"].Value) == "short again" })
	// Many that are short one by one: the last is too much, and one that grows beyond the limit is cut.
	for i := range 4 {
		put(t, c, fmt.Sprintf("/d/y%d", i), strings.Repeat("v", 300))
	}
	await.True(t, "three have room", func() bool {
		set, excess := m.has()
		return set["/d/y2"].Key != "" && set["/d/y3"].Key == "" && excess["y"] == 1
	})
	put(t, c, "/d/y0", strings.Repeat("v", 600))
	await.True(t, "one that grew is cut", cut("/d/y0"))
}

// A page that would be larger than a client takes is listed in smaller ones.
func TestFollowListsLargeValues(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	c := dialSocket(t, path)
	for i := range 90 {
		put(t, c, fmt.Sprintf("/d/x%d", i), strings.Repeat("v", 1<<20))
	}
	m := follow(t, c, "/d/", etcd.Bound(time.Hour, few))
	await.True(t, "all keys are known", func() bool { set, _ := m.has(); return len(set) == 90 })
}
