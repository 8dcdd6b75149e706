package subnet

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

// follower applies updates to a set of its own.
type follower struct {
	t       *testing.T
	updates chan Update
	set     map[string]Lease
	last    Update
}

func follow(t *testing.T, d *Directory) *follower {
	t.Helper()
	f := &follower{t: t, updates: make(chan Update), set: map[string]Lease{}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- d.Follow(ctx, func(u Update) error {
			select {
			case f.updates <- u:
			case <-ctx.Done():
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("followed until %v", err)
		}
	})
	return f
}

// until applies updates until they have come to what is wanted.
func (f *follower) until(what string, ok func() bool) {
	f.t.Helper()
	timeout := time.NewTimer(await.Patience)
	defer timeout.Stop()
	for !ok() {
		select {
		case u := <-f.updates:
			f.apply(u)
		case <-timeout.C:
			f.t.Fatalf("waiting until %s: the set is %v, ignored are %v, the config is %v", what,
				slices.Sorted(maps.Keys(f.set)), f.last.Ignored, f.last.ConfigErr)
		}
	}
}

func (f *follower) apply(u Update) {
	f.t.Helper()
	if u.Whole {
		whole := map[string]Lease{}
		for _, l := range u.Changed {
			whole[l.Key] = l
		}
		for _, l := range u.Removed {
			if _, had := f.set[l.Key]; !had {
				f.t.Errorf("%s was removed and never there", l.Key)
			}
		}
		f.set = whole
	} else {
		for _, l := range u.Changed {
			f.set[l.Key] = l
		}
		for _, l := range u.Removed {
			if _, had := f.set[l.Key]; !had {
				f.t.Errorf("%s was removed and never there", l.Key)
			}
			delete(f.set, l.Key)
		}
	}
	f.last = u
}

// keysAre waits until exactly these leases are there.
func (f *follower) keysAre(keys ...string) {
	f.t.Helper()
	f.until(strings.Join(keys, ", ")+" are there", func() bool {
		return f.last.Revision != 0 && slices.Equal(slices.Sorted(maps.Keys(f.set)), keys)
	})
}

func TestFollow(t *testing.T) {
	f := newFixture(t, v4Config)
	l := f.acquire(node(1), Subnets{V4: pfx("10.5.1.0/24")}, f.grant())
	w := follow(t, f.Directory)
	w.keysAre(l.Key)
	if !w.last.Whole || w.last.ConfigErr != nil || w.last.Config.Network != pfx("10.5.0.0/16") {
		t.Errorf("the first update is %+v", w.last)
	}
	if d := cmp.Diff(l, w.set[l.Key], byValue()); d != "" {
		t.Error(d)
	}
	other := f.acquire(node(2), Subnets{V4: pfx("10.5.2.0/24")}, f.grant())
	w.keysAre(l.Key, other.Key)
	if w.last.Whole || len(w.last.Changed) != 1 {
		t.Errorf("one change came as %+v", w.last)
	}
	moved := node(2)
	moved.BackendData = []byte(`{"VNI":1,"VtepMAC":"02:00:00:00:00:ff"}`)
	if _, err := f.Assert(t.Context(), other, moved, other.EtcdLease); err != nil {
		t.Fatal(err)
	}
	w.until("the MAC is another", func() bool { return strings.Contains(string(w.set[other.Key].BackendData), ":ff") })
	f.expire(other.EtcdLease)
	w.keysAre(l.Key)
	if len(w.last.Removed) != 1 || w.last.Removed[0].NodeID != "node-2" {
		t.Errorf("the end of a lease came as %+v", w.last)
	}
}

func TestFollowIgnoresWhatIsMalformed(t *testing.T) {
	f := newFixture(t, v4Config)
	w := follow(t, f.Directory)
	w.keysAre()
	f.set("subnets/10.5.7.0-24", flanneld(7))
	w.keysAre("10.5.7.0-24")
	f.set("subnets/10.5.6.0-23", flanneld(6))
	w.until("the younger is ignored", func() bool { return len(w.last.Ignored) == 1 })
	if i := w.last.Ignored[0]; i.Key != "10.5.6.0-23" || i.Holder != "10.5.7.0-24" {
		t.Errorf("%+v", i)
	}
	f.set("subnets/10.5.7.0-24", `{"PublicIP":"no"}`)
	w.keysAre("10.5.6.0-23") // garbage holds nothing
	f.set("subnets/10.5.7.0-24", flanneld(7))
	w.keysAre("10.5.7.0-24") // its key is the older
	f.set("other/key", "x")
	f.set("subnets/x", "x")
	w.until("two are ignored", func() bool { return len(w.last.Ignored) == 2 })
	f.set("config", `{"Network":"10.5.0.`)
	w.until("the config is malformed", func() bool { return errors.Is(w.last.ConfigErr, ErrBadConfig) })
	if !w.last.ConfigChanged || w.last.Config.Network != pfx("10.5.0.0/16") || len(w.set) != 1 {
		t.Errorf("garbage for a config changed %+v; set %v", w.last, w.set)
	}
	f.set("config", `{"Network":"10.5.6.0/24","SubnetLen":28}`)
	w.keysAre()
	if len(w.last.Removed) != 1 || w.last.ConfigErr != nil {
		t.Errorf("another network came as %+v", w.last)
	}
	f.set("config", v4Config)
	w.keysAre("10.5.7.0-24")
	if err := f.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.keysAre()
	if !errors.Is(w.last.ConfigErr, ErrNoConfig) {
		t.Errorf("removed, and the config is %v", w.last.ConfigErr)
	}
}

func TestFollowWithoutAConfig(t *testing.T) {
	f := newFixture(t, "")
	f.set("subnets/10.5.7.0-24", flanneld(7))
	w := follow(t, f.Directory)
	w.until("it is ignored", func() bool {
		return len(w.last.Ignored) == 1 &&
			errors.Is(w.last.ConfigErr, ErrNoConfig)
	})
	f.set("config", v4Config)
	w.keysAre("10.5.7.0-24")
	if len(w.last.Ignored) != 0 {
		t.Errorf("%+v", w.last.Ignored)
	}
}

// While nobody could look, a peer got another MAC and address, one went, one came, and
// the history of it all was thrown away.
func TestFollowThroughCompaction(t *testing.T) {
	dir := t.TempDir()
	socket := "unix://" + filepath.Join(t.TempDir(), "etcd.sock")
	start := func() *embedded.Server {
		s, err := embedded.Start(t.Context(), embedded.Config{Dir: dir, ClientURLs: []string{socket}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := start()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{socket}, DialTimeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	d, err := Open(client, "/coreos.com/network")
	if err != nil {
		t.Fatal(err)
	}
	f := fixture{d, t, client}
	f.set("config", v4Config)
	a := f.acquire(node(1), Subnets{V4: pfx("10.5.1.0/24")}, 0)
	b := f.acquire(node(2), Subnets{V4: pfx("10.5.2.0/24")}, f.grant())
	w := follow(t, d)
	w.keysAre(a.Key, b.Key)

	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// the same data, which the follower cannot reach
	offline, err := embedded.Start(t.Context(), embedded.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	d2, err := Open(offline.Client(), "/coreos.com/network")
	if err != nil {
		t.Fatal(err)
	}
	f = fixture{d2, t, offline.Client()}
	f.expire(b.EtcdLease)
	changed := node(1)
	changed.PublicIP, changed.BackendData = node(99).PublicIP, node(99).BackendData
	f.acquire(changed, Subnets{}, 0)
	c := f.acquire(node(3), Subnets{V4: pfx("10.5.3.0/24")}, f.grant())
	r, err := f.c.Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.c.Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	if err := offline.Close(); err != nil {
		t.Fatal(err)
	}
	s = start()
	w.keysAre(a.Key, c.Key)
	if got := w.set[a.Key]; got.PublicIP != changed.PublicIP || string(got.BackendData) != string(changed.BackendData) {
		t.Errorf("the peer is still %+v", got)
	}
	if !w.last.Whole || len(w.last.Removed) != 1 {
		t.Errorf("the update is %+v", w.last)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
