package udp

import (
	"encoding/binary"
	"math/bits"
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

// sum is the ones' complement sum of b (RFC 1071) on top of start. The order of bytes in the
// words that are added does not matter until the end, so they are taken eight at a time.
func sum(b []byte, start uint16) uint16 {
	s, carry := uint64(bits.ReverseBytes16(start)), uint64(0)
	for len(b) >= 64 {
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[8:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[16:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[24:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[32:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[40:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[48:]), carry)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b[56:]), carry)
		b = b[64:]
	}
	for len(b) >= 8 {
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(b), carry)
		b = b[8:]
	}
	if len(b) > 0 {
		var last [8]byte
		copy(last[:], b)
		s, carry = bits.Add64(s, binary.LittleEndian.Uint64(last[:]), carry)
	}
	s, carry = bits.Add64(s, 0, carry)
	return bits.ReverseBytes16(fold(s + carry))
}

// fold adds up the 16-bit words of s.
func fold(s uint64) uint16 {
	s = s>>32 + s&0xffffffff
	s = s>>32 + s&0xffffffff
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// add is the ones' complement sum of two words.
func add(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s>>16 + s&0xffff)
}

// seal writes the checksum of an IPv4 header.
func seal(header []byte) {
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^sum(header, 0))
}

// source returns the inner source address of a packet that parse accepted.
func source(p []byte, v6 bool) netip.Addr {
	if v6 {
		return netip.AddrFrom16([16]byte(p[8:24]))
	}
	return netip.AddrFrom4([4]byte(p[12:16]))
}

// dontFragment reports whether routers must not fragment the packet.
func dontFragment(p []byte, v6 bool) bool { return v6 || p[6]&0x40 != 0 }
