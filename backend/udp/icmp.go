package udp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// complaint is an ICMP error a router sends.
type complaint int

const (
	unreachable complaint = iota // net unreachable, or no route (RFC 792, RFC 4443 section 3.1)
	expired                      // time exceeded in transit
	tooLarge                     // fragmentation needed, or packet too big (RFC 1191, RFC 4443 section 3.2)
)

// kind returns ICMP's type and code.
func (c complaint) kind(v6 bool) (byte, byte) {
	switch {
	case c == unreachable && v6:
		return 1, 0
	case c == unreachable:
		return 3, 0
	case c == expired && v6:
		return 3, 0
	case c == expired:
		return 11, 0
	case v6:
		return 2, 0
	}
	return 3, 4
}

const (
	quote4 = 576 - ipv4Header - 8  // RFC 1812 section 4.3.2.3
	quote6 = 1280 - ipv6Header - 8 // RFC 4443 section 2.4(c)
)

// errorMessage builds an ICMP error about p. ICMPv6's checksum is left to the kernel, which
// knows the source address.
func errorMessage(p []byte, v6 bool, c complaint, mtu int) []byte {
	quote := p[:min(len(p), quote4)]
	if v6 {
		quote = p[:min(len(p), quote6)]
	}
	m := make([]byte, 8, 8+len(quote))
	m[0], m[1] = c.kind(v6)
	if c == tooLarge {
		binary.BigEndian.PutUint32(m[4:], uint32(mtu)) // IPv4 has 16 unused bits before 16 of MTU
	}
	m = append(m, quote...)
	if !v6 {
		binary.BigEndian.PutUint16(m[2:], ^sum(m, 0))
	}
	return m
}

// mayComplain reports whether an ICMP error about p is allowed: never about ICMP errors, about
// fragments other than the first, or about what went to or came from more than one host
// (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4(e)).
func mayComplain(p []byte, v6 bool, c complaint) bool {
	if v6 {
		return mayComplain6(p, c)
	}
	src, dst := source(p, false), netip.AddrFrom4([4]byte(p[16:20]))
	if !oneHost(src) || !oneHost(dst) || binary.BigEndian.Uint16(p[6:])&0x1fff != 0 {
		return false
	}
	if p[9] != unix.IPPROTO_ICMP {
		return true
	}
	at := int(p[0]&15) * 4
	return at < len(p) && icmpQuery4(p[at])
}

// icmpQuery4 tells the requests and replies of RFC 792, 950 and 1256 from errors and unknowns.
func icmpQuery4(kind byte) bool {
	switch kind {
	case 0, 8, 9, 10, 13, 14, 15, 16, 17, 18:
		return true
	}
	return false
}

func mayComplain6(p []byte, c complaint) bool {
	src, dst := source(p, true), netip.AddrFrom16([16]byte(p[24:40]))
	if !oneHost(src) || !oneHost(dst) && (c != tooLarge || !dst.IsMulticast()) {
		return false
	}
	next, at := p[6], ipv6Header
	for range 8 { // more extension headers than that are an attack
		switch next {
		case unix.IPPROTO_ICMPV6:
			return at < len(p) && p[at] >= 128 && p[at] != 137 // 137 is a redirect
		case unix.IPPROTO_FRAGMENT:
			if at+8 > len(p) || binary.BigEndian.Uint16(p[at+2:])&^7 != 0 {
				return false
			}
			next, at = p[at], at+8
		case unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS:
			if at+8 > len(p) {
				return false
			}
			next, at = p[at], at+8+int(p[at+1])*8
		default:
			return true
		}
	}
	return false
}

// oneHost reports whether an address can be that of a single host that is not this one's own loopback.
func oneHost(a netip.Addr) bool {
	if a.Is4() && a.As4()[0] >= 240 { // class E and broadcast
		return false
	}
	return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback()
}

// errorSender sends ICMP errors to inner sources. They leave by raw sockets as the host's own
// packets, like those of the kernel: it chooses the source address for the way back, and NAT
// on that way is undone. Written into the TUN link they would be packets that come in from a
// source address of this host, which IPv4 drops as martians.
type errorSender struct {
	fd4, fd6 int // fd6 is -1 where IPv6 is off
	limit    bucket
}

func newErrorSender() (*errorSender, error) {
	e := &errorSender{fd4: -1, fd6: -1, limit: bucket{rate: 100, burst: 50}}
	var err error
	if e.fd4, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK,
		unix.IPPROTO_ICMP); err != nil {
		return nil, fmt.Errorf("open a socket for ICMP errors: %w", err)
	}
	// Nothing is read here: block every type of message (raw(7), ICMP_FILTER = 1).
	if err := unix.SetsockoptInt(e.fd4, unix.SOL_RAW, 1, -1); err != nil {
		e.close()
		return nil, fmt.Errorf("filter the socket for ICMP errors: %w", err)
	}
	fd6, err := unix.Socket(unix.AF_INET6, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_ICMPV6)
	if err != nil {
		return e, nil // IPv6 is off: no IPv6 packet will ask for one
	}
	e.fd6 = fd6
	none := unix.ICMPv6Filter{}
	for i := range none.Data {
		none.Data[i] = 0xffffffff
	}
	if err := unix.SetsockoptICMPv6Filter(e.fd6, unix.IPPROTO_ICMPV6, unix.ICMPV6_FILTER, &none); err != nil {
		e.close()
		return nil, fmt.Errorf("filter the socket for ICMPv6 errors: %w", err)
	}
	return e, nil
}

// send reports whether an error about p went out.
func (e *errorSender) send(p []byte, v6 bool, c complaint, mtu int) bool {
	if !mayComplain(p, v6, c) || !e.limit.take(time.Now()) {
		return false
	}
	m := errorMessage(p, v6, c, mtu)
	to := source(p, v6)
	if v6 {
		return e.fd6 >= 0 && unix.Sendto(e.fd6, m, 0, &unix.SockaddrInet6{Addr: to.As16()}) == nil
	}
	return unix.Sendto(e.fd4, m, 0, &unix.SockaddrInet4{Addr: to.As4()}) == nil
}

func (e *errorSender) close() {
	for _, fd := range []int{e.fd4, e.fd6} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// bucket limits a rate: burst at once, then rate a second.
type bucket struct {
	rate, burst float64
	mu          sync.Mutex
	level       float64 // how much of burst is used
	at          time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.level = max(0, b.level-now.Sub(b.at).Seconds()*b.rate)
	b.at = now
	if b.level+1 > b.burst {
		return false
	}
	b.level++
	return true
}
