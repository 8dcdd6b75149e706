package udp

import (
	"encoding/binary"
	"net/netip"
)

const (
	ipv4Header = 20 // bytes, without options
	ipv6Header = 40
	udpHeader  = 8
)

// header is what the data path needs of an inner packet.
type header struct {
	v6       bool
	ttl      byte // or hop limit
	src, dst key
}

// parse reads the header of an inner packet that fills p exactly, as one that came in a
// datagram must. The second result is "" or the reason to drop it.
func parse(p []byte) (header, Reason) {
	if len(p) == 0 {
		return header{}, TooShort
	}
	switch p[0] >> 4 {
	case 4:
		return parse4(p)
	case 6:
		return parse6(p)
	}
	return header{}, BadHeader
}

func parse4(p []byte) (header, Reason) {
	if len(p) < ipv4Header {
		return header{}, TooShort
	}
	n := int(p[0]&15) * 4
	if n < ipv4Header || n > len(p) || int(binary.BigEndian.Uint16(p[2:])) != len(p) || sum(p[:n], 0) != 0xffff {
		return header{}, BadHeader
	}
	return header{ttl: p[8], src: key4(p[12:]), dst: key4(p[16:])}, ""
}

func parse6(p []byte) (header, Reason) {
	if len(p) < ipv6Header {
		return header{}, TooShort
	}
	if int(binary.BigEndian.Uint16(p[4:]))+ipv6Header != len(p) {
		return header{}, BadHeader
	}
	return header{v6: true, ttl: p[7], src: key16(p[8:]), dst: key16(p[24:])}, ""
}

// decrement takes one off the TTL or hop limit of a packet that [parse] accepted and whose
// TTL is above zero. The IPv4 checksum is corrected in place (RFC 1624 equation 3).
func decrement(p []byte, v6 bool) {
	if v6 {
		p[7]--
		return
	}
	old := binary.BigEndian.Uint16(p[8:])
	p[8]--
	c := uint32(^binary.BigEndian.Uint16(p[10:])) + uint32(^old) + uint32(binary.BigEndian.Uint16(p[8:]))
	c = c>>16 + c&0xffff
	c += c >> 16
	binary.BigEndian.PutUint16(p[10:], ^uint16(c))
}

// sum is the ones' complement sum of b (RFC 1071) on top of start.
func sum(b []byte, start uint32) uint16 {
	s := uint64(start)
	for len(b) >= 4 {
		s += uint64(binary.BigEndian.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(binary.BigEndian.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// source returns the inner source address of a packet that parse accepted.
func source(p []byte, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(p[8:24]))
	}
	return netip.AddrFrom4([4]byte(p[12:16]))
}

// dontFragment says whether routers must not fragment the packet.
func dontFragment(p []byte, v6 bool) bool { return v6 || p[6]&0x40 != 0 }
