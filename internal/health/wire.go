package health

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Lengths in bytes.
const (
	ipv4Header = 20
	ipv6Header = 40
	icmpHeader = 8
	// smallData is what ping(8) sends, and room for the nonce.
	smallData = 56
	nonceData = 8
)

// ICMP message types (RFC 792; RFC 4443).
const (
	echoReply4, echoRequest4         = 0, 8
	echoRequest6, echoReply6         = 128, 129
	unreachable4, exceeded4          = 3, 11
	unreachable6, tooBig6, exceeded6 = 1, 2, 3
)

// overhead is what an echo request has around its data.
func overhead(a netip.Addr) int {
	if a.Is4() {
		return ipv4Header + icmpHeader
	}
	return ipv6Header + icmpHeader
}

// echoRequest is a request whose packet has size bytes with its IP header. The kernel
// fills in the checksum of ICMPv6, which covers addresses it has yet to choose.
func echoRequest(dst netip.Addr, id, seq uint16, nonce uint64, size int) []byte {
	b := make([]byte, icmpHeader+max(size-overhead(dst), nonceData))
	b[0] = echoRequest6
	if dst.Is4() {
		b[0] = echoRequest4
	}
	binary.BigEndian.PutUint16(b[4:], id)
	binary.BigEndian.PutUint16(b[6:], seq)
	binary.BigEndian.PutUint64(b[icmpHeader:], nonce)
	if dst.Is4() {
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		sum += uint32(b[len(b)-1]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// message is an echo reply, or the echo request that an error quotes.
type message struct {
	kind    byte
	id, seq uint16
	nonce   uint64 // 0 when the quotation ends before it
}

// parseEcho takes the ICMP message out of what a raw socket received: of IPv4 the
// header comes with it.
func parseEcho(b []byte, withHeader bool) (message, bool) {
	if withHeader {
		if len(b) < ipv4Header {
			return message{}, false
		}
		n := int(b[0]&0xf) * 4
		if n < ipv4Header || n > len(b) {
			return message{}, false
		}
		b = b[n:]
	}
	if len(b) < icmpHeader {
		return message{}, false
	}
	m := message{kind: b[0], id: binary.BigEndian.Uint16(b[4:]), seq: binary.BigEndian.Uint16(b[6:])}
	if len(b) >= icmpHeader+nonceData {
		m.nonce = binary.BigEndian.Uint64(b[icmpHeader:])
	}
	return m, true
}

// refusal is an error from a socket's error queue (ip(7), IP_RECVERR).
type refusal struct {
	errno    unix.Errno
	origin   byte
	kind     byte
	code     byte
	info     uint32
	offender netip.Addr
}

// parseRefusal reads struct sock_extended_err and the address behind it.
func parseRefusal(b []byte) (refusal, bool) {
	const size = 16
	if len(b) < size {
		return refusal{}, false
	}
	r := refusal{errno: unix.Errno(binary.NativeEndian.Uint32(b)), origin: b[4], kind: b[5], code: b[6],
		info: binary.NativeEndian.Uint32(b[8:])}
	who := b[size:]
	if len(who) >= 8 {
		switch binary.NativeEndian.Uint16(who) {
		case unix.AF_INET:
			r.offender = netip.AddrFrom4([4]byte(who[4:8]))
		case unix.AF_INET6:
			if len(who) >= 24 {
				r.offender = netip.AddrFrom16([16]byte(who[8:24]))
			}
		}
	}
	return r, true
}

// refusals says what an error means, to a sender with that source address.
func (r refusal) refusals(source netip.Addr) Refusals {
	switch r.origin {
	case unix.SO_EE_ORIGIN_LOCAL:
		if r.errno == unix.EMSGSIZE {
			return Refusals{TooBig: int(r.info)}
		}
		return sendRefusals(r.errno)
	case unix.SO_EE_ORIGIN_ICMP:
		return r.unreachable(source, r.kind == unreachable4 && r.code == 4, r.kind == unreachable4, []byte{9, 10, 13},
			3)
	case unix.SO_EE_ORIGIN_ICMP6:
		return r.unreachable(source, r.kind == tooBig6, r.kind == unreachable6, []byte{1, 5, 6}, 4)
	}
	return Refusals{}
}

func (r refusal) unreachable(source netip.Addr, tooBig, unreachable bool, prohibited []byte, port byte) Refusals {
	switch {
	case tooBig:
		return Refusals{TooBig: int(r.info)}
	case !unreachable: // time exceeded: a loop
		return Refusals{Host: true}
	case r.code == port:
		return Refusals{Port: true}
	}
	for _, c := range prohibited {
		if r.code == c {
			return Refusals{Prohibited: true}
		}
	}
	// The kernel tells itself when a neighbour does not resolve.
	if r.offender.IsValid() && r.offender == source {
		return Refusals{Neighbour: true}
	}
	return Refusals{Host: true}
}

// sendRefusals says what the error of a send means.
func sendRefusals(errno unix.Errno) Refusals {
	switch errno {
	case unix.ENETUNREACH, unix.EADDRNOTAVAIL, unix.EINVAL, unix.EAFNOSUPPORT:
		return Refusals{NoRoute: true}
	case unix.EHOSTUNREACH:
		return Refusals{Host: true}
	case unix.EMSGSIZE:
		return Refusals{Link: true}
	case unix.EPERM, unix.EACCES:
		return Refusals{Denied: true}
	}
	return Refusals{}
}

// merge adds what o saw.
func (r *Refusals) merge(o Refusals) {
	r.Neighbour = r.Neighbour || o.Neighbour
	r.NoRoute = r.NoRoute || o.NoRoute
	r.Denied = r.Denied || o.Denied
	r.Prohibited = r.Prohibited || o.Prohibited
	r.Host = r.Host || o.Host
	r.Port = r.Port || o.Port
	r.Link = r.Link || o.Link
	if o.TooBig > 0 && (r.TooBig == 0 || o.TooBig < r.TooBig) {
		r.TooBig = o.TooBig
	}
}
