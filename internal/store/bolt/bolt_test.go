package bolt_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/storetest"
	"github.com/vethloom/vethloom/internal/store/bolt"
)

// child names what a copy of the test binary does instead of testing.
const child = "BOLT_TEST_CHILD"

func TestMain(m *testing.M) {
	switch os.Getenv(child) {
	case "full disk":
		exit(fullDisk(os.Args[len(os.Args)-1]))
	case "writer":
		exit(write(os.Args[len(os.Args)-1]))
	}
	goleak.VerifyTestMain(m)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func config(dir string) bolt.Config {
	return bolt.Config{
		StateFile: filepath.Join(dir, "root", "state.db"), RuntimeFile: filepath.Join(dir, "run", "runtime.db"),
		BootID: "boot-1", LockTimeout: 100 * time.Millisecond, CopyDelay: time.Hour,
		Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
	}
}

// open opens a store that is closed with the test.
func open(t testing.TB, c bolt.Config) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *bolt.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

var (
	durable = cnm.Key{Kind: cnm.KindNetwork, ID: "n"}
	runtime = cnm.Key{Kind: cnm.KindEndpoint, ID: "e"}
)

func put(t testing.TB, s cnm.Store, k cnm.Key, value string) {
	t.Helper()
	r, err := s.Get(context.Background(), k)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		t.Fatal(err)
	}
	if err := s.Commit(context.Background(), cnm.Write{Key: k, Value: []byte(value),
		Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
}

// value is what a record holds; "" when there is none.
func value(t testing.TB, s cnm.Store, k cnm.Key) string {
	t.Helper()
	r, err := s.Get(context.Background(), k)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		t.Fatal(err)
	}
	return string(r.Value)
}

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) cnm.Store { return open(t, config(t.TempDir())) })
}

func TestReopen(t *testing.T) {
	storetest.RunReopen(t, func(t *testing.T) func() (cnm.Store, func() error) {
		c := config(t.TempDir())
		return func() (cnm.Store, func() error) {
			s, err := bolt.Open(context.Background(), c)
			if err != nil {
				t.Fatal(err)
			}
			if n := s.Notices(); len(n) > 0 {
				t.Errorf("notices %q", n)
			}
			return s, s.Close
		}
	})
}

func TestRebootForgetsWhatIsGone(t *testing.T) {
	c := config(t.TempDir())
	s := open(t, c)
	put(t, s, durable, "stays")
	put(t, s, runtime, "goes")
	closeStore(t, s)
	c.BootID = "boot-2"
	s = open(t, c)
	if got := value(t, s, durable) + value(t, s, runtime); got != "stays" {
		t.Errorf("after a reboot the store holds %q", got)
	}
	if n := s.Notices(); len(n) > 0 {
		t.Errorf("a reboot is no damage: %q", n)
	}
	put(t, s, runtime, "new")
	closeStore(t, s)
	if got := value(t, open(t, c), runtime); got != "new" {
		t.Errorf("after a restart in the same boot the store holds %q", got)
	}
}

func TestSecondDaemonIsToldWhere(t *testing.T) {
	c := config(t.TempDir())
	s := open(t, c)
	put(t, s, durable, "x")
	_, err := bolt.Open(t.Context(), c)
	if err == nil || !strings.Contains(err.Error(), filepath.Dir(c.StateFile)) ||
		!strings.Contains(err.Error(), "another netd") {
		t.Errorf("error %v", err)
	}
	other := c
	other.StateFile = filepath.Join(t.TempDir(), "state.db")
	if _, err := bolt.Open(t.Context(), other); err == nil ||
		!strings.Contains(err.Error(), filepath.Dir(c.RuntimeFile)) {
		t.Errorf("the same run directory: error %v", err)
	}
	closeStore(t, s)
	open(t, c)
}

func TestClosedStore(t *testing.T) {
	s := open(t, config(t.TempDir()))
	closeStore(t, s)
	if err := s.Commit(t.Context(), cnm.Write{Key: durable, Value: []byte("x")}); err == nil ||
		!strings.Contains(err.Error(), "closed") {
		t.Errorf("commit: %v", err)
	}
	if _, err := s.Get(t.Context(), durable); err == nil {
		t.Error("get works on a closed store")
	}
	closeStore(t, s)
}

func TestNewerFormatIsRefused(t *testing.T) {
	c := config(t.TempDir())
	closeStore(t, open(t, c))
	edit(t, c.StateFile, func(b []byte) []byte {
		i := strings.LastIndex(string(b), "format1")
		b[i+len("format")] = '9'
		return b
	})
	if _, err := bolt.Open(t.Context(), c); err == nil || !strings.Contains(err.Error(), `"9"`) {
		t.Errorf("error %v", err)
	}
}

// TestGroupCommit checks that parallel commits of durable records share flushes:
// otherwise a hundred of them would take a hundred times one.
func TestGroupCommit(t *testing.T) {
	s := open(t, config(t.TempDir()))
	const n = 200
	var wg sync.WaitGroup
	errs := make(chan error, n)
	for i := range n {
		wg.Go(func() {
			errs <- s.Commit(t.Context(), cnm.Write{Key: cnm.Key{Kind: cnm.KindNetwork, ID: fmt.Sprint(i)},
				Value: []byte("x")})
		})
	}
	wg.Wait()
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	rs, err := s.List(t.Context(), cnm.KindNetwork)
	if err != nil || len(rs) != n {
		t.Fatalf("%d records, %v", len(rs), err)
	}
	revisions := map[uint64]bool{}
	for _, r := range rs {
		revisions[r.Revision] = true
	}
	if len(revisions) != n {
		t.Errorf("%d commits have %d revisions", n, len(revisions))
	}
}

func edit(t testing.TB, path string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, k := range []cnm.Kind{cnm.KindNetwork, cnm.KindEndpoint} {
		for _, parallel := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", k, parallel), func(b *testing.B) {
				s := open(b, config(b.TempDir()))
				benchmarkCommit(b, s, k, parallel)
			})
		}
	}
}

// benchmarkCommit creates and removes a record of the size of an endpoint among
// a thousand others.
func benchmarkCommit(b *testing.B, s cnm.Store, kind cnm.Kind, parallel int) {
	v := make([]byte, 400)
	var writes []cnm.Write
	for i := range 1000 {
		writes = append(writes, cnm.Write{Key: cnm.Key{Kind: kind, ID: fmt.Sprintf("old%04d", i)}, Value: v})
	}
	if err := s.Commit(context.Background(), writes...); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range parallel {
		wg.Go(func() {
			for i := w; i < b.N; i += parallel {
				k := cnm.Key{Kind: kind, ID: fmt.Sprintf("%08d", i)}
				if err := s.Commit(context.Background(), cnm.Write{Key: k, Value: v}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkGet(b *testing.B) {
	s := open(b, config(b.TempDir()))
	put(b, s, runtime, strings.Repeat("x", 400))
	for b.Loop() {
		if _, err := s.Get(context.Background(), runtime); err != nil {
			b.Fatal(err)
		}
	}
}
