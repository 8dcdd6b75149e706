package mounts

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// treeCopy copies a directory to a place that nobody else can reach, with owners, modes, times,
// extended attributes, hard links and holes.
type treeCopy struct {
	own   owner
	into  bool             // the place is there
	links map[inode]string // copies of files that have several names
	dirs  []copiedDir      // their times are set last, as copying into them changes those
}

type inode struct{ dev, ino uint64 }

type copiedDir struct {
	path  string
	times []unix.Timespec
}

func (c *treeCopy) copy(from, to string) error {
	c.links = map[inode]string{}
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		return c.entry(path, filepath.Join(to, rel))
	})
	if err != nil {
		return err
	}
	for i := len(c.dirs) - 1; i >= 0; i-- {
		d := c.dirs[i]
		if err := unix.UtimesNanoAt(unix.AT_FDCWD, d.path, d.times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return &os.PathError{Op: "utimensat", Path: d.path, Err: err}
		}
	}
	return c.sync(to)
}

// sync brings the copy to the disk before it counts as whole.
func (c *treeCopy) sync(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return &os.PathError{Op: "syncfs", Path: dir, Err: err}
	}
	return nil
}

func (c *treeCopy) entry(from, to string) error {
	var st unix.Stat_t
	if err := unix.Lstat(from, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: from, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	id := inode{uint64(st.Dev), st.Ino}
	if kind != unix.S_IFDIR && st.Nlink > 1 {
		if first, ok := c.links[id]; ok {
			return os.Link(first, to)
		}
		c.links[id] = to
	}
	into := c.into
	c.into = false
	if !into {
		if err := c.make(kind, from, to, st); err != nil {
			return err
		}
	}
	return c.attributes(kind, from, to, st)
}

func (c *treeCopy) make(kind uint32, from, to string, st unix.Stat_t) error {
	switch kind {
	case unix.S_IFDIR:
		return os.Mkdir(to, 0o700)
	case unix.S_IFREG:
		return copyFile(from, to, st.Size)
	case unix.S_IFLNK:
		target, err := os.Readlink(from)
		if err != nil {
			return err
		}
		return os.Symlink(target, to)
	}
	if err := unix.Mknod(to, st.Mode, int(st.Rdev)); err != nil {
		return &os.PathError{Op: "mknod", Path: to, Err: err}
	}
	return nil
}

func (c *treeCopy) attributes(kind uint32, from, to string, st unix.Stat_t) error {
	if err := os.Lchown(to, c.own(st.Uid), c.own(st.Gid)); err != nil {
		return err
	}
	if kind != unix.S_IFLNK { // after chown, which clears set-user-ID; a link has no mode of its own
		if err := unix.Chmod(to, st.Mode&0o7777); err != nil {
			return &os.PathError{Op: "chmod", Path: to, Err: err}
		}
	}
	if err := c.xattrs(from, to); err != nil { // after chown, which clears file capabilities
		return err
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if kind == unix.S_IFDIR {
		c.dirs = append(c.dirs, copiedDir{to, times})
		return nil
	}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, to, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimensat", Path: to, Err: err}
	}
	return nil
}

// copyFile copies the parts of a file that have data; what lies between stays a hole.
func copyFile(from, to string, size int64) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = copyData(in, out, size)
	if err == nil {
		err = out.Truncate(size)
	}
	return errors.Join(err, out.Close())
}

func copyData(in, out *os.File, size int64) error {
	for at := int64(0); at < size; {
		start, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole is left
		}
		if err != nil {
			return err
		}
		if at, err = in.Seek(start, unix.SEEK_HOLE); err != nil {
			return err
		}
		if _, err = in.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err = out.Seek(start, io.SeekStart); err != nil {
			return err
		}
		if _, err = io.CopyN(out, in, at-start); err != nil {
			return err
		}
	}
	return nil
}

// Extended attributes that a volume takes over: file capabilities, access control lists
// and what users may set. Others are the file system's or a security module's.
func wantedXattr(name string) bool {
	return name == xattrCapability || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl_")
}

const xattrCapability = "security.capability"

func (c *treeCopy) xattrs(from, to string) error {
	names, err := readXattr(func(b []byte) (int, error) { return unix.Llistxattr(from, b) })
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "llistxattr", Path: from, Err: err}
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00") {
		if !wantedXattr(name) {
			continue
		}
		value, err := readXattr(func(b []byte) (int, error) { return unix.Lgetxattr(from, name, b) })
		if err == nil {
			if name == xattrCapability {
				value = c.capability(value)
			}
			err = unix.Lsetxattr(to, name, value, 0)
		}
		if err != nil {
			return fmt.Errorf("copy the attribute %q: %w", name, &os.PathError{Op: "lsetxattr", Path: to, Err: err})
		}
	}
	return nil
}

// capability is a file's capabilities (struct vfs_ns_cap_data, linux/capability.h) with the
// user that they count for translated like an owner; version 2 has none and means user 0.
func (c *treeCopy) capability(v []byte) []byte {
	const version2, version3, versionMask = 0x02000000, 0x03000000, 0xff000000
	if len(v) != 24 || binary.LittleEndian.Uint32(v)&versionMask != version3 {
		return v
	}
	root := c.own(binary.LittleEndian.Uint32(v[20:]))
	out := append([]byte(nil), v...)
	if root == 0 {
		flags := binary.LittleEndian.Uint32(v) &^ versionMask
		binary.LittleEndian.PutUint32(out, version2|flags)
		return out[:20]
	}
	binary.LittleEndian.PutUint32(out[20:], uint32(root))
	return out
}

// readXattr reads a value of unknown length; 64 KiB is the kernel's limit (XATTR_SIZE_MAX).
func readXattr(read func([]byte) (int, error)) ([]byte, error) {
	b := make([]byte, 64<<10)
	n, err := read(b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}
