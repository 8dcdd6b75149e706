package shim

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SocketName is the shim's socket in the container's run directory.
const SocketName = "shim.sock"

// A socket address holds 108 bytes (unix(7)), a run directory may be longer.
// So the directory is opened and the socket named through the descriptor.
func throughDir(dir string, use func(addr string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return use(fmt.Sprintf("/proc/self/fd/%d/%s", fd, SocketName))
}

// listen makes the shim's socket. The name goes only with the directory.
func listen(dir string) (*os.File, error) {
	var f *os.File
	err := throughDir(dir, func(addr string) error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		f = os.NewFile(uintptr(fd), filepath.Join(dir, SocketName))
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: addr}); err != nil {
			return os.NewSyscallError("bind", err)
		}
		return os.NewSyscallError("listen", unix.Listen(fd, 128))
	})
	if err != nil {
		if f != nil {
			f.Close()
		}
		return nil, fmt.Errorf("listen in %s: %w", dir, err)
	}
	return f, nil
}

// dial connects to the shim of a run directory. It fails at once when no shim
// is there any more.
func dial(ctx context.Context, dir string) (*Conn, error) {
	var c net.Conn
	err := throughDir(dir, func(addr string) error {
		var d net.Dialer
		var err error
		c, err = d.DialContext(ctx, "unix", addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("connect to the shim in %s: %w", dir, err)
	}
	return NewConn(c), nil
}

// SocketPair is the connection a shim inherits from the netd that launched it.
func SocketPair() (ours net.Conn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	f := os.NewFile(uintptr(fds[0]), "shim control")
	theirs = os.NewFile(uintptr(fds[1]), "shim control")
	ours, err = net.FileConn(f)
	f.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("use the control socket: %w", err)
	}
	return ours, theirs, nil
}
