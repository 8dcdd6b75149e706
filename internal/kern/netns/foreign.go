package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// OpenForeign opens a network namespace at a path that somebody else names. Whatever else is there is not opened: it
// is looked at first, by a descriptor that only names it. The error is a [plan.NoNamespaceError], unless it is this
// process or the kernel that has too little to look.
func OpenForeign(path string) (*os.File, error) {
	no := func(reason string) (*os.File, error) { return nil, &plan.NoNamespaceError{Path: path, Reason: reason} }
	named, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR):
		return no("does not exist")
	case short(err):
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	case err != nil:
		return no("cannot be opened: " + err.Error())
	}
	defer unix.Close(named)
	var st unix.Statfs_t
	if err := unix.Fstatfs(named, &st); err != nil || st.Type != unix.NSFS_MAGIC {
		return no("is no namespace")
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", named), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if short(err) {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	if err != nil {
		return no("cannot be opened: " + err.Error())
	}
	if kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE); err != nil || kind != unix.CLONE_NEWNET {
		unix.Close(fd)
		return no("is a namespace of another kind")
	}
	return os.NewFile(uintptr(fd), path), nil
}

// short reports whether an error says nothing about the file.
func short(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) ||
		errors.Is(err, unix.EINTR)
}

// Same reports whether two open files are one namespace.
func Same(a, b *os.File) bool {
	var x, y unix.Stat_t
	return unix.Fstat(int(a.Fd()), &x) == nil && unix.Fstat(int(b.Fd()), &y) == nil && x.Ino == y.Ino && x.Dev == y.Dev
}

// Cookie is a number that no other network namespace has until the next boot (SO_NETNS_COOKIE, since Linux 5.14).
func Cookie(f *os.File) (cookie uint64, err error) {
	err = Enter(int(f.Fd()), func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		cookie, err = unix.GetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_NETNS_COOKIE)
		return err
	})
	if err == nil {
		return cookie, nil
	}
	return 0, fmt.Errorf("ask for the cookie of network namespace %s, which Linux tells since 5.14: %w", f.Name(), err)
}

// Adopt brings the loopback of an open namespace up and pins it. The socket returned is in it.
func (p Pins) Adopt(ns plan.NetNS, f *os.File) (*rtnetlink.Conn, error) {
	return p.pin(ns, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), func() error {
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter the network namespace %s: %w", f.Name(), err)
		}
		return nil
	})
}
