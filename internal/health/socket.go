package health

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// socket is one that sends probes: ICMP or UDP, of one family.
type socket struct {
	fd   int
	v4   bool
	icmp bool
}

// openSockets opens one of each kind in the calling thread's network namespace. A kernel without
// IPv6 has none of it.
func openSockets() ([]socket, error) {
	var out []socket
	for _, s := range []struct {
		v4, icmp           bool
		family, kind, prot int
	}{
		{true, true, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
		{true, false, unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
		{false, true, unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
		{false, false, unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
	} {
		fd, err := unix.Socket(s.family, s.kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, s.prot)
		if !s.v4 && errors.Is(err, unix.EAFNOSUPPORT) {
			continue
		}
		if err == nil {
			out = append(out, socket{fd, s.v4, s.icmp})
			err = out[len(out)-1].setUp()
		}
		if err != nil {
			closeSockets(out)
			if errors.Is(err, unix.EPERM) {
				return nil, fmt.Errorf("open a socket for probes: %w: it needs root, or CAP_NET_RAW", err)
			}
			return nil, fmt.Errorf("open a socket for probes: %w", err)
		}
	}
	return out, nil
}

// release gives back the port that the kernel has chosen for a socket of UDP: connect(2) to AF_UNSPEC does, and fails
// where there is none.
func (s socket) release() {
	if s.icmp {
		return
	}
	none := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	_, _, _ = unix.Syscall(unix.SYS_CONNECT, uintptr(s.fd), uintptr(unsafe.Pointer(&none)), unsafe.Sizeof(none))
}

func closeSockets(all []socket) {
	for _, s := range all {
		unix.Close(s.fd)
	}
}

// solRaw and icmpFilter are of linux/icmp.h; the filter's bits are the types not wanted.
const solRaw, icmpFilter = 255, 1

// setUp asks for errors (ip(7), IP_RECVERR), and for packets that nobody may fragment and
// that the kernel sends whatever it believes the path's MTU to be (IP_PMTUDISC_PROBE).
func (s socket) setUp() error {
	level, recverr, discover, probe := unix.IPPROTO_IPV6, unix.IPV6_RECVERR, unix.IPV6_MTU_DISCOVER,
		unix.IPV6_PMTUDISC_PROBE
	if s.v4 {
		level, recverr, discover, probe = unix.IPPROTO_IP, unix.IP_RECVERR, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_PROBE
	}
	err := errors.Join(
		os.NewSyscallError("setsockopt RECVERR", unix.SetsockoptInt(s.fd, level, recverr, 1)),
		os.NewSyscallError("setsockopt MTU_DISCOVER", unix.SetsockoptInt(s.fd, level, discover, probe)),
	)
	switch {
	case err != nil || !s.icmp:
		return err
	case s.v4:
		wanted := uint32(1) << echoReply4
		return os.NewSyscallError("setsockopt ICMP_FILTER", unix.SetsockoptInt(s.fd, solRaw, icmpFilter,
			int(int32(^wanted))))
	}
	var f unix.ICMPv6Filter
	for i := range f.Data {
		f.Data[i] = 0xffffffff
	}
	f.Data[echoReply6/32] &^= 1 << (echoReply6 % 32)
	return os.NewSyscallError("setsockopt ICMP6_FILTER", unix.SetsockoptICMPv6Filter(s.fd, unix.IPPROTO_ICMPV6,
		unix.ICMPV6_FILTER, &f))
}

// send sends b. An error is asked for again: the kernel reports that of an earlier packet, to somebody
// else, by the next call on the socket, and then forgets it.
func (s socket) send(b []byte, dst netip.AddrPort, source netip.Addr) error {
	var to unix.Sockaddr = &unix.SockaddrInet6{Addr: dst.Addr().As16(), Port: int(dst.Port())}
	if s.v4 {
		to = &unix.SockaddrInet4{Addr: dst.Addr().As4(), Port: int(dst.Port())}
	}
	oob := packetInfo(source)
	var err error
	for range 4 {
		if err = unix.Sendmsg(s.fd, b, oob, to, unix.MSG_DONTWAIT); err == nil {
			return nil
		}
	}
	return err
}

// packetInfo is the control message that chooses a source address (ip(7), IP_PKTINFO; RFC 3542).
func packetInfo(source netip.Addr) []byte {
	if !source.IsValid() {
		return nil
	}
	if source.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: source.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: source.As16()})
}

// receive reads one packet, and false when there is none.
func (s socket) receive(buf []byte) ([]byte, netip.Addr, bool) {
	n, from, err := unix.Recvfrom(s.fd, buf, unix.MSG_DONTWAIT)
	if err != nil {
		return nil, netip.Addr{}, false
	}
	return buf[:n], addrPort(from).Addr(), true
}

// receiveError reads one packet that met an error, with whom it was sent to, and
// false when there is none.
func (s socket) receiveError(buf, oob []byte) (quoted []byte, dst netip.AddrPort, r refusal, ok bool) {
	n, oobn, _, to, err := unix.Recvmsg(s.fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, dst, r, false
	}
	controls, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, dst, r, true
	}
	for _, c := range controls {
		v4 := c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_RECVERR
		if v4 || c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_RECVERR {
			if got, ok := parseRefusal(c.Data); ok {
				r = got
			}
		}
	}
	return buf[:n], addrPort(to), r, true
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}
