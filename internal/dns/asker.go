package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// asker asks by sockets that somebody has opened inside of a sandbox: this process could not. They are connected for a
// question and then not any more, which gives them another port for the next one.
type asker struct {
	udp, tcp chan *socket
	closed   atomic.Bool
}

func newAsker(udp, tcp []*os.File) *asker {
	a := &asker{udp: make(chan *socket, len(udp)), tcp: make(chan *socket, len(tcp))}
	for _, f := range udp {
		a.udp <- &socket{File: f, home: a.udp, a: a}
	}
	for _, f := range tcp {
		a.tcp <- &socket{File: f, home: a.tcp, a: a}
	}
	return a
}

// close closes the sockets. Those in use are closed when they are given back.
func (a *asker) close() {
	a.closed.Store(true)
	a.drain()
}

func (a *asker) drain() {
	for {
		select {
		case s := <-a.udp:
			s.File.Close()
		case s := <-a.tcp:
			s.File.Close()
		default:
			return
		}
	}
}

// errNoSocket is no fault of the server that was to be asked.
var errNoSocket = errors.New("too many questions of this sandbox are under way")

// socket is one of an asker's: a connection while it is in use.
type socket struct {
	*os.File
	home chan *socket
	a    *asker
}

var _ net.Conn = (*socket)(nil)

// LocalAddr implements [net.Conn]: nobody asks for it.
func (s *socket) LocalAddr() net.Addr { return nil }

// RemoteAddr implements [net.Conn].
func (s *socket) RemoteAddr() net.Addr { return nil }

// Close gives the socket back.
func (s *socket) Close() error {
	err := s.disconnect()
	s.home <- s
	if s.a.closed.Load() {
		s.a.drain()
	}
	return err
}

// dial connects a socket that nobody uses, as soon as there is one.
func (a *asker) dial(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
	pool := a.udp
	if network == "tcp" {
		pool = a.tcp
	}
	select {
	case s := <-pool:
		if a.closed.Load() {
			s.File.Close()
			return nil, net.ErrClosed
		}
		if err := s.connect(ctx, to); err != nil {
			return nil, errors.Join(err, s.Close())
		}
		return s, nil
	case <-ctx.Done():
		return nil, errNoSocket
	}
}

// clear forgets what came for an earlier question: late answers, and errors that nobody has read.
func (s *socket) clear(fd int) {
	_, _ = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	var b [1]byte
	for range 1 << 10 { // more does not fit into it
		if _, _, err := unix.Recvfrom(fd, b[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

func (s *socket) connect(ctx context.Context, to netip.AddrPort) error {
	if err := s.SetDeadline(time.Time{}); err != nil {
		return err
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	ctl := raw.Control(func(fd uintptr) {
		if s.home == s.a.udp {
			s.clear(int(fd))
		}
		var sa unix.Sockaddr = &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
		if domain, failed := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); failed == nil &&
			domain == unix.AF_INET {
			if !to.Addr().Is4() {
				err = unix.EAFNOSUPPORT
				return
			}
			sa = &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()}
		}
		err = unix.Connect(int(fd), sa)
	})
	if err := errors.Join(ctl); err != nil {
		return err
	}
	if !errors.Is(err, unix.EINPROGRESS) {
		return err
	}
	return s.connected(ctx)
}

// connected waits until a connection of TCP is there.
func (s *socket) connected(ctx context.Context) error {
	if d, ok := ctx.Deadline(); ok {
		if err := s.SetDeadline(d); err != nil {
			return err
		}
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(fds, 0)
		if n == 0 && err == nil || errors.Is(err, unix.EINTR) {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if failed = err; err == nil && code != 0 {
			failed = unix.Errno(code)
		}
		return true
	})
	return errors.Join(err, failed)
}

// disconnect makes the socket as it was: connect(2) to AF_UNSPEC.
func (s *socket) disconnect() error {
	raw, err := s.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
		failed = connectRaw(fd, &none)
	})
	return errors.Join(err, failed)
}
