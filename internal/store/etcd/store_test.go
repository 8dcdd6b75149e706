package etcd_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/storetest"
	"github.com/vethloom/vethloom/internal/await"
	base "github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
	"github.com/vethloom/vethloom/internal/store/etcd"
)

const patience = await.Patience

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, c *clientv3.Client) *etcd.Store {
	t.Helper()
	s := etcd.New(c, "/vethloom")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, path string) *clientv3.Client {
	t.Helper()
	return etcdtest.Dial(t, base.Config{Endpoints: []string{"unix://" + path}})
}

func key(id string) cnm.Key { return cnm.Key{Kind: cnm.KindNetwork, ID: id} }

func create(t *testing.T, s cnm.Store, k cnm.Key) {
	t.Helper()
	if err := s.Commit(t.Context(), cnm.Write{Key: k, Value: []byte("x")}); err != nil {
		t.Fatal(err)
	}
}

func woken(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case _, ok := <-ch:
		if !ok {
			t.Fatalf("%s: the channel is closed", what)
		}
	case <-time.After(patience):
		t.Fatalf("%s: no wake-up", what)
	}
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) cnm.Store {
		return open(t, etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client())
	})
}

// TestConformanceOverASocket runs the suite through gRPC, as with any other etcd.
func TestConformanceOverASocket(t *testing.T) {
	storetest.Run(t, func(t *testing.T) cnm.Store {
		path := filepath.Join(t.TempDir(), "s")
		etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
		return open(t, dial(t, path))
	})
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) func() (cnm.Store, func() error) {
		dir := t.TempDir()
		return func() (cnm.Store, func() error) {
			server := etcdtest.Serve(t, embedded.Config{Dir: dir})
			s := etcd.New(server.Client(), "/vethloom")
			return s, func() error { return errors.Join(s.Close(), server.Close()) }
		}
	})
}

func TestOthersKeysAreNotRecords(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	s := open(t, c)
	create(t, s, key("mine"))
	for _, k := range []string{"/vethloom/network/", "/vethloom/network/%4", "/vethloom/network",
		"/vethloomnetwork/x"} {
		if _, err := c.Put(t.Context(), k, "x"); err != nil {
			t.Fatal(err)
		}
	}
	rs, err := s.List(t.Context(), cnm.KindNetwork)
	if err != nil || len(rs) != 1 || rs[0].Key != key("mine") {
		t.Errorf("listed %v, %v", rs, err)
	}
}

func TestManyRecords(t *testing.T) {
	s := open(t, etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client())
	var want []string
	for i := range 12 {
		var ws []cnm.Write
		for j := range etcd.MaxWrites {
			id := fmt.Sprintf("%02d-%03d", i, j)
			want = append(want, id)
			ws = append(ws, cnm.Write{Key: key(id), Value: []byte(id)})
		}
		if err := s.Commit(t.Context(), ws...); err != nil {
			t.Fatal(err)
		}
		ws = append(ws, cnm.Write{Key: key("one more"), Value: []byte("x")})
		if err := s.Commit(t.Context(), ws...); !errors.Is(err, cnm.ErrInvalid) ||
			!strings.Contains(err.Error(), "129 records") {
			t.Errorf("a commit that is too large: %v", err)
		}
	}
	rs, err := s.List(t.Context(), cnm.KindNetwork)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range rs {
		got = append(got, r.Key.ID)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d records listed, want %d", len(got), len(want))
	}
}

func TestTooLarge(t *testing.T) {
	s := open(t, etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client())
	err := s.Commit(t.Context(), cnm.Write{Key: key("a"), Value: make([]byte, 8<<20)})
	if !errors.Is(err, cnm.ErrInvalid) || errors.Is(err, cnm.ErrUnavailable) {
		t.Errorf("a value of 8 MiB: %v", err)
	}
}

