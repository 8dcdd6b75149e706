package unpack

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// tree is the directory unpacked into. The kernel confines every path to it.
type tree struct {
	root   int    // O_PATH
	cached string // the directory last asked for: archives go through a directory's files in a row
	fd     int    // of cached; the root's when it is "."
}

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", dir, err)
	}
	return &tree{root: fd, cached: ".", fd: fd}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root)
}

// forget drops the cached directory: paths lead elsewhere once something was
// removed or replaced.
func (t *tree) forget() {
	if t.fd != t.root {
		unix.Close(t.fd)
	}
	t.cached, t.fd = ".", t.root
}

// resolve opens a path with every symbolic link in it meaning what it would
// mean inside a container.
func (t *tree) resolve(p string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		fd, err := unix.Openat2(t.root, p, &how)
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR): // a rename somewhere on the host, see openat2(2)
			continue
		case errors.Is(err, unix.ENOSYS):
			return -1, fmt.Errorf("openat2 needs Linux 5.6 or newer: %w", err)
		}
		return fd, err
	}
}

// parent returns a descriptor of the directory, which stays the tree's. What
// is missing on the way is made, as archives need not list directories.
func (t *tree) parent(dir string) (int, error) {
	if dir == t.cached {
		return t.fd, nil
	}
	t.forget()
	if dir == "." {
		return t.root, nil
	}
	fd, err := t.resolve(dir)
	if errors.Is(err, unix.ENOENT) {
		fd, err = t.makeAll(dir, 0)
	}
	if err != nil {
		return -1, err
	}
	t.cached, t.fd = dir, fd
	return fd, nil
}

// maxLinks is how many dangling links may lead to one another, as in path_resolution(7).
const maxLinks = 40

// makeAll makes a directory and what is missing above it. A symbolic link to
// nothing has its target made, as /var/run has when /run is not in the archive.
func (t *tree) makeAll(dir string, links int) (int, error) {
	fd, err := t.resolve(dir)
	if !errors.Is(err, unix.ENOENT) || dir == "." {
		return fd, err
	}
	above, err := t.makeAll(path.Dir(dir), links)
	if err != nil {
		return -1, err
	}
	defer unix.Close(above)
	base := path.Base(dir)
	err = unix.Mkdirat(above, base, 0o755)
	if errors.Is(err, unix.EEXIST) {
		if links >= maxLinks {
			return -1, unix.ELOOP
		}
		target, err := readlink(above, base)
		if err != nil {
			return -1, err
		}
		if !strings.HasPrefix(target, "/") {
			target = path.Dir(dir) + "/" + target
		}
		target = strings.TrimPrefix(path.Clean("/"+target), "/")
		if target == "" {
			target = "."
		}
		return t.makeAll(target, links+1)
	}
	if err != nil {
		return -1, err
	}
	// A fresh directory in one with the set-group-ID bit has its group.
	if err := unix.Fchownat(above, base, 0, 0, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(above, base, 0o755, 0); err != nil {
		return -1, err
	}
	return unix.Openat(above, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

func readlink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	if errors.Is(err, unix.EINVAL) {
		return "", unix.ENOTDIR
	}
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// remove removes what is at a place, a directory with all that is in it.
func (t *tree) remove(p place) error {
	return rootfile.RemoveTreeAt(p.dir, p.name)
}

// fdPath is a path to what a descriptor is open on; xattr system calls have no *at form before Linux 6.13.
func fdPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
