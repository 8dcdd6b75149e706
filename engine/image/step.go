package image

import (
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// disk makes changes below a directory, each of which is a step: see [Config.Step].
type disk struct {
	root      string
	steps     func(change string) error
	movedAway int // how many times
}

// tmp is where what is half-done is.
func (d *disk) tmp() string { return filepath.Join(d.root, "tmp") }

// step is called before a change.
func (d *disk) step(change string) error {
	if d.steps == nil {
		return nil
	}
	return d.steps(change)
}

// makeDir makes a directory among what is half-done.
func (d *disk) makeDir(prefix string) (string, error) {
	if err := d.step("make directory " + prefix); err != nil {
		return "", err
	}
	return os.MkdirTemp(d.tmp(), prefix)
}

// makeFile makes a file in a directory among what is half-done.
func (d *disk) makeFile(dir, prefix string) (*os.File, error) {
	if err := d.step("make file " + prefix); err != nil {
		return nil, err
	}
	return os.CreateTemp(dir, prefix)
}

func (d *disk) rename(from, to string) error {
	if err := d.step("rename to " + to); err != nil {
		return err
	}
	return os.Rename(from, to)
}

// exchange has two directories change places, see renameat2(2).
func (d *disk) exchange(a, b string) error {
	if err := d.step("exchange " + b); err != nil {
		return err
	}
	return unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
}

func (d *disk) remove(file string) error {
	if err := d.step("remove " + file); err != nil {
		return err
	}
	return os.Remove(file)
}

// moveAway moves something to what is half-done, and returns where it is from then on. It needs nothing but a name
// there: the disk may be full. It is called by one at a time.
func (d *disk) moveAway(path string) (to string, err error) {
	d.movedAway++
	to = filepath.Join(d.tmp(), "gone-"+strconv.Itoa(d.movedAway))
	return to, d.rename(path, to)
}

func (d *disk) removeTree(dir string) error {
	if err := d.step("remove " + dir); err != nil {
		return err
	}
	return rootfile.RemoveTree(dir)
}

// sync writes out all of the filesystem that the content is on: one call instead of one a file, see syncfs(2).
func (d *disk) sync() error {
	if err := d.step("sync"); err != nil {
		return err
	}
	return withDirectory(d.root, "sync the filesystem of", unix.Syncfs)
}

// syncDirectory makes renames in a directory last, see fsync(2).
func (d *disk) syncDirectory(dir string) error {
	if err := d.step("sync " + dir); err != nil {
		return err
	}
	return withDirectory(dir, "sync", unix.Fsync)
}
