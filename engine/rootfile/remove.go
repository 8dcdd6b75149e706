package rootfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveTree removes a directory with all that is in it, or what else the path is. What is not there is no error.
//
// A container, or an archive, can nest directories without end. [os.RemoveAll] holds a descriptor open for each level:
// so it fails on such a tree, after it has used up those of the whole process. Here directories that are not empty are
// moved to the top of the tree first: three descriptors do, whatever the depth.
func RemoveTree(path string) error { return RemoveTreeAt(unix.AT_FDCWD, path) }

// RemoveTreeAt is [RemoveTree] of a name in an open directory.
func RemoveTreeAt(dir int, name string) error {
	err := removeTree(dir, name)
	if err != nil {
		return fmt.Errorf("remove the tree %s: %w", name, err)
	}
	return nil
}

func removeTree(dir int, name string) error {
	if done, err := remove(dir, name); done || err != nil {
		return err
	}
	top, err := openDir(dir, name)
	if err != nil {
		return err
	}
	defer top.Close()
	t := &tree{top: int(top.Fd())}
	if err := t.empty(top, t.directory); err != nil {
		return err
	}
	return rmdir(dir, name)
}

// tree is one that is being removed.
type tree struct {
	top   int
	moved int // names given to directories moved there
}

// directory removes one that is in the top.
func (t *tree) directory(at int, name string) error {
	dir, err := openDir(at, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := t.empty(dir, t.lift); err != nil {
		return err
	}
	return rmdir(at, name)
}

// lift moves a directory to the top.
func (t *tree) lift(at int, name string) error {
	for {
		t.moved++
		err := unix.Renameat2(at, name, t.top, strconv.Itoa(t.moved), unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
	}
}

// batch is how many names are read at once.
const batch = 1024

// empty removes what is in a directory; those in it that are not empty are left to a function.
func (t *tree) empty(dir *os.File, directory func(at int, name string) error) error {
	for {
		// From the start each time: what is read of a directory while it changes is not told.
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, err := dir.Readdirnames(batch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		for _, name := range names {
			done, err := remove(int(dir.Fd()), name)
			if err == nil && !done {
				err = directory(int(dir.Fd()), name)
			}
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
}

// remove removes what is no directory, or an empty one.
func remove(dir int, name string) (done bool, err error) {
	err = unix.Unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) { // the second is POSIX's word for a directory
		if again := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR); !errors.Is(again, unix.ENOTDIR) {
			err = again
		}
	}
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
		return false, nil
	}
	return false, err
}

func rmdir(dir int, name string) error {
	err := unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func openDir(dir int, name string) (*os.File, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
