package rootfile

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Measure returns the bytes that a tree has allocated on its disk, a file with several links once, and how many inodes
// it has. What is removed meanwhile counts or does not. What is nested deeper than a path can say does not.
func Measure(ctx context.Context, root string) (bytes, inodes int64, err error) {
	seen := map[uint64]bool{} // files with several links
	err = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		if path != root && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG)) {
			return nil
		}
		if err != nil {
			return err
		}
		if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if seen[st.Ino] {
				return nil
			}
			seen[st.Ino] = true
		}
		bytes += st.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes, err
}
