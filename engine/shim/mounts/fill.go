package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/thread"
)

// fillInPlace gives a volume that is another file system, or a part of a volume, what the image has at its target.
// There is no place beside it to make the copy in. So a thread makes it whose root is a directory with nothing but
// the two: what another container puts in its way leads to the image or to the volume, nowhere else.
func (a assembly) fillInPlace(m shim.Bind, volume string) error {
	err := a.fill(m, volume)
	if err != nil {
		return fmt.Errorf("fill the volume at %s from the image: %w", m.Target, err)
	}
	return nil
}

func (a assembly) fill(m shim.Bind, volume string) error {
	lock, err := openDir(unix.AT_FDCWD, volume)
	if errors.Is(err, unix.ENOTDIR) {
		return nil // a file
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := lockDir(lock, fillTimeout); err != nil {
		return err
	}
	if empty, err := isEmpty(lock); err != nil || !empty {
		return err
	}
	from, err := imageDirectory(a.b.Root, m.Target)
	if err != nil || from == "" {
		return err
	}
	cell := filepath.Join(a.dir, fmt.Sprint(a.number, "-fill"))
	for name, source := range map[string]string{"from": from, "to": volume} {
		if err := os.MkdirAll(filepath.Join(cell, name), 0o700); err != nil {
			return err
		}
		if err := unix.Mount(source, filepath.Join(cell, name), "", unix.MS_BIND, ""); err != nil {
			return &os.PathError{Op: "bind", Path: source, Err: err}
		}
		defer unix.Unmount(filepath.Join(cell, name), unix.MNT_DETACH)
	}
	copier := &treeCopy{own: volumeOwner(a.ids, volume), into: true}
	thread.Run(func() bool { err = rooted(cell, func() error { return copier.copy("/from", "/to") }); return false })
	return err
}

// rooted changes the root of the calling thread for good.
func rooted(dir string, f func() error) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Chroot(dir); err != nil {
		return &os.PathError{Op: "chroot", Path: dir, Err: err}
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	return f()
}
