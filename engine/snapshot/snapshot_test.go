package snapshot_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/snapshot"
)

// must fails the test for any error.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o644))
}

// layersOf makes layers: each has a file of its own, changes a common one,
// hides the file of the layer before with a whiteout, and replaces a directory.
func layersOf(t *testing.T, root string, n int) []string {
	t.Helper()
	var dirs []string
	for i := range n {
		dir := filepath.Join(root, "layers", strings.Repeat(fmt.Sprintf("%04x", i), 16), "fs")
		write(t, filepath.Join(dir, fmt.Sprintf("own-%d", i)), "own")
		write(t, filepath.Join(dir, "common"), fmt.Sprint(i))
		write(t, filepath.Join(dir, "opaque", fmt.Sprintf("in-%d", i)), "in")
		write(t, filepath.Join(dir, "merged", fmt.Sprintf("in-%d", i)), "in")
		if i > 0 {
			must(t, unix.Mknod(filepath.Join(dir, fmt.Sprintf("own-%d", i-1)), unix.S_IFCHR, 0))
			must(t, unix.Setxattr(filepath.Join(dir, "opaque"), "trusted.overlay.opaque", []byte("y"), 0))
		}
		must(t, os.Chmod(dir, 0o751))
		dirs = append(dirs, dir)
	}
	return dirs
}

// mount performs mounts that crossed a process border as JSON, and undoes
// them with the test.
func mount(t *testing.T, mounts []snapshot.Mount) string {
	t.Helper()
	b, err := json.Marshal(mounts)
	must(t, err)
	var received []snapshot.Mount
	must(t, json.Unmarshal(b, &received))
	for _, m := range received {
		if err := m.Do(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(m.Target, 0); err != nil {
				t.Errorf("unmount %s: %v", m.Target, err)
			}
		})
	}
	return received[len(received)-1].Target
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

// roots are a plain one, and one with all that overlayfs splits options at.
var roots = map[string]string{"plain": "state", "odd": `st:a,t\e x`}

func TestPrepareMounts(t *testing.T) {
	for name, sub := range roots {
		for _, n := range []int{1, 2, 130, 140, 499} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				root := filepath.Join(t.TempDir(), sub)
				lower := layersOf(t, root, n)
				s, err := snapshot.Open(filepath.Join(root, "snapshots"))
				must(t, err)
				id := strings.Repeat("ab", 32)
				mounts, err := s.Prepare(t.Context(), id, lower)
				must(t, err)
				again, err := s.Prepare(t.Context(), id, lower)
				must(t, err)
				if diff := cmp.Diff(mounts, again); diff != "" {
					t.Errorf("preparing twice differs: %s", diff)
				}
				merged := mount(t, mounts)
				last := n - 1
				if diff := cmp.Diff([]string{"common", "dev", "etc", "merged", "opaque", fmt.Sprintf("own-%d", last),
					"proc", "sys"}, names(t, merged)); diff != "" {
					t.Error(diff)
				}
				if diff := cmp.Diff([]string{fmt.Sprintf("in-%d", last)},
					names(t, filepath.Join(merged, "opaque"))); diff != "" {
					t.Error(diff)
				}
				if got := len(names(t, filepath.Join(merged, "merged"))); got != n {
					t.Errorf("%d files merged, want %d", got, n)
				}
				if got, err := os.ReadFile(filepath.Join(merged, "common")); err != nil ||
					string(got) != fmt.Sprint(last) {
					t.Errorf("common = %q, %v, want that of the top layer", got, err)
				}
				if st, err := os.Stat(merged); err != nil || st.Mode().Perm() != 0o751 {
					t.Errorf("root directory: %v, %v, want mode 751 as in the image", st.Mode(), err)
				}
				must(t, os.Remove(filepath.Join(merged, "common")))
				must(t, os.Rename(filepath.Join(merged, "opaque", fmt.Sprintf("in-%d", last)),
					filepath.Join(merged, "moved")))
				write(t, filepath.Join(merged, "new", "file"), "new")
				if got, err := os.ReadFile(filepath.Join(lower[last], "common")); err != nil ||
					string(got) != fmt.Sprint(last) {
					t.Errorf("the layer changed: %q, %v", got, err)
				}
				upper, err := s.Upper(id)
				must(t, err)
				if diff := cmp.Diff([]string{"common", "moved", "new", "opaque"}, names(t, upper)); diff != "" {
					t.Error(diff)
				}
			})
		}
	}
}