func TestLease(t *testing.T) {
	c := etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client()
	s := open(t, c)
	grant, err := c.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	view := s.WithLease(int64(grant.ID))
	create(t, s, key("stays"))
	create(t, s, key("becomes leased"))
	create(t, view, key("leased"))
	r, err := view.Get(t.Context(), key("becomes leased"))
	if err != nil {
		t.Fatal(err)
	}
	if err := view.Commit(t.Context(), cnm.Write{Key: r.Key, Value: []byte("y"), Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
	ch := s.Watch(t.Context(), cnm.KindNetwork)
	if _, err := c.Revoke(t.Context(), grant.ID); err != nil {
		t.Fatal(err)
	}
	woken(t, "the end of a lease", ch)
	rs, err := s.List(t.Context(), cnm.KindNetwork)
	if err != nil || len(rs) != 1 || rs[0].Key.ID != "stays" {
		t.Errorf("after the end of the lease: %v, %v", rs, err)
	}
	err = view.Commit(t.Context(), cnm.Write{Key: key("late"), Value: []byte("x")})
	if !errors.Is(err, etcd.ErrLeaseGone) || !errors.Is(err, cnm.ErrUnavailable) {
		t.Errorf("a commit on a lease that is over: %v", err)
	}
}

func TestUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, dial(t, path))
	for name, call := range map[string]func(context.Context) error{
		"get":  func(ctx context.Context) error { _, err := s.Get(ctx, key("a")); return err },
		"list": func(ctx context.Context) error { _, err := s.List(ctx, cnm.KindNetwork); return err },
		"commit": func(ctx context.Context) error {
			return s.Commit(ctx,
				cnm.Write{Key: key("a"), Value: []byte("x")})
		},
	} {
		begin := time.Now()
		err := call(t.Context())
		if !errors.Is(err, cnm.ErrUnavailable) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", name, err)
		}
		t.Logf("%s after %v: %v", name, time.Since(begin), err)
		if d := time.Since(begin); d > 10*time.Second {
			t.Errorf("%s took %v", name, d)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		err = call(ctx)
		cancel()
		if !errors.Is(err, cnm.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s with little time: %v", name, err)
		}
	}
}

// TestWatchBeforeEtcd watches while nobody listens yet.
func TestWatchBeforeEtcd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	s := open(t, dial(t, path))
	ch := s.Watch(t.Context(), cnm.KindNetwork)
	etcdtest.Serve(t, embedded.Config{Dir: t.TempDir(), ClientURLs: []string{"unix://" + path}})
	woken(t, "etcd came", ch)
}

func TestWatchOfOthers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	dir := t.TempDir()
	cfg := embedded.Config{Dir: dir, ClientURLs: []string{"unix://" + path}}
	server := etcdtest.Serve(t, cfg)
	s := open(t, dial(t, path))
	ch, other := s.Watch(t.Context(), cnm.KindNetwork), s.Watch(t.Context(), cnm.KindEndpoint)
	create(t, open(t, server.Client()), key("a"))
	woken(t, "another node's commit", ch)

	// While this store cannot reach it, etcd changes and drops its history.
	etcdtest.Stop(t, server)
	server = etcdtest.Serve(t, embedded.Config{Dir: dir})
	hidden := etcd.New(server.Client(), "/vethloom")
	create(t, hidden, key("b"))
	r, err := server.Client().Get(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.Client().Compact(t.Context(), r.Header.Revision); err != nil {
		t.Fatal(err)
	}
	etcdtest.Stop(t, server)
	server = etcdtest.Serve(t, cfg)
	woken(t, "a change during a gap", ch)

	// Another etcd, whose revisions begin anew.
	etcdtest.Stop(t, server)
	cfg.Dir = t.TempDir()
	server = etcdtest.Serve(t, cfg)
	woken(t, "everything gone", ch)
	create(t, open(t, server.Client()), key("c"))
	woken(t, "a change in the new cluster", ch)
	select {
	case <-other:
		t.Error("a wake-up for a kind that never changed")
	default:
	}
}

func TestFollow(t *testing.T) {
	s := open(t, etcdtest.Serve(t, embedded.Config{Dir: t.TempDir()}).Client())
	create(t, s, key("a"))
	create(t, s, cnm.Key{Kind: cnm.KindImage, ID: "i"})
	for _, kinds := range [][]cnm.Kind{{cnm.KindNetwork}, {cnm.KindNetwork, cnm.KindVolume}} {
		ctx, cancel := context.WithCancel(t.Context())
		updates := make(chan etcd.Update, 10)
		done := make(chan error, 1)
		go func() {
			done <- s.Follow(ctx, kinds, func(u etcd.Update) error { updates <- u; return nil })
		}()
		first := <-updates
		if !first.Whole || len(first.Changes) != 1 || first.Changes[0].Key != key("a") || first.Changes[0].Old != nil {
			t.Errorf("first: %+v", first)
		}
		r, err := s.Get(t.Context(), key("a"))
		if err != nil {
			t.Fatal(err)
		}
		create(t, s, cnm.Key{Kind: cnm.KindImage, ID: fmt.Sprint(len(kinds))})
		if err := s.Commit(t.Context(), cnm.Write{Key: key("a"), Value: []byte("new"),
			Revision: r.Revision}); err != nil {
			t.Fatal(err)
		}
		next := <-updates
		if next.Whole || len(next.Changes) != 1 || string(next.Changes[0].New.Value) != "new" ||
			next.Changes[0].Old.Revision != r.Revision {
			t.Errorf("next: %+v", next)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow ended with %v", err)
		}
	}
}
