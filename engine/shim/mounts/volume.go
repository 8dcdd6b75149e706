package mounts

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
	"github.com/vethloom/vethloom/engine/shim"
)

// Beside a volume's directory, where no container sees them: the copy that is being
// made, and a whole copy whose entries are being moved into the volume.
const (
	fillingName = ".filling"
	filledName  = ".filled"
)

// fillTimeout bounds the wait for another container that fills the same volume.
const fillTimeout = 10 * time.Minute

// fillVolume gives an empty volume what the image has at its target. Other containers may
// have the volume mounted and change it at any moment, so nothing is ever resolved below it:
// the copy is made in a directory beside it that no container sees, and its entries are then
// moved in, each by one rename into the descriptor of the volume. A name that somebody else
// has made meanwhile stays theirs.
//
// Filling is all or nothing: a copy that was cut short is thrown away, one that is whole is
// moved in by the next start that finds it. One container fills at a time; the others wait.
func fillVolume(root string, m shim.Bind, ids *IDs) error {
	err := fill(root, m, ids)
	if err != nil {
		return fmt.Errorf("fill the volume at %s from the image: %w", m.Target, err)
	}
	return nil
}

func fill(root string, m shim.Bind, ids *IDs) error {
	home, err := openDir(unix.AT_FDCWD, filepath.Dir(m.Source))
	if err != nil {
		return err
	}
	defer home.Close()
	if err := lockDir(home, fillTimeout); err != nil {
		return err
	}
	volume, err := openDir(int(home.Fd()), filepath.Base(m.Source))
	if err != nil {
		return err
	}
	defer volume.Close()
	filled := filepath.Join(home.Name(), filledName)
	if _, err := os.Lstat(filled); err == nil {
		return moveIn(filled, volume)
	}
	filling := filepath.Join(home.Name(), fillingName)
	if err := rootfile.RemoveTree(filling); err != nil { // of a start that was cut short
		return err
	}
	if empty, err := isEmpty(volume); err != nil || !empty {
		return err
	}
	from, err := imageDirectory(root, m.Target)
	if err != nil || from == "" {
		return err
	}
	if err := (&treeCopy{own: volumeOwner(ids, m.Source)}).copy(from, filling); err != nil {
		return errors.Join(err, rootfile.RemoveTree(filling))
	}
	if err := os.Rename(filling, filled); err != nil {
		return err
	}
	return moveIn(filled, volume)
}

// imageDirectory is where the root has a directory of this path; "" where it has none.
func imageDirectory(root, target string) (string, error) {
	at, err := securejoin.SecureJoin(root, target) // nothing runs in it yet: it holds still
	if err != nil {
		return "", err
	}
	info, err := os.Stat(at)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return "", nil
	}
	return at, err
}

// openDir opens a directory that must be one, not a link to one.
func openDir(at int, path string) (*os.File, error) {
	fd, err := unix.Openat(at, path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// lockDir waits for the lock of a directory. It goes with the descriptor.
func lockDir(dir *os.File, bound time.Duration) error {
	for end := time.Now().Add(bound); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case !errors.Is(err, unix.EWOULDBLOCK):
			return &os.PathError{Op: "lock", Path: dir.Name(), Err: err}
		case time.Now().After(end):
			return fmt.Errorf("another container has been filling it for %s", bound)
		}
	}
}

func isEmpty(dir *os.File) (bool, error) {
	names, err := dir.Readdirnames(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, &os.PathError{Op: "read", Path: dir.Name(), Err: err}
	}
	return len(names) == 0, nil
}

// moveIn moves the entries of a whole copy into the volume, and gives the volume the owner,
// mode and times of the copied directory. Cut short, it is done by the next one.
func moveIn(filled string, volume *os.File) error {
	from, err := openDir(unix.AT_FDCWD, filled)
	if err != nil {
		return err
	}
	defer from.Close()
	var st unix.Stat_t // before the entries go, which changes the directory's time
	if err := unix.Fstat(int(from.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: filled, Err: err}
	}
	names, err := from.Readdirnames(-1)
	if err != nil {
		return &os.PathError{Op: "read", Path: filled, Err: err}
	}
	for _, name := range names {
		err := unix.Renameat2(int(from.Fd()), name, int(volume.Fd()), name, unix.RENAME_NOREPLACE)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.LinkError{Op: "rename", Old: filepath.Join(filled, name), New: volume.Name(), Err: err}
		}
	}
	if err := setDirAttributes(volume, st); err != nil {
		return err
	}
	return rootfile.RemoveTree(filled)
}

// setDirAttributes works on the descriptor alone.
func setDirAttributes(to *os.File, st unix.Stat_t) error {
	fd := int(to.Fd())
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return &os.PathError{Op: "chown", Path: to.Name(), Err: err}
	}
	if err := unix.Fchmod(fd, st.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: to.Name(), Err: err}
	}
	err := unix.UtimesNanoAt(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd),
		[]unix.Timespec{st.Atim, st.Mtim}, 0)
	if err != nil {
		return &os.PathError{Op: "utimensat", Path: to.Name(), Err: err}
	}
	return nil
}

// owner translates what an image's file belongs to, as the shim sees it, to what is to be on disk.
type owner func(id uint32) int

// volumeOwner is the owner of files in a volume. With a user namespace the image is seen through a
// mount that maps its IDs into the container's block. A volume that is mounted with the same
// mapping keeps the image's own IDs, one whose file system cannot do that the mapped ones.
func volumeOwner(ids *IDs, source string) owner {
	if ids == nil || !ids.Can(source) {
		return func(id uint32) int { return int(id) }
	}
	return func(id uint32) int {
		if id >= ids.m.HostID && id-ids.m.HostID < ids.m.Size {
			return int(id - ids.m.HostID)
		}
		return int(id)
	}
}
