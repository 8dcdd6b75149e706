package snapshot_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/snapshot"
)

// Programs that list mounts read /etc/mtab, which images leave to the runtime.
func TestMtab(t *testing.T) {
	link := func(t *testing.T, path, target string) {
		t.Helper()
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.Symlink(target, path))
	}
	const ours = "/proc/mounts"
	cases := map[string]struct {
		image func(t *testing.T, layer string)
		want  string // "": none
		at    string // where to look; "": etc/mtab
	}{
		"no such file": {func(t *testing.T, l string) { write(t, filepath.Join(l, "etc/passwd"), "x") }, ours, ""},
		"no /etc":      {func(t *testing.T, l string) { write(t, filepath.Join(l, "bin/sh"), "x") }, ours, ""},
		"its own link": {func(t *testing.T, l string) { link(t, filepath.Join(l, "etc/mtab"), "/elsewhere") },
			"/elsewhere", ""},
		"removed by the image": {func(t *testing.T, l string) {
			must(t, os.Mkdir(filepath.Join(l, "etc"), 0o755))
			must(t, unix.Mknod(filepath.Join(l, "etc/mtab"), unix.S_IFCHR, 0))
		}, "", ""},
		"an /etc that leads elsewhere": {func(t *testing.T, l string) {
			link(t, filepath.Join(l, "etc"), "/usr/etc")
			must(t, os.MkdirAll(filepath.Join(l, "usr/etc"), 0o755))
		}, "", "usr/etc/mtab"},
		"an /etc that is a file": {func(t *testing.T, l string) { write(t, filepath.Join(l, "etc"), "x") }, "", "etc"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			layer := filepath.Join(root, "layer")
			must(t, os.Mkdir(layer, 0o755))
			c.image(t, layer)
			s, err := snapshot.Open(filepath.Join(root, "snapshots"))
			must(t, err)
			mounts, err := s.Prepare(t.Context(), "c", []string{layer})
			must(t, err)
			at := c.at
			if at == "" {
				at = "etc/mtab"
			}
			got, err := os.Readlink(filepath.Join(mount(t, mounts), at))
			if got != c.want || c.want == "" && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
				t.Errorf("%s leads to %q, %v, want %q", at, got, err, c.want)
			}
			upper, err := s.Upper("c")
			must(t, err)
			if left := names(t, upper); len(left) > 0 {
				t.Errorf("it counts as written by the container: %v", left)
			}
		})
	}
}

func TestOpenAgainKeepsTheLowestLayer(t *testing.T) {
	root := t.TempDir()
	for range 2 {
		_, err := snapshot.Open(root)
		must(t, err)
	}
	if got, err := os.Readlink(filepath.Join(root, ".base/etc/mtab")); err != nil || got != "/proc/mounts" {
		t.Errorf("%q, %v", got, err)
	}
}

// The root directory is like that of the topmost layer that says what it is like.
func TestRootDirectory(t *testing.T) {
	s, err := snapshot.Open(t.TempDir())
	must(t, err)
	said, silent := t.TempDir(), t.TempDir()
	must(t, os.Chmod(said, 0o750))
	must(t, unix.Setxattr(said, snapshot.RootMark, []byte("y"), 0))
	must(t, os.Chmod(silent, 0o755))
	for name, c := range map[string]struct {
		lower []string
		want  os.FileMode
	}{
		"said below":     {[]string{said, silent}, 0o750},
		"said by no one": {[]string{silent}, 0o755},
	} {
		id := strings.ReplaceAll(name, " ", "-")
		_, err := s.Prepare(t.Context(), id, c.lower)
		must(t, err)
		upper, err := s.Upper(id)
		must(t, err)
		st, err := os.Stat(upper)
		must(t, err)
		if st.Mode().Perm() != c.want {
			t.Errorf("%s: the root has the mode %o, want %o", name, st.Mode().Perm(), c.want)
		}
	}
}
