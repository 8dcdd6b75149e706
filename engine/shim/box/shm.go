package box

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/thread"
)

const shmDir = "/dev/shm"

// shmOf is where another container's /dev/shm is mounted for this one.
func shmOf(b shim.Bundle) string { return b.StateDir + "-shm" }

// joinShm makes another container's /dev/shm ready to be mounted. A mount of another mount namespace can only be copied
// from inside that one.
func joinShm(b shim.Bundle) error {
	switch b.Namespaces.Shm {
	case "", shim.HostNamespace, shim.NoNamespace:
		return nil
	}
	dir := shmOf(b)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	var tree int
	err := errors.New("the thread has ended")
	thread.Run(func() bool { tree, err = copyShm(b.Namespaces.Shm); return false })
	if err != nil {
		return fmt.Errorf("share %s with another container: %w", shmDir, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("share %s with another container: %w", shmDir, os.NewSyscallError("move_mount", err))
	}
	return nil
}

// copyShm copies the mount. The thread is then in a namespace of which the container can change everything: nothing but
// that one path is used there, and no link is followed at its end.
func copyShm(mounts string) (int, error) {
	f, err := os.Open(mounts)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, os.NewSyscallError("unshare", err)
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
		return -1, os.NewSyscallError("setns", err)
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, shmDir,
		unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: shmDir, Err: err}
	}
	return tree, nil
}
