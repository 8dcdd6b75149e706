package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// maxSegments is how many datagrams one send may hold (UDP_MAX_SEGMENTS of kernels before 6.9).
	maxSegments = 64
	// maxSend keeps a send of several datagrams below what an IP packet can count.
	maxSend = 65000
	// maxDatagram is the largest payload a UDP datagram can have, and any GRO result.
	maxDatagram = 65535
	// bufferBytes is asked for on both sides of the socket: 5 ms at 10 Gb/s.
	bufferBytes = 7 << 20
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// sockaddr is an address as the kernel takes it.
type sockaddr struct {
	raw [unix.SizeofSockaddrInet6]byte
	n   uint32
}

func sockaddrOf(ap netip.AddrPort) sockaddr {
	var s sockaddr
	binary.BigEndian.PutUint16(s.raw[2:], ap.Port())
	if ap.Addr().Is4() {
		binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET)
		a := ap.Addr().As4()
		copy(s.raw[4:], a[:])
		s.n = unix.SizeofSockaddrInet4
		return s
	}
	binary.NativeEndian.PutUint16(s.raw[:], unix.AF_INET6)
	a := ap.Addr().As16()
	copy(s.raw[8:], a[:])
	if zone := ap.Addr().Zone(); zone != "" {
		if l, err := net.InterfaceByName(zone); err == nil {
			binary.NativeEndian.PutUint32(s.raw[24:], uint32(l.Index))
		}
	}
	s.n = unix.SizeofSockaddrInet6
	return s
}

// addr is the address alone, without port and zone.
func (s *sockaddr) addr() netip.Addr {
	switch binary.NativeEndian.Uint16(s.raw[:]) {
	case unix.AF_INET:
		return netip.AddrFrom4([4]byte(s.raw[4:8]))
	case unix.AF_INET6:
		return netip.AddrFrom16([16]byte(s.raw[8:24]))
	}
	return netip.Addr{}
}

// socket is the outer side of a tunnel. Everything that depends on the network namespace is
// opened with it, so its methods work from any thread.
type socket struct {
	fd    int
	probe int // an unbound socket of the same namespace, for path MTUs
	v6    bool
	gso   bool // one call may send several datagrams
}

// openSocket binds a tunnel's UDP socket in the caller's network namespace.
func openSocket(local netip.AddrPort, plain bool) (*socket, error) {
	s := &socket{fd: -1, probe: -1, v6: !local.Addr().Is4()}
	if err := s.prepare(plain); err != nil {
		s.close()
		return nil, err
	}
	at := sockaddrOf(local)
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(s.fd), uintptr(unsafe.Pointer(&at.raw)),
		uintptr(at.n)); errno != 0 {
		s.close()
		if errno == unix.EADDRNOTAVAIL {
			return nil, fmt.Errorf("bind UDP %s: %w: %s is no address of this host", local, errno, local.Addr())
		}
		return nil, fmt.Errorf("bind UDP %s: %w", local, errno)
	}
	return s, nil
}

// prepare opens what is not open yet.
func (s *socket) prepare(plain bool) (err error) {
	family := unix.AF_INET
	if s.v6 {
		family = unix.AF_INET6
	}
	for _, fd := range []*int{&s.fd, &s.probe} {
		if *fd >= 0 {
			continue
		}
		if *fd, err = unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return fmt.Errorf("open a UDP socket: %w", err)
		}
		if !s.v6 {
			continue
		}
		if err := unix.SetsockoptInt(*fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return fmt.Errorf("keep the socket to IPv6: %w", err)
		}
	}
	return s.configure(plain)
}

func (s *socket) configure(plain bool) error {
	for _, opt := range [][2]int{{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF}} {
		if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[0], bufferBytes) == nil {
			continue
		}
		// Without the privilege the kernel takes what net.core.{r,w}mem_max allows.
		if err := unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, opt[1], bufferBytes); err != nil {
			return fmt.Errorf("size the socket's buffers: %w", err)
		}
	}
	if err := s.fragment(false); err != nil {
		return err
	}
	// A send must not wait for long when the underlay's queue is full: packets pile up behind it.
	if err := unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO,
		&unix.Timeval{Usec: 100_000}); err != nil {
		return fmt.Errorf("limit how long a send waits: %w", err)
	}
	if plain {
		return nil
	}
	_, err := unix.GetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_SEGMENT)
	s.gso = err == nil
	// Kernels before 5.0 lack UDP_GRO; datagrams then come one by one.
	if err := unix.SetsockoptInt(s.fd, unix.SOL_UDP, unix.UDP_GRO, 1); err != nil && !errors.Is(err, unix.ENOPROTOOPT) {
		return fmt.Errorf("turn on UDP GRO: %w", err)
	}
	return nil
}

// fragment chooses what becomes of datagrams above the path's MTU: they are split, or the
// send fails with EMSGSIZE.
func (s *socket) fragment(allow bool) error {
	level, opt, value := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO
	if s.v6 {
		level, opt = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER
	}
	if allow {
		value = unix.IP_PMTUDISC_WANT // the IPv6 constants have the same values
	}
	if err := unix.SetsockoptInt(s.fd, level, opt, value); err != nil {
		return fmt.Errorf("set path MTU discovery: %w", err)
	}
	return nil
}

// pathMTU is the largest IP packet the kernel believes the path to a remote carries.
func (s *socket) pathMTU(to *sockaddr) (int, error) {
	if _, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(s.probe), uintptr(unsafe.Pointer(&to.raw)),
		uintptr(to.n)); errno != 0 {
		return 0, fmt.Errorf("ask for the path MTU: %w", errno)
	}
	if s.v6 {
		return unix.GetsockoptInt(s.probe, unix.IPPROTO_IPV6, unix.IPV6_MTU)
	}
	return unix.GetsockoptInt(s.probe, unix.IPPROTO_IP, unix.IP_MTU)
}

// overhead is what the tunnel adds to an inner packet, in bytes.
func (s *socket) overhead() int {
	if s.v6 {
		return ipv6Header + udpHeader
	}
	return ipv4Header + udpHeader
}

func (s *socket) close() {
	for _, fd := range []int{s.fd, s.probe} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Calls that do not wait are made as if they were computing. Told of them, Go's scheduler would
// wake its monitor, a thread, whenever the process was idle before: as much work as the call's own.

// sendmmsg sends what it can. It waits only when the socket's buffer is full.
func sendmmsg(fd int, msgs []mmsghdr) (int, error) {
	many := uintptr(len(msgs))
	n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), many,
		unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.EAGAIN {
		n, _, errno = unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])), many, 0, 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// recvmmsg receives what has come, or gives EAGAIN.
func recvmmsg(fd int, msgs []mmsghdr) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&msgs[0])),
		uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// wait blocks until the link or the socket can be read, and says which. It returns [errStopped]
// once stop can be.
func wait(dev, sock, stop int) (link, datagrams bool, err error) {
	fds := [3]unix.PollFd{{Fd: int32(dev), Events: unix.POLLIN}, {Fd: int32(sock), Events: unix.POLLIN},
		{Fd: int32(stop), Events: unix.POLLIN}}
	for {
		_, err := unix.Poll(fds[:], -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return false, false, fmt.Errorf("wait for packets: %w", err)
		case fds[2].Revents != 0:
			return false, false, errStopped
		case fds[0].Revents&^unix.POLLIN != 0:
			return false, false, fmt.Errorf("wait for packets: %w", unix.ENODEV)
		default:
			return fds[0].Revents != 0, fds[1].Revents != 0, nil
		}
	}
}

var errStopped = errors.New("the tunnel is closing")
