package unpack

import (
	"errors"
	"fmt"
	"os"
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
	// made is told of each directory that is made on the way to another, by its path without symbolic links; fresh:
	// there is nothing of it below.
	made func(fd int, real string, fresh bool) error
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
// mean inside a container. Behind the first [unix.PathMax] bytes there may be none.
func (t *tree) resolve(p string) (int, error) { return openPath(t.root, p, unix.RESOLVE_IN_ROOT) }

// exact opens a path in which no symbolic link may be.
func (t *tree) exact(p string) (int, error) { return openPath(t.root, p, noLinks) }

const noLinks = rootfile.NoLinks

func openPath(root int, p string, resolve uint64) (int, error) {
	return rootfile.OpenDirAt(root, p, resolve)
}

// realPath is the path by which a directory below the root is reached without symbolic links; p is one that reaches it.
func (t *tree) realPath(fd int, p string) (string, error) {
	if p == "." {
		return p, nil
	}
	direct, err := t.exact(p)
	if err == nil {
		unix.Close(direct)
		return p, nil
	}
	if !errors.Is(err, unix.ELOOP) {
		return "", err
	}
	root, err := os.Readlink(fdPath(t.root))
	if err != nil {
		return "", err
	}
	here, err := os.Readlink(fdPath(fd))
	if err != nil {
		return "", err
	}
	if here == root {
		return ".", nil
	}
	rel, ok := strings.CutPrefix(here, strings.TrimSuffix(root, "/")+"/")
	if !ok {
		return "", fmt.Errorf("find the path of %q: %w", p, unix.EXDEV)
	}
	return rel, nil
}

// parent returns a descriptor of the directory, which stays the tree's. What
// is missing on the way is made, as archives need not list directories.
func (t *tree) parent(dir string) (int, error) {
	fd, err := t.existing(dir)
	if !missing(err) {
		return fd, err
	}
	if fd, _, err = t.makeAll(dir, 0); err != nil {
		return -1, err
	}
	t.cached, t.fd = dir, fd
	return fd, nil
}

// existing is parent for what has to be there.
func (t *tree) existing(dir string) (int, error) {
	if dir == t.cached {
		return t.fd, nil
	}
	fd, err := -1, error(unix.ELOOP)
	if above(dir) == t.cached && dir != "." { // one level further, as archives go down
		fd, err = openPath(t.fd, path.Base(dir), noLinks)
	}
	t.forget()
	if dir == "." {
		return t.root, nil
	}
	if errors.Is(err, unix.ELOOP) {
		fd, err = t.resolve(dir)
	}
	if err != nil {
		return -1, err
	}
	t.cached, t.fd = dir, fd
	return fd, nil
}

// above is the directory of a clean path.
func above(p string) string {
	i := strings.LastIndexByte(p, '/')
	if i < 0 {
		return "."
	}
	return p[:i]
}

// missing reports whether a directory can be made for there is none: whiteouts, which are no directories, may be in the
// way.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// maxLinks is how many dangling links may lead to one another, as in path_resolution(7).
const maxLinks = 40

// makeAll makes a directory and what is missing above it. A symbolic link to
// nothing has its target made, as /var/run has when /run is not in the archive. The directory's path without symbolic
// links is returned too.
func (t *tree) makeAll(dir string, links int) (fd int, real string, err error) {
	fd, err = t.resolve(dir)
	if err == nil {
		if real, err = t.realPath(fd, dir); err != nil {
			unix.Close(fd)
		}
		return fd, real, err
	}
	if !missing(err) || dir == "." {
		return -1, "", err
	}
	parent, real, err := t.makeAll(above(dir), links)
	if err != nil {
		return -1, "", err
	}
	defer unix.Close(parent)
	base, fresh := path.Base(dir), false
	real = path.Join(real, base)
	err = unix.Mkdirat(parent, base, 0o755)
	switch {
	case err == nil:
		fd, err = ownedByRoot(parent, base)
	case !errors.Is(err, unix.EEXIST):
	case whiteoutAt(parent, base):
		fresh = true
		fd, err = uncover(parent, base)
	case links >= maxLinks:
		err = unix.ELOOP
	default:
		target, err := readlink(parent, base)
		if err != nil {
			return -1, "", err
		}
		return t.makeAll(targetPath(above(dir), target), links+1)
	}
	if err != nil {
		return -1, "", err
	}
	if t.made != nil {
		if err := t.made(fd, real, fresh); err != nil {
			unix.Close(fd)
			return -1, "", err
		}
	}
	return fd, real, nil
}

// targetPath is where a symbolic link in a directory leads, from the root.
func targetPath(dir, target string) string {
	if !strings.HasPrefix(target, "/") {
		target = dir + "/" + target
	}
	target = strings.TrimPrefix(path.Clean("/"+target), "/")
	if target == "" {
		return "."
	}
	return target
}

// ownedByRoot opens a fresh directory: one made in another with the set-group-ID bit has its group.
func ownedByRoot(above int, base string) (int, error) {
	if err := unix.Fchownat(above, base, 0, 0, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return -1, err
	}
	if err := unix.Fchmodat(above, base, 0o755, 0); err != nil {
		return -1, err
	}
	return unix.Openat(above, base, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// uncover makes a directory in the place of a whiteout: what it hid stays hidden.
func uncover(above int, base string) (int, error) {
	if err := unix.Unlinkat(above, base, 0); err != nil {
		return -1, err
	}
	if err := unix.Mkdirat(above, base, 0o755); err != nil {
		return -1, err
	}
	fd, err := ownedByRoot(above, base)
	if err != nil {
		return -1, err
	}
	if err := makeOpaque(fdPath(fd)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
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
