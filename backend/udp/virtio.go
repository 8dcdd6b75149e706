package udp

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const (
	// virtioSize is that of struct virtio_net_hdr, in bytes.
	virtioSize = 10
	// headroom is left before every packet for its virtio header, and aligns what follows.
	headroom = 16

	tcpHeader   = 20 // bytes, without options
	tcpChecksum = 16 // where it is in the header
	udpChecksum = 6
)

// virtio is struct virtio_net_hdr: what the one who takes a packet has yet to do with it
// (virtio 1.3, section 5.1.6). Multi-byte fields are in the order of the machine.
type virtio struct {
	flags       byte
	kind        byte   // VIRTIO_NET_HDR_GSO_*
	header      uint16 // length of all headers; a hint
	segment     uint16 // payload of every segment but the last
	sumStart    uint16 // the transport header
	sumPosition uint16 // the checksum, counted from sumStart
}

func decodeVirtio(b []byte) virtio {
	order := binary.NativeEndian
	return virtio{b[0], b[1], order.Uint16(b[2:]), order.Uint16(b[4:]), order.Uint16(b[6:]), order.Uint16(b[8:])}
}

func (v virtio) encode(b []byte) {
	order := binary.NativeEndian
	b[0], b[1] = v.flags, v.kind
	order.PutUint16(b[2:], v.header)
	order.PutUint16(b[4:], v.segment)
	order.PutUint16(b[6:], v.sumStart)
	order.PutUint16(b[8:], v.sumPosition)
}

var errVirtio = errors.New("the virtio header does not fit the packet")

// packet is an inner packet in one piece, or in two when the second is part of a larger one.
type packet struct{ head, body []byte }

func (p packet) len() int { return len(p.head) + len(p.body) }

// whole returns the packet in one piece, which is a copy if it was not.
func (p packet) whole() []byte {
	if len(p.body) == 0 {
		return p.head
	}
	return append(append(make([]byte, 0, p.len()), p.head...), p.body...)
}

// segmenter finishes packets that the kernel delivers before checksums and segmentation. It
// writes headers of its own; payloads stay where they are. It keeps what it has returned
// until it is reset.
type segmenter struct {
	heads   []byte
	packets []packet
}

func (s *segmenter) reset() { s.heads, s.packets = s.heads[:0], s.packets[:0] }

// finish appends what p is on the wire to the packets. p must have passed [parse].
func (s *segmenter) finish(v virtio, p []byte) error {
	if v.kind != unix.VIRTIO_NET_HDR_GSO_NONE {
		return s.split(v, p)
	}
	if v.flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
		start, at := int(v.sumStart), int(v.sumStart)+int(v.sumPosition)
		if at+2 > len(p) {
			return fmt.Errorf("%w: a checksum at %d of %d bytes", errVirtio, at, len(p))
		}
		// The field has the sum of the pseudo-header.
		c := ^sum(p[start:], 0)
		if c == 0 && v.sumPosition == udpChecksum {
			c = 0xffff // zero says that there is none (RFC 768)
		}
		binary.BigEndian.PutUint16(p[at:], c)
	}
	s.packets = append(s.packets, packet{head: p})
	return nil
}

// layout is where the headers of a packet to be split are.
type layout struct {
	v6, udp   bool
	transport int // start of the transport header
	payload   int
}

func (v virtio) layout(p []byte) (layout, error) {
	l := layout{v6: p[0]>>4 == 6, udp: v.kind == unix.VIRTIO_NET_HDR_GSO_UDP_L4, transport: int(v.sumStart)}
	least, position := tcpHeader, uint16(tcpChecksum)
	switch {
	case l.udp:
		least, position = udpHeader, udpChecksum
	case v.kind == unix.VIRTIO_NET_HDR_GSO_TCPV4 && !l.v6, v.kind == unix.VIRTIO_NET_HDR_GSO_TCPV6 && l.v6:
	default:
		return l, fmt.Errorf("%w: segmentation of type %d", errVirtio, v.kind)
	}
	if l.transport < l.network(p) || !l.v6 && l.transport != l.network(p) || v.sumPosition != position ||
		v.segment == 0 {
		return l, fmt.Errorf("%w: transport header at %d, checksum at %d, segments of %d bytes", errVirtio, v.sumStart,
			v.sumPosition, v.segment)
	}
	if l.transport+least > len(p) {
		return l, fmt.Errorf("%w: transport header at %d of %d bytes", errVirtio, v.sumStart, len(p))
	}
	// The length of the headers is not to be trusted: for a forwarded packet it may be that of
	// the first segment.
	l.payload = l.transport + least
	if !l.udp {
		l.payload = l.transport + int(p[l.transport+12]>>4)*4
	}
	if l.payload < l.transport+least || l.payload >= len(p) {
		return l, fmt.Errorf("%w: payload at %d of %d bytes", errVirtio, l.payload, len(p))
	}
	return l, nil
}

// network is the length of the IP header, for IPv6 without extensions.
func (l layout) network(p []byte) int {
	if l.v6 {
		return ipv6Header
	}
	return int(p[0]&15) * 4
}

// split makes the segments of a large packet.
func (s *segmenter) split(v virtio, p []byte) error {
	l, err := v.layout(p)
	if err != nil {
		return err
	}
	at := l.transport + int(v.sumPosition)
	// The field has the sum of the pseudo-header, with the length of all segments in it.
	pseudo := add(binary.BigEndian.Uint16(p[at:]), ^uint16(len(p)-l.transport))
	for n, start := 0, l.payload; start < len(p); n, start = n+1, start+int(v.segment) {
		body := p[start:min(start+int(v.segment), len(p))]
		from := len(s.heads)
		s.heads = append(s.heads, p[:l.payload]...)
		head := s.heads[from:len(s.heads):len(s.heads)]
		l.number(head, n, len(body))
		t := head[l.transport:]
		if l.udp {
			binary.BigEndian.PutUint16(t[4:], uint16(udpHeader+len(body)))
		} else {
			l.sequence(t, n, uint32(n)*uint32(v.segment), start+len(body) == len(p))
		}
		binary.BigEndian.PutUint16(t[v.sumPosition:], add(pseudo, uint16(len(t)+len(body))))
		// A TCP header has an even length, so the payload's words are those of the whole.
		c := ^sum(body, sum(t, 0))
		if c == 0 && l.udp {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(t[v.sumPosition:], c)
		s.packets = append(s.packets, packet{head, body})
	}
	return nil
}

// number sets lengths and identification in the IP header of the n-th segment.
func (l layout) number(head []byte, n, body int) {
	if l.v6 {
		binary.BigEndian.PutUint16(head[4:], uint16(len(head)-ipv6Header+body))
		return
	}
	binary.BigEndian.PutUint16(head[2:], uint16(len(head)+body))
	binary.BigEndian.PutUint16(head[4:], binary.BigEndian.Uint16(head[4:])+uint16(n))
	seal(head[:l.transport])
}

const (
	flagFIN = 1
	flagPSH = 8
	flagACK = 16
	flagCWR = 128
)

// sequence sets sequence number and flags in the TCP header of the n-th segment: the end of
// the data is marked in the last alone, a reduced window in the first (RFC 3168 section 6.1.2).
func (l layout) sequence(t []byte, n int, offset uint32, last bool) {
	binary.BigEndian.PutUint32(t[4:], binary.BigEndian.Uint32(t[4:])+offset)
	if !last {
		t[13] &^= flagFIN | flagPSH
	}
	if n > 0 {
		t[13] &^= flagCWR
	}
}
