package snapshot_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/snapshot"
)

// mountsOfThisProcess are those that merging could leave: others of the host come and go meanwhile.
func mountsOfThisProcess(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	var ours strings.Builder
	for line := range strings.Lines(string(b)) {
		for _, mark := range []string{" - overlay ", "vethloom-empty-", t.Name()} {
			if strings.Contains(line, mark) {
				ours.WriteString(line)
				break
			}
		}
	}
	return ours.String()
}

// What is merged is as in a container, is read-only, and is no mount that anybody sees.
func TestMerged(t *testing.T) {
	before := mountsOfThisProcess(t)
	for name, sub := range roots {
		for _, n := range []int{1, 2, 100, 500} {
			layers := layersOf(t, filepath.Join(t.TempDir(), sub, strings.Repeat("long/", 60)), n)
			m, err := snapshot.OpenMerged(layers)
			must(t, err)
			checkMerged(t, fmt.Sprintf("%s/%d", name, n), int(m.Fd()), n)
			must(t, m.Close())
		}
	}
	if diff := cmp.Diff(before, mountsOfThisProcess(t)); diff != "" {
		t.Errorf("mounts differ: %s", diff)
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "vethloom-empty-*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Kernels before 6.8 have the other way.
func TestMergedBothWays(t *testing.T) {
	before := mountsOfThisProcess(t)
	layers := layersOf(t, filepath.Join(t.TempDir(), roots["odd"]), 100)
	for name, merge := range map[string]func([]string) (int, error){"detached": snapshot.MergeDetached,
		"aside": snapshot.MergeAside} {
		fd, err := merge(layers)
		must(t, err)
		checkMerged(t, name, fd, len(layers))
		must(t, unix.Close(fd))
	}
	if diff := cmp.Diff(before, mountsOfThisProcess(t)); diff != "" {
		t.Errorf("mounts differ: %s", diff)
	}
}

func checkMerged(t *testing.T, name string, fd, n int) {
	t.Helper()
	root := fmt.Sprintf("/proc/self/fd/%d/", fd)
	want := []string{"common", "merged", "opaque", fmt.Sprintf("own-%d", n-1)}
	if diff := cmp.Diff(want, names(t, root)); diff != "" {
		t.Errorf("%s: %s", name, diff)
	}
	if got := len(names(t, root+"merged")); got != n {
		t.Errorf("%s: %d files merged, want %d", name, got, n)
	}
	if got := len(names(t, root+"opaque")); got != 1 {
		t.Errorf("%s: %d files in an opaque directory", name, got)
	}
	if b, err := os.ReadFile(root + "common"); err != nil || string(b) != fmt.Sprint(n-1) {
		t.Errorf("%s: common is %q, %v", name, b, err)
	}
	if err := os.WriteFile(root+"new", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("%s: write: %v, want EROFS", name, err)
	}
}

func TestMergedRefuses(t *testing.T) {
	for _, layers := range [][]string{nil, {"/not/there"}, {t.TempDir(), "/not/there"}} {
		if m, err := snapshot.OpenMerged(layers); err == nil {
			t.Errorf("%v: no error", layers)
			must(t, m.Close())
		}
	}
	m, err := snapshot.OpenMerged(layersOf(t, t.TempDir(), 501))
	if err == nil {
		must(t, m.Close())
	}
	if err == nil || !strings.Contains(err.Error(), "merge 501 layers") {
		t.Errorf("more layers than overlayfs takes: %v", err)
	}
}
