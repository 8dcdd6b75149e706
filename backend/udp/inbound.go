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
const receiveMessages = 16

// inbound is the way from the socket to the TUN link. One goroutine owns it.
type inbound struct {
	t       *tunnel
	msgs    []mmsghdr
	names   []sockaddr
	iovs    []unix.Iovec
	data    [][]byte
	control [][]byte
	bufs    [][]byte // packets for the device, each with headroom
	write   [][]byte // the first of bufs, cut to their packets
	bytes   int
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
		bufs:  slab(batchPackets),
		write: make([][]byte, 0, batchPackets),
	}
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

// run moves packets until it is told to stop or the socket fails.
func (in *inbound) run() error {
	for {
		for i := range in.msgs {
			h := &in.msgs[i].hdr
			h.Namelen = uint32(len(in.names[i].raw))
			h.SetControllen(len(in.control[i]))
		}
		n, err := recvmmsg(in.t.sock.fd, in.msgs)
		switch {
		case err == nil:
			in.messages(n)
		case errors.Is(err, unix.EAGAIN):
			if err := wait(in.t.sock.fd, in.t.stop); err != nil {
				return err
			}
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("receive on %s: %w", in.t.spec.Local, err)
		}
	}
}

func (in *inbound) messages(n int) {
	table := in.t.table.Load()
	for i := range n {
		h := &in.msgs[i].hdr
		length := int(in.msgs[i].n)
		segment := length
		if h.Controllen > 0 {
			segment = segmentSize(in.control[i], length)
		}
		in.message(table, in.names[i].addr(), in.data[i][:length], segment, h.Flags&unix.MSG_TRUNC != 0)
	}
	in.flush()
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
	if why := in.refuse(table, from, p); why != "" {
		in.t.count.drop(why, 1)
		return
	}
	if len(in.write) == len(in.bufs) {
		in.flush()
	}
	b := in.bufs[len(in.write)]
	n := copy(b[headroom:], p)
	in.write = append(in.write, b[:headroom+n])
	in.bytes += n
}

// refuse says why a datagram must not reach the TUN link, or "".
func (in *inbound) refuse(table *table, from netip.Addr, p []byte) Reason {
	l := &in.last
	if table == l.table && from == l.outer {
		if h, why := parse(p); why == "" && h.ttl > 0 && h.src == l.src && h.dst == l.dst && h.v6 == l.v6 {
			return l.why
		}
	}
	peer := table.peers[from]
	if peer == nil {
		if from == in.t.spec.Local.WithZone("") {
			return Loop
		}
		return UnknownPeer
	}
	h, why := parse(p)
	switch {
	case why != "":
		return why
	case h.ttl == 0:
		return TTLExpired
	}
	l.table, l.outer, l.v6, l.src, l.dst = table, from, h.v6, h.src, h.dst
	l.why = admit(table, peer, h)
	return l.why
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

// flush writes what has passed. The device merges what belongs to one flow.
func (in *inbound) flush() {
	if len(in.write) == 0 {
		return
	}
	packets := len(in.write)
	if _, err := in.t.dev.Write(in.write, headroom); err != nil {
		// The link is down or gone; in the latter case the reading side ends the tunnel.
		in.t.count.drop(DeviceError, packets)
	} else {
		in.t.count.inPackets.Add(uint64(packets))
		in.t.count.inBytes.Add(uint64(in.bytes))
	}
	in.write, in.bytes = in.write[:0], 0
}
