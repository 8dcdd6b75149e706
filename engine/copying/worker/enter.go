package worker

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim/mounts"
)

// enter makes the container's files the root of this process.
func (w work) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make the mounts of this process its own: %w", err)
	}
	if err := unix.Mount("scratch", w.Scratch, "tmpfs", 0, "mode=700"); err != nil {
		return fmt.Errorf("mount a place to work in: %w", err)
	}
	root := filepath.Join(w.Scratch, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		return err
	}
	var err error
	if w.Running {
		err = w.borrow(root)
	} else {
		root, err = w.assemble()
	}
	if err == nil {
		err = hideKernel(root)
	}
	if err != nil {
		return err
	}
	if err := unix.Chroot(root); err != nil {
		return &os.PathError{Op: "chroot", Path: root, Err: err}
	}
	if err := unix.Chdir("/"); err != nil {
		return os.NewSyscallError("chdir", err)
	}
	return w.become()
}

// borrow shows the mounts of a container that runs.
func (w work) borrow(root string) error {
	tree, err := mounts.Borrow(w.target)
	if err != nil {
		return err
	}
	defer tree.Close()
	return mounts.Place(tree, root)
}

// hideKernel unmounts what is no files but the kernel. Its links lead anywhere, to the files of other processes for
// example, and there is no end to what can be read of it.
func hideKernel(root string) error {
	kernel := []string{"proc", "sysfs", "cgroup", "cgroup2", "debugfs", "tracefs", "securityfs", "bpf", "devpts",
		"mqueue"}
	find := func() ([]*mountinfo.Info, error) {
		return mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
			below := len(i.Mountpoint) > len(root) && i.Mountpoint[:len(root)+1] == root+"/"
			return !below || !slices.Contains(kernel, i.FSType), false
		})
	}
	for {
		some, err := find()
		if err != nil || len(some) == 0 {
			return err
		}
		at := some[len(some)-1].Mountpoint // those that came last are on top
		if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return &os.PathError{Op: "unmount", Path: at, Err: err}
		}
	}
}

// assemble makes the mounts of a container that does not run.
func (w work) assemble() (root string, err error) {
	var ids *mounts.IDs
	if w.IDMap != nil {
		if ids, err = mounts.NewIDs(*w.IDMap); err != nil {
			return "", err
		}
		defer ids.Close()
	}
	b := w.Bundle
	if err := os.MkdirAll(filepath.Dir(b.StateDir), 0o700); err != nil {
		return "", err
	}
	if b.Binds, err = mounts.Assemble(b, ids); err != nil {
		return "", err
	}
	return b.Root, mounts.Attach(b, ids)
}

// become makes this process the container's root, as far as files go: what it makes is on file systems that know
// other users than the host's. It keeps its capabilities.
func (w work) become() error {
	if w.IDMap == nil {
		return nil
	}
	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, see capabilities(7)
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, noFixup, 0); errno != 0 {
		return os.NewSyscallError("prctl", errno)
	}
	id := int(w.IDMap.HostID)
	if err := syscall.Setresgid(id, id, id); err != nil {
		return os.NewSyscallError("setresgid", err)
	}
	return os.NewSyscallError("setresuid", syscall.Setresuid(id, id, id))
}
