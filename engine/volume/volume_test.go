package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/store/mem"
)

func open(t *testing.T, root string, s cnm.Store) *volume.Volumes {
	t.Helper()
	v, err := volume.Open(root, s)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestVolumesLive(t *testing.T) {
	root, records := t.TempDir(), mem.New()
	v := open(t, root, records)
	made, fresh, err := v.Ensure(t.Context(), volume.Request{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil || !fresh {
		t.Fatalf("fresh = %v, %v", fresh, err)
	}
	file := filepath.Join(made.Path, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	v = open(t, root, records)
	got, fresh, err := v.Ensure(t.Context(), volume.Request{Name: "data"})
	if err != nil || fresh || got.Path != made.Path || got.Labels["a"] != "b" || !got.Created.Equal(made.Created) {
		t.Errorf("again: %+v, fresh %v, %v", got, fresh, err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "kept" {
		t.Errorf("content: %q, %v", b, err)
	}
	used := func(string) []string { return []string{"web"} }
	if err := v.Remove(t.Context(), "data", used); !errors.Is(err, cnm.ErrInUse) ||
		!strings.Contains(err.Error(), "web") {
		t.Errorf("remove in use: %v", err)
	}
	if err := v.Remove(t.Context(), "data", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Get(t.Context(), "data"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("get after remove: %v", err)
	}
	if err := v.Remove(t.Context(), "data", nil); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("remove twice: %v", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestVolumeNames(t *testing.T) {
	v := open(t, t.TempDir(), mem.New())
	for _, name := range []string{"", ".", "..", "a/b", "/a", "-a", ".gone-1", "a b", "ä", strings.Repeat("a", 129)} {
		if _, _, err := v.Ensure(t.Context(), volume.Request{Name: name}); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%q: %v, want ErrInvalid", name, err)
		}
	}
	for _, name := range []string{"a", "0", "A.b_c-d", strings.Repeat("a", 128)} {
		if _, _, err := v.Ensure(t.Context(), volume.Request{Name: name}); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestPrune(t *testing.T) {
	v := open(t, t.TempDir(), mem.New())
	for _, name := range []string{"c", "a", "b"} {
		if _, _, err := v.Ensure(t.Context(), volume.Request{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := v.Prune(t.Context(), func(name string) []string {
		if name == "b" {
			return []string{"web"}
		}
		return nil
	})
	if diff := cmp.Diff([]string{"a", "c"}, gone); diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	left, err := v.List(t.Context())
	if err != nil || len(left) != 1 || left[0].Name != "b" {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestEnsureAtOnce(t *testing.T) {
	v := open(t, t.TempDir(), mem.New())
	var made atomic.Int32
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			vol, fresh, err := v.Ensure(t.Context(), volume.Request{Name: "data"})
			if err != nil {
				t.Error(err)
				return
			}
			if fresh {
				made.Add(1)
			}
			if _, err := os.Stat(vol.Path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if made.Load() != 1 {
		t.Errorf("made %d times", made.Load())
	}
}

// refusing takes the first writes only.
type refusing struct {
	cnm.Store
	left int
}

func (r *refusing) Commit(ctx context.Context, w ...cnm.Write) error {
	if r.left--; r.left < 0 {
		return errors.New("disk on fire")
	}
	return r.Store.Commit(ctx, w...)
}

func TestFailedRemovalKeepsTheData(t *testing.T) {
	v := open(t, t.TempDir(), &refusing{Store: mem.New(), left: 1})
	vol, _, err := v.Ensure(t.Context(), volume.Request{Name: "data"})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(vol.Path, "file")
	if err := os.WriteFile(file, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := v.Remove(t.Context(), "data", nil); err == nil {
		t.Fatal("removed without a record of it")
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "kept" {
		t.Errorf("content: %q, %v", b, err)
	}
}

func TestOpenFinishesRemovals(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, ".gone-1", "data", "_data"), 0o755); err != nil {
		t.Fatal(err)
	}
	open(t, root, mem.New())
	if left, err := os.ReadDir(root); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestOptions(t *testing.T) {
	v := open(t, t.TempDir(), mem.New())
	bind := map[string]string{"type": "none", "o": "ro,bind", "device": "/srv"}
	for name, options := range map[string]map[string]string{
		"opt foo":    {"foo": "bar"},
		"opt size":   {"size": "1g"},
		"opt type":   {"type": "nfs"},
		"opt o":      {"o": "bind"},
		"opt device": {"type": "none", "o": "bind", "device": "srv"},
	} {
		_, _, err := v.Ensure(t.Context(), volume.Request{Name: "bad", Options: options})
		if !errors.Is(err, cnm.ErrInvalid) || !strings.HasPrefix(err.Error(), name+" ") {
			t.Errorf("%v: %v, want %s", options, err, name)
		}
	}
	_, _, err := v.Ensure(t.Context(), volume.Request{Name: "bad", Driver: "cloud"})
	if !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("a driver that is not there: %v", err)
	}
	if _, err := v.Get(t.Context(), "bad"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("made all the same: %v", err)
	}
	for want, r := range map[error]volume.Request{
		nil:           {Name: "good", Options: bind},
		cnm.ErrExists: {Name: "good", Options: map[string]string{"type": "tmpfs", "device": "x"}},
	} {
		local := volume.Request{Name: "good", Driver: "local", Options: bind}
		if _, _, err := v.Ensure(t.Context(), local); err != nil {
			t.Fatal(err)
		}
		if _, _, err := v.Ensure(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("again with %v: %v, want %v", r.Options, err, want)
		}
	}
	got, fresh, err := v.Ensure(t.Context(), volume.Request{Name: "good"})
	if err != nil || fresh || got.Options["o"] != "ro,bind" {
		t.Errorf("what is left open: %+v, %v, %v", got, fresh, err)
	}
}