func TestPrepareKeepsWhatWasWritten(t *testing.T) {
	root := t.TempDir()
	lower := layersOf(t, root, 2)
	s, err := snapshot.Open(filepath.Join(root, "snapshots"))
	must(t, err)
	for round := range 2 {
		mounts, err := s.Prepare(t.Context(), "c1", lower)
		must(t, err)
		for _, m := range mounts {
			must(t, m.Do())
		}
		target := mounts[len(mounts)-1].Target
		if round == 1 {
			if got, err := os.ReadFile(filepath.Join(target, "kept")); err != nil || string(got) != "kept" {
				t.Errorf("after another start: %q, %v", got, err)
			}
		}
		write(t, filepath.Join(target, "kept"), "kept")
		must(t, unix.Unmount(target, 0))
	}
}

func TestViewCannotBeWritten(t *testing.T) {
	for name, sub := range roots {
		for _, n := range []int{0, 1, 130, 499} {
			t.Run(fmt.Sprintf("%s/%d", name, n), func(t *testing.T) {
				root := filepath.Join(t.TempDir(), sub)
				s, err := snapshot.Open(filepath.Join(root, "snapshots"))
				must(t, err)
				mounts, err := s.View(t.Context(), "v", layersOf(t, root, n))
				must(t, err)
				merged := mount(t, mounts)
				if n > 0 {
					if got, err := os.ReadFile(filepath.Join(merged, "common")); err != nil ||
						string(got) != fmt.Sprint(n-1) {
						t.Errorf("common = %q, %v", got, err)
					}
				}
				if err := os.WriteFile(filepath.Join(merged, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
					t.Errorf("write: %v, want EROFS", err)
				}
			})
		}
	}
}

func TestImageWithoutLayers(t *testing.T) {
	for name, sub := range roots {
		t.Run(name, func(t *testing.T) {
			s, err := snapshot.Open(filepath.Join(t.TempDir(), sub))
			must(t, err)
			mounts, err := s.Prepare(t.Context(), "scratch", nil)
			must(t, err)
			merged := mount(t, mounts)
			write(t, filepath.Join(merged, "file"), "x")
		})
	}
}

func TestUsageAndRemove(t *testing.T) {
	root := t.TempDir()
	s, err := snapshot.Open(filepath.Join(root, "snapshots"))
	must(t, err)
	_, err = s.Prepare(t.Context(), "c", layersOf(t, root, 1))
	must(t, err)
	before, err := s.Usage(t.Context(), "c")
	must(t, err)
	upper, err := s.Upper("c")
	must(t, err)
	write(t, filepath.Join(upper, "big"), strings.Repeat("x", 1<<20))
	must(t, os.Link(filepath.Join(upper, "big"), filepath.Join(upper, "link")))
	after, err := s.Usage(t.Context(), "c")
	must(t, err)
	if grown := after.Bytes - before.Bytes; grown < 1<<20 || grown > 1<<20+64<<10 || after.Inodes != before.Inodes+1 {
		t.Errorf("usage went from %+v to %+v by a file of 1 MiB", before, after)
	}
	must(t, s.Remove(t.Context(), "c"))
	must(t, s.Remove(t.Context(), "c"))
	if diff := cmp.Diff([]string{".base"}, names(t, filepath.Join(root, "snapshots"))); diff != "" {
		t.Error(diff)
	}
	if _, err := s.Usage(t.Context(), "c"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("usage of a removed one: %v", err)
	}
}

func TestOpenFinishesRemovals(t *testing.T) {
	root := t.TempDir()
	write(t, filepath.Join(root, ".gone-1", "snapshot", "rw", "upper", "file"), "x")
	write(t, filepath.Join(root, "kept", "rw", "upper", "file"), "x")
	_, err := snapshot.Open(root)
	must(t, err)
	if diff := cmp.Diff([]string{".base", "kept"}, names(t, root)); diff != "" {
		t.Error(diff)
	}
}

func TestRefuses(t *testing.T) {
	s, err := snapshot.Open(t.TempDir())
	must(t, err)
	for _, id := range []string{"", ".", "..", "a/b", ".gone-x", ".base", "../x", strings.Repeat("a", 129)} {
		if _, err := s.Prepare(t.Context(), id, nil); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("prepare %q: %v, want ErrInvalid", id, err)
		}
		if err := s.Remove(t.Context(), id); !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("remove %q: %v, want ErrInvalid", id, err)
		}
	}
	if _, err := s.Prepare(t.Context(), "x", []string{"/not/there"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing layer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Prepare(ctx, "x", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	bad := snapshot.Mount{Type: "overlay", Source: "overlay", Target: "/not/there",
		Options: []string{"lowerdir=" + strings.Repeat("x", 5000)}}
	if err := bad.Do(); err == nil || !strings.Contains(err.Error(), "fewer layers") {
		t.Errorf("too many options: %v", err)
	}
}

func BenchmarkPrepare(b *testing.B) {
	root := b.TempDir()
	s, err := snapshot.Open(root)
	if err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		if _, err := s.Prepare(b.Context(), fmt.Sprintf("c%d", i), []string{root, root}); err != nil {
			b.Fatal(err)
		}
	}
}
