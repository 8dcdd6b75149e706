package udp

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

const (
	// openMerges is how many flows are merged at the same time.
	openMerges = 8
	// mergeParts bounds the packets in one: the kernel takes 64 UDP datagrams, and 1024 pieces.
	mergeParts = 64
)

// flow tells TCP connections and UDP flows apart.
type flow struct {
	src, dst key
	v6, udp  bool
	ports    uint32
}

// merge is a packet that grows by those that follow it in its flow. It refers to their
// payloads and copies none.
type merge struct {
	flow     flow
	first    []byte // the first packet, whose headers become those of the whole
	layout   layout
	segment  int // payload of every packet but the last
	parts    int
	total    int
	sequence uint32 // of what may follow
	closed   bool   // nothing may follow
	header   [virtioSize]byte
	pieces   []unix.Iovec // header, first, the other payloads
}

// merger merges packets of the same flow that follow one another, as the kernel's GRO does, so
// that the receiving host handles them as one. The order within a flow stays.
type merger struct {
	udp    bool // UDP too
	open   [openMerges]*merge
	n      int
	single merge // for packets that are not merged
	write  func(pieces []unix.Iovec, packets, bytes int)
}

func newMerger(udp bool, write func(pieces []unix.Iovec, packets, bytes int)) *merger {
	m := &merger{udp: udp, write: write}
	for i := range m.open {
		m.open[i] = &merge{}
	}
	return m
}

// add takes a packet that [parse] accepted. It must stay unchanged until the flush.
func (m *merger) add(p []byte, h header) {
	l, kind := mergeable(p, h.v6, m.udp)
	if kind == mergeNothing {
		m.flush() // it may be a fragment of any flow
		m.alone(p)
		return
	}
	f := flow{h.src, h.dst, h.v6, l.udp, binary.BigEndian.Uint32(p[l.transport:])}
	at := 0
	for at < m.n && m.open[at].flow != f {
		at++
	}
	if at < m.n {
		if kind == mergeData && m.open[at].take(p, l) {
			return
		}
		m.emit(at)
	}
	if kind != mergeData {
		m.alone(p)
		return
	}
	if m.n == openMerges {
		m.emit(0)
	}
	m.open[m.n].begin(f, p, l)
	m.n++
}

// flush writes what is open.
func (m *merger) flush() {
	for i := range m.n {
		m.finish(m.open[i])
	}
	m.n = 0
}

// emit writes one that is open.
func (m *merger) emit(i int) {
	m.finish(m.open[i])
	m.n--
	m.open[i], m.open[m.n] = m.open[m.n], m.open[i]
}

func (m *merger) alone(p []byte) {
	m.single.begin(flow{}, p, layout{})
	m.finish(&m.single)
}

func (m *merger) finish(g *merge) {
	bytes := g.total
	if g.parts > 1 {
		g.head()
		bytes += (g.parts - 1) * g.layout.payload
	}
	m.write(g.pieces, g.parts, bytes)
}

type mergeKind int

const (
	mergeNothing mergeKind = iota // neither TCP nor UDP, or a part of either
	mergeOrder                    // not to be merged, only kept in its flow's order
	mergeData                     // payload that may be merged
)

// mergeable says what can be done with a packet, and where its headers are.
func mergeable(p []byte, v6, udp bool) (layout, mergeKind) {
	l := layout{v6: v6, transport: ipv4Header}
	protocol := p[9]
	if v6 {
		l.transport, protocol = ipv6Header, p[6]
	} else if p[0] != 0x45 || binary.BigEndian.Uint16(p[6:])&^0x4000 != 0 {
		return l, mergeNothing // options, a fragment, or the reserved bit
	}
	t := p[l.transport:]
	switch {
	case protocol == unix.IPPROTO_UDP && len(t) >= udpHeader:
		l.udp, l.payload = true, l.transport+udpHeader
		if !udp || l.payload == len(p) || int(binary.BigEndian.Uint16(t[4:])) != len(t) || t[6]|t[7] == 0 {
			return l, mergeOrder
		}
		return l, mergeData
	case protocol == unix.IPPROTO_TCP && len(t) >= tcpHeader:
		l.payload = l.transport + int(t[12]>>4)*4
		if l.payload < l.transport+tcpHeader || l.payload >= len(p) || t[13]&^flagPSH != flagACK {
			return l, mergeOrder
		}
		return l, mergeData
	}
	return l, mergeNothing
}

