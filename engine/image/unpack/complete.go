package unpack

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Complete gives a layer, unpacked into dir, what it needs of the layers below it: their directories, bottom first,
// themselves complete and on the same filesystem. What they show is what overlayfs merges of them.
//
//   - A directory of needs.Parents has the owner, mode, times and extended attributes of the directory that its path
//     leads to below. Where a symbolic link is below, the directory hides it, as it does with containerd and Docker.
//   - A link is made by its name, and the file by its own path too, unless the layer hides or replaces that. The error
//     is an [EntryError] when there is no such file.
//
// A second call does no harm.
func Complete(ctx context.Context, dir string, n Needs, lowers []string) error {
	if n.Empty() {
		return nil
	}
	t, err := openTree(dir)
	if err != nil {
		return err
	}
	defer t.close()
	b, err := openBelow(lowers)
	if err != nil {
		return err
	}
	defer b.close()
	c := &completer{own: t, below: b, real: map[string]string{}, hides: map[string]bool{}}
	for _, l := range n.Links {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.link(l); err != nil {
			if _, ok := errors.AsType[*EntryError](err); ok {
				return err
			}
			return fmt.Errorf("link %q to %q of a layer below: %w", l.Name, l.Target, err)
		}
	}
	// Links make directories and change their times: so these come last.
	for _, p := range append(n.Parents[:len(n.Parents):len(n.Parents)], c.made...) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := c.parent(p); err != nil {
			return fmt.Errorf("make directory %q as it is below: %w", p, err)
		}
	}
	return nil
}

type completer struct {
	own   *tree
	below *below
	made  []string          // directories made for links
	real  map[string]string // paths of directories below, by the paths that lead to them
	bytes int               // in real
	hides map[string]bool   // directories of this layer: whether it hides what those below have of them
}

// maxRemembered bounds the paths that are remembered, in bytes.
const maxRemembered = 16 << 20

// directory is below.directory. What was found is remembered, as many paths lead through the same directories.
func (c *completer) directory(p string) (string, error) {
	if p == "." {
		return p, nil
	}
	if real, ok := c.real[p]; ok {
		return real, nil
	}
	parent, err := c.directory(above(p))
	if err != nil {
		return "", err
	}
	real, err := c.below.walk(parent, path.Base(p))
	if err != nil {
		return "", err
	}
	if c.bytes += len(real); c.bytes > maxRemembered {
		clear(c.real)
		c.bytes = len(real)
	}
	c.real[p] = real
	return real, nil
}

// parent takes over what the layers below say of a directory.
func (c *completer) parent(p string) error {
	fd, err := c.visible(p)
	if fd < 0 || err != nil {
		return err
	}
	defer unix.Close(fd)
	real, err := c.directory(p)
	if missing(err) || errors.Is(err, unix.ELOOP) {
		return nil
	}
	if err != nil {
		return err
	}
	dirs, err := c.below.dirs(real)
	if err != nil || len(dirs) == 0 {
		return err
	}
	return copyMeta(fd, dirs[0])
}

