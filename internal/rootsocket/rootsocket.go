// Package rootsocket makes Unix sockets that only root's processes are answered at, whatever becomes of their mode.
package rootsocket

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Listen makes a socket of mode 0600 in the place of that of an earlier run.
func Listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove the socket of an earlier run: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("keep others from the socket: %w", err), l.Close())
	}
	return l, nil
}

// Only takes connections of root's processes alone.
func Only(l *net.UnixListener) net.Listener { return only{l} }

type only struct{ *net.UnixListener }

// Accept closes the connections of others: who may not ask gets no answer.
func (l only) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if OfRoot(c) == nil {
			return c, nil
		}
		_ = c.Close()
	}
}

// OfRoot refuses a connection of a process that is not root's (SO_PEERCRED, unix(7)).
func OfRoot(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, failed); err != nil || cred == nil { // nobody is known to be root
		return fmt.Errorf("find out who asks: %w", err)
	}
	if cred.Uid != 0 {
		return fmt.Errorf("user %d asks, and only root may", cred.Uid)
	}
	return nil
}
