package pack_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/image/pack"
	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/snapshot"
)

// tester is of tests, and of properties.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
	Errorf(format string, args ...any)
}

func must(t tester, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mount shows layers, bottom first, with an upper directory when that is not empty.
func mount(t tester, at string, lowers []string, upper, work string) (unmount func()) {
	t.Helper()
	m := snapshot.Mount{Type: "overlay", Source: "overlay", Target: at, Options: []string{"index=off", "metacopy=off",
		"redirect_dir=nofollow"}}
	for _, dir := range slices.Backward(lowers) {
		m.Options = append(m.Options, "lowerdir+="+dir)
	}
	if upper == "" {
		m.Options = append(m.Options, "ro")
	} else {
		// Volatile: the end of a mount does not wait for the disk, on which others may write.
		m.Options = append(m.Options, "upperdir="+upper, "workdir="+work, "volatile")
	}
	must(t, m.Do())
	return func() {
		t.Helper()
		must(t, unix.Unmount(at, 0))
	}
}

// about is what is known of a file, and which other names it has.
type about struct {
	mode, uid, gid uint32
	mtime          unix.Timespec
	size           int64
	text           string // its target, or the digest of its content
	xattrs         string
	first          string // the first name of the same file
}

func (a about) isDir() bool { return a.mode&unix.S_IFMT == unix.S_IFDIR }

// look describes a tree by the paths of what is in it. The time of the root is left out.
func look(t tester, root string) map[string]about {
	t.Helper()
	out := map[string]about{}
	firsts := map[[2]uint64]string{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		a := about{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: st.Mtim, xattrs: xattrs(t, path)}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			a.size, a.text = st.Size, fmt.Sprintf("%x", sha256.Sum256(b))
		case unix.S_IFLNK:
			if a.text, err = os.Readlink(path); err != nil {
				return err
			}
		}
		if rel == "." {
			a.mtime = unix.Timespec{}
		}
		id := [2]uint64{st.Dev, st.Ino}
		if _, ok := firsts[id]; !ok {
			firsts[id] = rel
		}
		if !a.isDir() {
			a.first = firsts[id]
		}
		out[rel] = a
		return nil
	})
	must(t, err)
	return out
}

func xattrs(t tester, path string) string {
	t.Helper()
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	var out []string
	for name := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		value := make([]byte, 1<<16)
		size, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		out = append(out, fmt.Sprintf("%q=%q", name, value[:size]))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// differ says where two trees differ.
func differ(want, got map[string]about) string {
	var out []string
	for name, w := range want {
		if g, ok := got[name]; !ok {
			out = append(out, fmt.Sprintf("-%q %+v", name, w))
		} else if g != w {
			out = append(out, fmt.Sprintf("-%q %+v\n+%q %+v", name, w, name, g))
		}
	}
	for name, g := range got {
		if _, ok := want[name]; !ok {
			out = append(out, fmt.Sprintf("+%q %+v", name, g))
		}
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}

// scratch is a directory of its own for each try of a property.
func scratch(t *testing.T) func(t tester, try func(dir string)) {
	top, n := t.TempDir(), 0
	return func(t tester, try func(dir string)) {
		n++
		dir := filepath.Join(top, fmt.Sprint(n))
		must(t, os.Mkdir(dir, 0o755))
		defer func() {
			// What a failed try left mounted goes too.
			for _, sub := range []string{"merged", "again"} {
				if err := unix.Unmount(filepath.Join(dir, sub), unix.MNT_DETACH); err != nil &&
					!errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
					t.Errorf("unmount: %v", err)
				}
			}
			must(t, rootfile.RemoveTree(dir))
		}()
		try(dir)
	}
}

func mkdir(t tester, parts ...string) string {
	t.Helper()
	dir := filepath.Join(parts...)
	must(t, os.Mkdir(dir, 0o755))
	must(t, os.Chmod(dir, 0o755))
	return dir
}

func text(c pack.Change) string { return c.Kind.String() + " " + c.Path }