// visible opens a directory of this layer in which the layers below have part, perhaps; it is -1 when there is no
// such directory.
func (c *completer) visible(p string) (int, error) {
	fd, err := c.own.exact(p)
	if missing(err) || errors.Is(err, unix.ELOOP) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	hidden, err := c.hidden(above(p))
	if hidden || err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// hidden reports whether a directory of this layer, or one above it, is opaque.
func (c *completer) hidden(p string) (bool, error) {
	if p == "." {
		return false, nil
	}
	if hidden, ok := c.hides[p]; ok {
		return hidden, nil
	}
	hidden, err := c.hidden(above(p))
	if err != nil {
		return false, err
	}
	if !hidden {
		fd, err := c.own.exact(p)
		if err != nil {
			return false, err
		}
		hidden, err = isOpaque(fd)
		unix.Close(fd)
		if err != nil {
			return false, err
		}
	}
	c.hides[p] = hidden
	return hidden, nil
}

// copyMeta makes a directory like another. Both are open as paths only.
func copyMeta(to, from int) error {
	var st unix.Stat_t
	if err := unix.Fstat(from, &st); err != nil {
		return err
	}
	path := fdPath(to)
	if err := unix.Chown(path, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(path, st.Mode&0o7777); err != nil {
		return err
	}
	attrs, err := xattrs(fdPath(from))
	if err != nil {
		return err
	}
	u := &unpacker{}
	for name, value := range attrs {
		if err := u.keepXattr(name, unix.Setxattr(path, name, value, 0)); err != nil {
			return err
		}
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// xattrs are the extended attributes of a file, those of overlayfs left out.
func xattrs(path string) (map[string][]byte, error) {
	list := make([]byte, 1<<16) // the most there can be, see listxattr(2)
	n, err := unix.Listxattr(path, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	out := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list[:n]), "\x00"), "\x00") {
		if name == "" || isOverlayXattr(name) {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Getxattr(path, name, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s: %w", name, err)
		}
		out[name] = value[:n]
	}
	return out, nil
}

// link makes a link, and the file it leads to by its own path.
func (c *completer) link(l Link) error {
	dir, err := c.directory(above(l.Target))
	if missing(err) || errors.Is(err, unix.ELOOP) {
		return linkToNothing(l.Name, l.Target)
	}
	if err != nil {
		return err
	}
	base := path.Base(l.Target)
	e, err := c.below.look(dir, base)
	if errors.Is(err, unix.ENOENT) {
		return linkToNothing(l.Name, l.Target)
	}
	if err != nil {
		return err
	}
	if e.st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return linkToDirectory(l.Name, l.Target)
	}
	to, err := c.own.exact(above(l.Name))
	if missing(err) || errors.Is(err, unix.ELOOP) {
		return nil // a later entry of the archive has its place
	}
	if err != nil {
		return err
	}
	defer unix.Close(to)
	if err := linkKeepingTimes(e.dir, base, to, path.Base(l.Name)); err != nil {
		return err
	}
	at, err := c.place(dir)
	if at < 0 || err != nil {
		return err
	}
	defer unix.Close(at)
	return linkKeepingTimes(e.dir, base, at, base)
}

// linkKeepingTimes makes a link unless there is something, and leaves the directory its times.
func linkKeepingTimes(dir int, base string, to int, name string) error {
	return keepingTimes(to, func() error {
		err := unix.Linkat(dir, base, to, name, 0)
		if errors.Is(err, unix.EEXIST) {
			return nil
		}
		return err
	})
}

func keepingTimes(dir int, change func() error) error {
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return err
	}
	if err := change(); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, fdPath(dir), []unix.Timespec{st.Atim, st.Mtim}, 0)
}

// place opens the directory of this layer that is merged with one below, and makes it if need be; it is -1 when this
// layer hides that one.
func (c *completer) place(p string) (int, error) {
	at, err := openPath(c.own.root, ".", 0)
	if err != nil {
		return -1, err
	}
	for p, walked := p, ""; p != "" && p != "."; {
		var name string
		name, p, _ = strings.Cut(p, "/")
		walked = path.Join(walked, name)
		next, err := openPath(at, name, noLinks)
		if errors.Is(err, unix.ENOENT) {
			next, err = c.make(at, name, walked)
		}
		hidden := errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
		unix.Close(at)
		if hidden {
			return -1, nil
		}
		if err != nil {
			return -1, err
		}
		if hidden, err = isOpaque(next); hidden || err != nil {
			unix.Close(next)
			return -1, err
		}
		at = next
	}
	return at, nil
}

func (c *completer) make(at int, name, p string) (fd int, err error) {
	err = keepingTimes(at, func() error {
		if err := unix.Mkdirat(at, name, 0o755); err != nil {
			return err
		}
		fd, err = ownedByRoot(at, name)
		return err
	})
	c.made = append(c.made, p)
	return fd, err
}
