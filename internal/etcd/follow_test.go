package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

func TestFollow(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	put(t, c, "/before/x", "another directory")
	m := follow(t, c, "/d/")
	m.whole(t, 0)
	if us := m.since(0); len(us[0].Changes) != 0 || us[0].Cluster == 0 || us[0].Revision == 0 {
		t.Errorf("an empty directory is %+v", us[0])
	}
	put(t, c, "/d/a", "1")
	m.matches(t, c, "/d/")
	put(t, c, "/d/a", "2")
	put(t, c, "/e/a", "not below")
	m.matches(t, c, "/d/")
	del(t, c, "/d/a")
	m.matches(t, c, "/d/")
	for _, u := range m.since(1) {
		if u.Whole {
			t.Errorf("an event led to a list: %+v", u)
		}
	}
}

func TestFollowEverything(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	put(t, c, "a", "1")
	m := follow(t, c, "")
	m.matches(t, c, "")
	put(t, c, "\xff\xff", "2")
	m.matches(t, c, "")
}

// TestFollowAtomic checks that what one transaction changes comes in one update.
func TestFollowAtomic(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	m := follow(t, c, "/d/")
	m.whole(t, 0)
	for i := range 20 {
		var ops []clientv3.Op
		for j := range 50 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/d/%d", j), fmt.Sprint(i)))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	m.matches(t, c, "/d/")
	for _, u := range m.since(1) {
		if len(u.Changes) != 50 {
			t.Errorf("%d changes of a transaction of 50", len(u.Changes))
		}
	}
}

// TestFollowInACrowd checks that a watch that rests misses nothing, and is told more at once.
func TestFollowInACrowd(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	m := follow(t, c, "/d/", etcd.Audience(func() int { return 1000 }))
	m.whole(t, 0)
	const writes = 600
	for i := range writes {
		key := fmt.Sprintf("/d/%d", i%50)
		if i%7 == 3 {
			del(t, c, key)
		} else {
			put(t, c, key, fmt.Sprint(i))
		}
	}
	m.matches(t, c, "/d/")
	for _, u := range m.since(1) {
		if u.Whole {
			t.Errorf("a rest led to a list: %+v", u)
		}
	}
	before := len(m.since(0))
	put(t, c, "/d/last", "after the storm")
	m.matches(t, c, "/d/")
	if n := len(m.since(before)); n != 1 {
		t.Errorf("%d updates for one change", n)
	}
}

func TestFollowManyPages(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	for i := range 25 {
		var ops []clientv3.Op
		for j := range 100 {
			ops = append(ops, clientv3.OpPut(fmt.Sprintf("/d/%02d-%02d", i, j), "x"))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	m := follow(t, c, "/d/")
	m.matches(t, c, "/d/")
	if us := m.since(0); len(us) != 1 || len(us[0].Changes) != 2500 {
		t.Errorf("%d updates", len(us))
	}
}

func TestFollowKeysOnly(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	put(t, c, "/d/a", "value")
	m := follow(t, c, "/d/", etcd.KeysOnly())
	m.whole(t, 0)
	put(t, c, "/d/b", "value")
	m.wait(t, "two keys", func() bool { return len(m.set) == 2 })
	for key, i := range m.set {
		if i.Value != nil || i.Mod == 0 {
			t.Errorf("%s is %+v", key, i)
		}
	}
}

func TestFollowEnds(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	full := errors.New("full")
	if err := etcd.Follow(t.Context(), c, "/", func(etcd.Update) error { return full }); !errors.Is(err, full) {
		t.Errorf("the consumer's error became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := etcd.Follow(ctx, c, "/", func(etcd.Update) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context became %v", err)
	}
	nobody := dialSocket(t, socket(t))
	ctx, cancel = context.WithCancel(t.Context())
	err = etcd.Follow(ctx, nobody, "/", func(etcd.Update) error { return nil },
		etcd.OnState(func(connected bool, err error) {
			if connected || err == nil {
				t.Errorf("nobody listens, but: %v, %v", connected, err)
			}
			cancel()
		}))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the end of the context became %v", err)
	}
}

// TestFollowThroughCompaction changes the set while the connection is cut, and then drops the history.
func TestFollowThroughCompaction(t *testing.T) {
	path := socket(t)
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	c, p := s.Client(), newProxy(t, path)
	for _, k := range []string{"stays", "changes", "goes", "comes back"} {
		put(t, c, "/d/"+k, "1")
	}
	m := follow(t, dialSocket(t, p.path), "/d/")
	m.matches(t, c, "/d/")
	n := m.count()
	p.cut()
	m.disconnected(t)
	put(t, c, "/d/changes", "2")
	del(t, c, "/d/goes")
	del(t, c, "/d/comes back")
	put(t, c, "/d/comes back", "1")
	put(t, c, "/d/new", "1")
	put(t, c, "/d/came and went", "1")
	del(t, c, "/d/came and went")
	r, err := c.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Compact(t.Context(), r.Header.Revision, clientv3.WithCompactPhysical()); err != nil {
		t.Fatal(err)
	}
	p.heal()
	m.matches(t, c, "/d/")
	us := m.since(n)
	if len(us) != 1 || !us[0].Whole || len(us[0].Changes) != 4 {
		t.Errorf("after the gap came %+v", us)
	}
	put(t, c, "/d/new", "2")
	m.matches(t, c, "/d/")
}

func TestFollowThroughRestart(t *testing.T) {
	path, dir := socket(t), t.TempDir()
	cfg := embedded.Config{Dir: dir, ClientURLs: []string{"unix://" + path}}
	s := etcdtest.Serve(t, cfg)
	put(t, s.Client(), "/d/a", "1")
	m := follow(t, dialSocket(t, path), "/d/")
	m.matches(t, s.Client(), "/d/")
	n := m.count()
	etcdtest.Stop(t, s)
	s = etcdtest.Serve(t, cfg)
	put(t, s.Client(), "/d/b", "1")
	m.matches(t, s.Client(), "/d/")
	m.whole(t, n)
}

// TestFollowThroughKill kills a process that is etcd, without warning.
func TestFollowThroughKill(t *testing.T) {
	path, dir := socket(t), t.TempDir()
	spec := member{Dir: dir, Client: "unix://" + path}
	p := spawn(t, spec)
	c := dialSocket(t, path)
	put(t, c, "/d/a", "1")
	m := follow(t, dialSocket(t, path), "/d/")
	m.matches(t, c, "/d/")
	for i := range 3 {
		n := m.count()
		p.kill()
		m.disconnected(t)
		p = spawn(t, spec)
		m.whole(t, n)
		put(t, c, fmt.Sprintf("/d/%d", i), "1")
		m.matches(t, c, "/d/")
	}
	if len(m.set) != 4 {
		t.Errorf("%d keys outlived the kills, want 4", len(m.set))
	}
}

// TestFollowThroughWipe begins anew with an empty directory: another cluster, lower revisions.
func TestFollowThroughWipe(t *testing.T) {
	path := socket(t)
	url := []string{"unix://" + path}
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: url})
	for i := range 5 {
		put(t, s.Client(), fmt.Sprintf("/d/%d", i), "1")
	}
	m := follow(t, dialSocket(t, path), "/d/")
	m.matches(t, s.Client(), "/d/")
	n := m.count()
	etcdtest.Stop(t, s)
	s = etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: url})
	put(t, s.Client(), "/d/0", "1")
	m.matches(t, s.Client(), "/d/")
	put(t, s.Client(), "/d/9", "1")
	m.matches(t, s.Client(), "/d/")
	us := m.since(n - 1)
	if us[0].Cluster == us[len(us)-1].Cluster {
		t.Errorf("the cluster's ID is still %x", us[0].Cluster)
	}
}

