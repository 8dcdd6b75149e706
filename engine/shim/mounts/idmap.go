package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/snapshot"
)

// IDs are what a container with a user namespace of its own needs before
// that namespace exists: a namespace with the same mapping, to map mounts by.
type IDs struct {
	m    shim.IDMap
	user *os.File // a user namespace
}

// NewIDs makes the user namespace. A process brings it to life, and is
// stopped by ptrace(2) before it executes anything; the caller's thread must not
// change meanwhile.
func NewIDs(m shim.IDMap) (*IDs, error) {
	maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: int(m.HostID), Size: int(m.Size)}}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{"net-shim"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: maps, GidMappings: maps, Ptrace: true, Pdeathsig: syscall.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	killErr := syscall.Kill(pid, syscall.SIGKILL)
	for status := syscall.WaitStatus(0); killErr == nil && !status.Signaled() && !status.Exited(); {
		if _, waitErr := syscall.Wait4(pid, &status, 0, nil); waitErr != nil && !errors.Is(waitErr, syscall.EINTR) {
			killErr = waitErr
		}
	}
	if err = errors.Join(err, killErr); err != nil {
		return nil, fmt.Errorf("make a user namespace: %w", err)
	}
	return &IDs{m: m, user: f}, nil
}

// Close lets go of the namespace; what was mapped stays mapped.
func (i *IDs) Close() error {
	if i == nil {
		return nil
	}
	return i.user.Close()
}

// tree is a detached copy of the mount at path, its IDs mapped. The error is
// EINVAL when the file system cannot do that.
func (i *IDs) tree(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(i.user.Fd())}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		f.Close()
		return nil, &os.PathError{Op: "mount_setattr", Path: path, Err: err}
	}
	return f, nil
}

// Can reports whether the file system at path can map IDs.
func (i *IDs) Can(path string) bool {
	f, err := i.tree(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// mapLayers covers the image's layers, in this mount namespace only, with
// mapped copies of themselves: the overlay made of them then shows the image's
// owners as the container's. The writable layer is not mapped (overlayfs works in
// it with this process's IDs): it keeps the host's IDs, so a container's block of
// IDs must stay its own.
func (i *IDs) mapLayers(m snapshot.Mount) error {
	for _, option := range m.Options {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "lowerdir", "lowerdir+":
			for _, dir := range strings.Split(value, ":") {
				if err := i.cover(within(m.Dir, dir)); err != nil {
					return err
				}
			}
		case "upperdir":
			if err := i.own(within(m.Dir, value)); err != nil {
				return err
			}
		}
	}
	return nil
}

func within(base, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(base, path)
}

func (i *IDs) cover(dir string) error {
	f, err := i.tree(dir)
	if errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("map the user IDs of an image layer: %w: the file system below the images, or a kernel "+
			"before 5.19, cannot; run the container without --userns", errors.ErrUnsupported)
	}
	if err != nil {
		return fmt.Errorf("map the user IDs of an image layer: %w", err)
	}
	defer f.Close()
	if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, dir,
		unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS); err != nil {
		return fmt.Errorf("map the user IDs of an image layer: %w", &os.PathError{Op: "move_mount", Path: dir,
			Err: err})
	}
	return nil
}

// own gives the top of the writable layer, which is the container's /, to the
// container.
func (i *IDs) own(upper string) error {
	var st unix.Stat_t
	if err := unix.Stat(upper, &st); err != nil {
		return &os.PathError{Op: "stat", Path: upper, Err: err}
	}
	if st.Uid >= i.m.Size || st.Gid >= i.m.Size {
		return nil // done at an earlier start
	}
	return os.Chown(upper, int(st.Uid+i.m.HostID), int(st.Gid+i.m.HostID))
}
