package box

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cyphar/filepath-securejoin"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// copyUp fills an empty volume with what the image has at its target. The
// container does not run yet, so the tree holds still.
func copyUp(root string, m shim.Bind) error {
	if entries, err := os.ReadDir(m.Source); err != nil || len(entries) > 0 {
		return err
	}
	from, err := securejoin.SecureJoin(root, m.Target)
	if err != nil {
		return fmt.Errorf("find %s in the image: %w", m.Target, err)
	}
	info, err := os.Stat(from)
	if errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return nil
	}
	if err == nil {
		err = copyTree(from, m.Source)
	}
	if err != nil {
		return fmt.Errorf("fill the volume at %s from the image: %w", m.Target, err)
	}
	return nil
}

func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return copyEntry(path, filepath.Join(to, rel), d)
	})
}

func copyEntry(from, to string, d fs.DirEntry) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	var err error
	switch {
	case d.IsDir():
		if err = os.Mkdir(to, 0o700); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	case d.Type().IsRegular():
		err = copyFile(from, to)
	case d.Type()&fs.ModeSymlink != 0:
		var target string
		if target, err = os.Readlink(from); err == nil {
			err = os.Symlink(target, to)
		}
	default:
		err = unix.Mknod(to, st.Mode, int(st.Rdev))
	}
	if err == nil {
		err = os.Lchown(to, int(st.Uid), int(st.Gid))
	}
	if err != nil || d.Type()&fs.ModeSymlink != 0 {
		return err
	}
	return unix.Chmod(to, st.Mode&0o7777) // after chown, which clears setuid
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
