package mounts

import (
	"errors"
	"fmt"
	"os"
	"path"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/thread"
)

// Borrow copies the mounts of another process. Nothing that is mounted or unmounted in the copy is so for that process,
// and no device works in it.
func Borrow(pidfd *os.File) (tree *os.File, err error) {
	thread.Run(func() bool { tree, err = borrow(pidfd); return false })
	return tree, err
}

// borrow moves the calling thread to another mount namespace for good.
func borrow(pidfd *os.File) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(pidfd.Fd()), unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("enter the container's mount namespace: %w", err)
	}
	tree, err := cloneTree(unix.AT_FDCWD, "/", true)
	if err != nil {
		return nil, err
	}
	if err := setAttributes(tree, true, unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV,
		Propagation: unix.MS_PRIVATE}); err != nil {
		tree.Close()
		return nil, err
	}
	return tree, nil
}

// Place puts a tree at an existing directory.
func Place(tree *os.File, at string) error { return moveTo(tree, at) }

// Attach mounts the binds of a bundle in its root, as the container would find them, without file systems in memory:
// those are of a container that runs. The sources are ready, see [Assemble]. No device works in what is mounted.
func Attach(b shim.Bundle, ids *IDs) error {
	root, err := os.OpenFile(b.Root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, m := range b.Binds {
		if m.Tmpfs != nil {
			continue
		}
		if err := attach(root, m, ids); err != nil {
			return fmt.Errorf("mount %s: %w", m.Target, err)
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV}
	if b.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return setAttributes(root, false, attr)
}

func attach(root *os.File, m shim.Bind, ids *IDs) error {
	tree, err := cloneTree(unix.AT_FDCWD, m.Source, !m.NonRecursive)
	if err != nil {
		return err
	}
	defer tree.Close()
	if ids != nil && ids.Can(m.Source) {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.user.Fd())}
		if err := setAttributes(tree, false, attr); err != nil {
			return err
		}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV, Propagation: unix.MS_PRIVATE}
	if err := setAttributes(tree, true, attr); err != nil {
		return err
	}
	if m.ReadOnly {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := setAttributes(tree, !m.ShallowReadOnly, attr); err != nil {
			return err
		}
	}
	point, err := mountPoint(root, m.Target, tree)
	if err != nil {
		return err
	}
	defer point.Close()
	if err := unix.MoveMount(int(tree.Fd()), "", int(point.Fd()), "",
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return &os.LinkError{Op: "move_mount", Old: m.Source, New: m.Target, Err: err}
	}
	return nil
}

// mountPoint opens the place of a mount in a root, which is made where there is none.
func mountPoint(root *os.File, target string, tree *os.File) (*os.File, error) {
	f, err := pathrs.OpenatInRoot(root, target)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: tree.Name(), Err: err}
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return pathrs.MkdirAllHandle(root, target, 0o755)
	}
	dir, name := path.Split(target)
	above, err := pathrs.MkdirAllHandle(root, dir, 0o755)
	if err != nil {
		return nil, err
	}
	defer above.Close()
	fd, err := unix.Openat(int(above.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|
		unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, &os.PathError{Op: "create", Path: target, Err: err}
	}
	unix.Close(fd)
	return pathrs.OpenatInRoot(root, target)
}

func setAttributes(mount *os.File, recursive bool, attr unix.MountAttr) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(int(mount.Fd()), "", flags, &attr); err != nil {
		return &os.PathError{Op: "mount_setattr", Path: mount.Name(), Err: err}
	}
	return nil
}
