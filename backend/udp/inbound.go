package udp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// receiveMessages is how many messages one recvmmsg(2) may bring, each up to 64 KB of datagrams.
const receiveMessages = 64

// slab cuts one allocation into buffers that hold the largest message. The kernel backs only
// the pages that messages have reached.
func slab(n int) [][]byte {
	all := make([]byte, n*slot)
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = all[i*slot : (i+1)*slot : (i+1)*slot]
	}
	return bufs
}

// inbound is the way from the socket to the TUN link.
type inbound struct {
	t       *tunnel
	msgs    []mmsghdr
	names   []sockaddr
	iovs    []unix.Iovec
	data    [][]byte
	control [][]byte
	most    int // messages to ask for
	merger  *merger
	last    struct { // what is known of the packet before
		table    *table
		outer    netip.Addr
		v6       bool
		src, dst key
		why      Reason
	}
}

func newInbound(t *tunnel) *inbound {
	in := &inbound{
		t:     t,
		msgs:  make([]mmsghdr, receiveMessages),
		names: make([]sockaddr, receiveMessages),
		iovs:  make([]unix.Iovec, receiveMessages),
		data:  slab(receiveMessages),
		most:  2,
	}
	in.merger = newMerger(t.dev.uso, in.write)
	for i := range in.msgs {
		c := make([]byte, unix.CmsgSpace(4))
		in.control = append(in.control, c)
		in.iovs[i].Base = &in.data[i][0]
		in.iovs[i].SetLen(maxDatagram)
		h := &in.msgs[i].hdr
		h.Name, h.Iov, h.Control = &in.names[i].raw[0], &in.iovs[i], &c[0]
		h.SetIovlen(1)
	}
	return in
}

// move passes on a batch of datagrams. It says whether there may be more.
func (in *inbound) move() (more bool, err error) {
	msgs := in.msgs[:in.most]
	for i := range msgs {
		h := &msgs[i].hdr
		h.Namelen = uint32(len(in.names[i].raw))
		h.SetControllen(len(in.control[i]))
	}
	n, err := recvmmsg(in.t.sock.fd, msgs)
	switch {
	case err == nil:
	case errors.Is(err, unix.EAGAIN):
		return false, nil
	case errors.Is(err, unix.EINTR):
		return true, nil
	default:
		return false, fmt.Errorf("receive on %s: %w", in.t.spec.Local, err)
	}
	bytes := in.messages(n)
	if n < len(msgs) {
		return false, nil
	}
	in.most = nextMost(in.most, bytes)
	return true, nil
}

// nextMost is how many messages to ask for when there were as many as were asked for: more
// while they are small, fewer when they leave the processor's cache before they are passed on.
func nextMost(most, bytes int) int {
	switch {
	case bytes > 2*maxDatagram:
		return max(2, most/2)
	case bytes < maxDatagram:
		return min(receiveMessages, 2*most)
	}
	return most
}

// messages passes on what has been received, and returns how many bytes that were.
func (in *inbound) messages(n int) int {
	table := in.t.table.Load()
	bytes := 0
	for i := range n {
		h := &in.msgs[i].hdr
		length := int(in.msgs[i].n)
		bytes += length
		segment := length
		if h.Controllen > 0 {
			segment = segmentSize(in.control[i], length)
		}
		in.message(table, in.names[i].addr(), in.data[i][:length], segment, h.Flags&unix.MSG_TRUNC != 0)
	}
	in.merger.flush()
	return bytes
}

// segmentSize reads the UDP_GRO control message; without one, the message is one datagram.
func segmentSize(control []byte, length int) int {
	h := (*unix.Cmsghdr)(unsafe.Pointer(&control[0]))
	if h.Level != unix.SOL_UDP || h.Type != unix.UDP_GRO {
		return length
	}
	if n := int(int32(binary.NativeEndian.Uint32(control[unix.CmsgLen(0):]))); n > 0 {
		return n
	}
	return length
}

// message takes the datagrams of one sender, each of segment bytes but the last.
func (in *inbound) message(table *table, from netip.Addr, data []byte, segment int, truncated bool) {
	if truncated {
		in.t.count.drop(Oversized, 1)
		return
	}
	if len(data) == 0 {
		in.packet(table, from, nil)
		return
	}
	for len(data) > 0 {
		n := min(segment, len(data))
		in.packet(table, from, data[:n])
		data = data[n:]
	}
}

// packet passes one datagram's payload on when it may pass.
func (in *inbound) packet(table *table, from netip.Addr, p []byte) {
	h, why := in.refuse(table, from, p)
	switch {
	case why != "":
		in.t.count.drop(why, 1)
	case in.t.dev.header:
		in.merger.add(p, h)
	default:
		in.merger.alone(p)
	}
}

// refuse says why a datagram must not reach the TUN link, or "".
func (in *inbound) refuse(table *table, from netip.Addr, p []byte) (header, Reason) {
	l := &in.last
	known := table == l.table && from == l.outer
	if !known && table.peers[from] == nil {
		if from == in.t.spec.Local.WithZone("") {
			return header{}, Loop
		}
		return header{}, UnknownPeer
	}
	h, why := parse(p)
	switch {
	case why != "":
		return h, why
	case h.ttl == 0:
		return h, TTLExpired
	case known && h.src == l.src && h.dst == l.dst && h.v6 == l.v6:
		return h, l.why
	}
	l.table, l.outer, l.v6, l.src, l.dst = table, from, h.v6, h.src, h.dst
	l.why = admit(table, table.peers[from], h)
	return h, l.why
}

// admit checks both ends of a packet that came from peer.
func admit(table *table, peer *hop, h header) Reason {
	src := table.lookup(h.v6, h.src)
	switch {
	case src == nil:
		return ForeignSource
	case src.self:
		return Loop
	case src != peer:
		return ForeignSource
	}
	if dst := table.lookup(h.v6, h.dst); dst == nil || !dst.self {
		return ForeignDestination
	}
	return ""
}

// write hands what has passed to the device.
func (in *inbound) write(pieces []unix.Iovec, packets, bytes int) {
	if err := in.t.dev.write(pieces); err != nil {
		// The link is down or gone; in the latter case the reading side ends the tunnel.
		in.t.count.drop(DeviceError, packets)
		return
	}
	in.t.count.inPackets.Add(uint64(packets))
	in.t.count.inBytes.Add(uint64(bytes))
}
