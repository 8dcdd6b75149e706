package rootfile_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// nest makes directories in one another, which no path is long enough to name, with a file in each.
func nest(t *testing.T, dir string, depth int) {
	t.Helper()
	at, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for i := 0; err == nil && i < depth; i++ {
		var file, below int
		if file, err = unix.Openat(at, "file", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600); err != nil {
			break
		}
		unix.Close(file)
		name := "1" // one that a directory at the top has
		if err = unix.Mkdirat(at, name, 0o700); err != nil {
			break
		}
		if below, err = unix.Openat(at, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
			unix.Close(at)
			at = below
		}
	}
	if err = errors.Join(err, unix.Close(at)); err != nil {
		t.Fatal(err)
	}
}

func TestRemoveTreeWithoutEnd(t *testing.T) {
	top := filepath.Join(t.TempDir(), "top")
	for _, dir := range []string{"a", "b", "1"} {
		if err := os.MkdirAll(filepath.Join(top, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		nest(t, filepath.Join(top, dir), 3000)
	}
	for i := range 3000 { // more than are read at once
		write(t, filepath.Join(top, "b", fmt.Sprint("f", i)), "x")
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	few := unix.Rlimit{Cur: 64, Max: before.Max}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	err := rootfile.RemoveTree(top)
	if limitErr := unix.Setrlimit(unix.RLIMIT_NOFILE, &before); limitErr != nil {
		t.Fatal(limitErr)
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(top); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
}

func TestRemoveTreeFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "kept/file"), "x")
	write(t, filepath.Join(dir, "tree/sub/file"), "x")
	link(t, filepath.Join(dir, "kept"), filepath.Join(dir, "tree/sub/link"))
	link(t, filepath.Join(dir, "kept"), filepath.Join(dir, "link"))
	for _, name := range []string{"tree", "link", "none", "none/below"} {
		if err := rootfile.RemoveTree(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 || left[0].Name() != "kept" {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "kept/file")); err != nil {
		t.Error(err)
	}
}