func (g *merge) begin(f flow, p []byte, l layout) {
	g.flow, g.first, g.layout = f, p, l
	g.segment, g.parts, g.total, g.closed = len(p)-l.payload, 1, len(p), false
	g.header = [virtioSize]byte{}
	g.pieces = append(g.pieces[:0], piece(g.header[:]), piece(p))
	if t := p[l.transport:]; !l.udp && l.payload > 0 {
		g.sequence = binary.BigEndian.Uint32(t[4:]) + uint32(g.segment)
		g.closed = t[13]&flagPSH != 0
	}
}

func piece(b []byte) unix.Iovec {
	v := unix.Iovec{Base: &b[0]}
	v.SetLen(len(b))
	return v
}

// take appends a packet's payload, or says that the packet does not follow.
func (g *merge) take(p []byte, l layout) bool {
	body := p[l.payload:]
	if g.closed || l.payload != g.layout.payload || len(body) > g.segment || g.parts == mergeParts ||
		g.total+len(body) > maxDatagram {
		return false
	}
	if !g.sameNetwork(p) || !l.udp && !g.follows(p[l.transport:]) {
		return false
	}
	// Nobody looks at the checksums of a merged packet again.
	if g.parts == 1 && !l.intact(g.first) {
		g.closed = true
		return false
	}
	if !l.intact(p) {
		return false
	}
	g.pieces = append(g.pieces, piece(body))
	g.parts++
	g.total += len(body)
	g.sequence += uint32(len(body))
	g.closed = len(body) < g.segment
	if !l.udp && p[l.transport+13]&flagPSH != 0 {
		g.first[l.transport+13] |= flagPSH
		g.closed = true
	}
	return true
}

// sameNetwork reports whether the IP headers are those of parts of one packet.
func (g *merge) sameNetwork(p []byte) bool {
	f := g.first
	if g.layout.v6 {
		return bytes.Equal(f[:4], p[:4]) && f[7] == p[7]
	}
	if f[1] != p[1] || f[6] != p[6] || f[8] != p[8] {
		return false
	}
	// The identification means nothing when the packet must not be fragmented (RFC 6864).
	return dontFragment(p, false) || binary.BigEndian.Uint16(p[4:]) == binary.BigEndian.Uint16(f[4:])+uint16(g.parts)
}

// follows reports whether a TCP header is that of the next part: all but sequence number, PSH
// and checksum is the same.
func (g *merge) follows(t []byte) bool {
	f := g.first[g.layout.transport:g.layout.payload]
	return binary.BigEndian.Uint32(t[4:]) == g.sequence &&
		bytes.Equal(f[8:13], t[8:13]) && bytes.Equal(f[14:16], t[14:16]) && bytes.Equal(f[18:], t[18:len(f)])
}

// intact verifies the transport checksum.
func (l layout) intact(p []byte) bool {
	return sum(p[l.transport:], l.pseudo(p, len(p)-l.transport)) == 0xffff
}

// pseudo is the sum of the pseudo-header of RFC 9293 or 768, or RFC 8200 section 8.1. The
// transport header follows the fixed IP header.
func (l layout) pseudo(p []byte, length int) uint16 {
	addresses, protocol := p[12:20], uint16(unix.IPPROTO_TCP)
	if l.v6 {
		addresses = p[8:40]
	}
	if l.udp {
		protocol = unix.IPPROTO_UDP
	}
	return sum(addresses, add(protocol, uint16(length)))
}

// head makes the first packet's headers those of the whole.
func (g *merge) head() {
	p, l := g.first, g.layout
	t, length := p[l.transport:], g.total-l.transport
	v := virtio{
		flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, header: uint16(l.payload), segment: uint16(g.segment),
		sumStart: uint16(l.transport), sumPosition: tcpChecksum,
	}
	switch {
	case l.udp:
		v.kind, v.sumPosition = unix.VIRTIO_NET_HDR_GSO_UDP_L4, udpChecksum
		binary.BigEndian.PutUint16(t[4:], uint16(length))
	case l.v6:
		v.kind = unix.VIRTIO_NET_HDR_GSO_TCPV6
	default:
		v.kind = unix.VIRTIO_NET_HDR_GSO_TCPV4
	}
	if l.v6 {
		binary.BigEndian.PutUint16(p[4:], uint16(g.total-ipv6Header))
	} else {
		binary.BigEndian.PutUint16(p[2:], uint16(g.total))
		seal(p[:ipv4Header])
	}
	// The checksum of the rest is the next one's to add.
	binary.BigEndian.PutUint16(t[v.sumPosition:], l.pseudo(p, length))
	v.encode(g.header[:])
}