// TestFollowThroughRestore goes back to an older copy of the data: the same cluster, revisions that
// were already seen with other contents.
func TestFollowThroughRestore(t *testing.T) {
	for _, ahead := range []bool{false, true} {
		t.Run(fmt.Sprintf("ahead=%v", ahead), func(t *testing.T) {
			path, dir := socket(t), filepath.Join(t.TempDir(), "data")
			cfg := embedded.Config{Dir: dir, ClientURLs: []string{"unix://" + path}}
			s := etcdtest.Serve(t, cfg)
			put(t, s.Client(), "/d/old", "1")
			etcdtest.Stop(t, s)
			backup := filepath.Join(t.TempDir(), "backup")
			if err := os.CopyFS(backup, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			s = etcdtest.Serve(t, cfg)
			put(t, s.Client(), "/d/new", "1")
			put(t, s.Client(), "/d/newer", "1")
			p := newProxy(t, path)
			m := follow(t, dialSocket(t, p.path), "/d/")
			m.matches(t, s.Client(), "/d/")
			p.cut()
			m.disconnected(t)
			etcdtest.Stop(t, s)
			cfg.Dir = backup
			s = etcdtest.Serve(t, cfg)
			if ahead { // the restored etcd has come further before it is seen
				for i := range 10 {
					put(t, s.Client(), "/d/other", fmt.Sprint(i))
				}
			}
			p.heal()
			m.matches(t, s.Client(), "/d/")
			put(t, s.Client(), "/d/after", "1")
			m.matches(t, s.Client(), "/d/")
		})
	}
}

// TestFollowThroughSilence has the peer go without closing the connection.
func TestFollowThroughSilence(t *testing.T) {
	t.Parallel()
	path := socket(t)
	s := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	p := newProxy(t, path)
	m := follow(t, dialSocket(t, p.path), "/d/")
	m.matches(t, s.Client(), "/d/")
	p.stall()
	put(t, s.Client(), "/d/a", "1")
	m.disconnected(t)
	p.resume()
	m.matches(t, s.Client(), "/d/")
}
