package udp

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// batchPackets and batchBytes are how much is read before it is sent.
	batchPackets = 64
	batchBytes   = 32 << 10
	// slot is room for the largest packet and its headroom.
	slot = headroom + maxDatagram + 1
)

// outbound is the way from the TUN link to the remotes.
type outbound struct {
	t        *tunnel
	buf      []byte // a batch, and one more packet
	segments segmenter
	queue    sendQueue
	last     struct { // the route of the packet before: a burst is mostly one flow
		table    *table
		v6       bool
		src, dst key
		to       *hop
		why      Reason
	}
}

func newOutbound(t *tunnel) *outbound {
	return &outbound{t: t, buf: make([]byte, batchBytes+batchPackets*(headroom+8)+slot)}
}

// move sends a batch of what the device has. It says whether there may be more.
func (o *outbound) move() (more bool, err error) {
	more, err = o.batch()
	o.flush()
	return more, err
}

// batch reads what the device has and queues it.
func (o *outbound) batch() (more bool, err error) {
	table := o.t.table.Load()
	for at, packets := 0, 0; packets < batchPackets && at < batchBytes; packets++ {
		b := o.buf[at:]
		n, err := o.t.dev.read(b)
		switch {
		case err == nil:
		case errors.Is(err, unix.EAGAIN):
			return false, nil
		case gone(err):
			return false, err
		default:
			o.t.count.drop(BadHeader, 1)
			continue
		}
		var v virtio
		if o.t.dev.header {
			v = decodeVirtio(b[headroom-virtioSize:])
		}
		o.packet(table, v, b[headroom:headroom+max(0, n)])
		at += (headroom + max(0, n) + 7) &^ 7 // so that every packet is aligned
	}
	return true, nil
}

// packet queues one packet of the device, however many it is on the wire.
func (o *outbound) packet(table *table, v virtio, p []byte) {
	h, why := parse(p)
	if why != "" {
		o.t.count.drop(why, 1)
		return
	}
	to, why, what := o.route(table, h)
	if why == "" {
		decrement(p, h.v6)
	}
	before := len(o.segments.packets)
	if err := o.segments.finish(v, p); err != nil {
		o.t.count.drop(BadHeader, 1)
		return
	}
	packets := o.segments.packets[before:]
	if why != "" {
		o.t.count.drop(why, len(packets))
		if what != nil {
			o.t.complain(packets[0].whole(), h.v6, *what, 0)
		}
		return
	}
	for i := range packets {
		o.queue.add(to, packets[i], o.t.sock.gso)
	}
}

// route decides where a packet goes, or why it does not and what its source is told.
func (o *outbound) route(table *table, h header) (*hop, Reason, *complaint) {
	l := &o.last
	if l.table != table || l.dst != h.dst || l.src != h.src || l.v6 != h.v6 {
		l.table, l.v6, l.src, l.dst = table, h.v6, h.src, h.dst
		l.to, l.why = choose(table, h)
	}
	what := unreachable
	switch {
	case l.why == NoRoute:
		return nil, l.why, &what
	case l.why != "":
		return nil, l.why, nil
	case h.ttl <= 1:
		what = expired
		return nil, TTLExpired, &what
	}
	return l.to, "", nil
}

// choose looks up both ends of a packet that leaves.
func choose(table *table, h header) (*hop, Reason) {
	if from := table.lookup(h.v6, h.src); from == nil || !from.self {
		return nil, ForeignSource
	}
	to := table.lookup(h.v6, h.dst)
	if to == nil || to.self {
		return nil, NoRoute
	}
	return to, ""
}

// send is one message of sendmmsg(2): packets of one length to one remote, the last of which
// may be shorter, as UDP_SEGMENT wants them.
type send struct {
	to      *hop
	packets []packet
	bytes   int
	pieces  int // of memory, once it is built
}

func (s *send) takes(to *hop, n int) bool {
	first, last := s.packets[0].len(), s.packets[len(s.packets)-1].len()
	return s.to == to && last == first && n <= first && len(s.packets) < maxSegments && s.bytes+n <= maxSend
}

// sendQueue collects a batch.
type sendQueue struct {
	sends   []send
	packets int
	bytes   int
	msgs    []mmsghdr
	iovs    []unix.Iovec
	control [][]byte
}

func (q *sendQueue) reset() { q.sends, q.packets, q.bytes = q.sends[:0], 0, 0 }

func (q *sendQueue) add(to *hop, p packet, gso bool) {
	length := p.len()
	q.packets++
	q.bytes += length
	if n := len(q.sends); gso && n > 0 && q.sends[n-1].takes(to, length) {
		s := &q.sends[n-1]
		s.packets = append(s.packets, p)
		s.bytes += length
		return
	}
	if len(q.sends) < cap(q.sends) {
		q.sends = q.sends[:len(q.sends)+1]
	} else {
		q.sends = append(q.sends, send{})
	}
	s := &q.sends[len(q.sends)-1]
	s.to, s.bytes, s.packets = to, length, append(s.packets[:0], p)
}

// build makes the messages of sends from the n-th on.
func (q *sendQueue) build(sends []send) []mmsghdr {
	q.msgs, q.iovs = q.msgs[:0], q.iovs[:0]
	for i := range sends {
		from := len(q.iovs)
		for _, p := range sends[i].packets {
			q.iovs = append(q.iovs, piece(p.head))
			if len(p.body) > 0 {
				q.iovs = append(q.iovs, piece(p.body))
			}
		}
		sends[i].pieces = len(q.iovs) - from
	}
	at := 0
	for i := range sends {
		s := &sends[i]
		m := mmsghdr{hdr: unix.Msghdr{Name: &s.to.to.raw[0], Namelen: s.to.to.n, Iov: &q.iovs[at]}}
		m.hdr.SetIovlen(s.pieces)
		at += s.pieces
		if len(s.packets) > 1 {
			c := q.controlBuffer(i)
			binary.NativeEndian.PutUint16(c[unix.CmsgLen(0):], uint16(s.packets[0].len()))
			m.hdr.Control = &c[0]
			m.hdr.SetControllen(len(c))
		}
		q.msgs = append(q.msgs, m)
	}
	return q.msgs
}

// controlBuffer returns the i-th UDP_SEGMENT control message.
func (q *sendQueue) controlBuffer(i int) []byte {
	for len(q.control) <= i {
		c := make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		h.Level, h.Type = unix.SOL_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
		q.control = append(q.control, c)
	}
	return q.control[i]
}

// flush sends what is queued.
func (o *outbound) flush() {
	q := &o.queue
	lost, lostBytes := 0, 0
	for sends := q.sends; len(sends) > 0; {
		n, err := sendmmsg(o.t.sock.fd, q.build(sends))
		switch {
		case err == nil:
			sends = sends[n:]
		case errors.Is(err, unix.EINTR):
		default:
			l, b := o.failed(&sends[0], err)
			lost, lostBytes, sends = lost+l, lostBytes+b, sends[1:]
		}
	}
	if q.packets > 0 {
		o.t.count.outPackets.Add(uint64(q.packets - lost))
		o.t.count.outBytes.Add(uint64(q.bytes - lostBytes))
	}
	q.reset()
	o.segments.reset()
}

// failed handles a message that the socket refused.
func (o *outbound) failed(s *send, err error) (lost, lostBytes int) {
	if len(s.packets) == 1 {
		if errors.Is(err, unix.EMSGSIZE) && o.tooBig(s) {
			return 0, 0
		}
		if !errors.Is(err, unix.EMSGSIZE) {
			o.t.count.drop(SendError, 1)
		}
		return 1, s.bytes
	}
	switch {
	case errors.Is(err, unix.EIO), errors.Is(err, unix.EOPNOTSUPP):
		// The way out has no checksum offload and this kernel does not segment without it.
		o.t.sock.gso = false
		o.t.log.Info("the underlay takes no segmentation, sending packets one by one", "link", o.t.spec.Link)
	case errors.Is(err, unix.EMSGSIZE), errors.Is(err, unix.EINVAL):
		// A segment is larger than the path's MTU. Each gets its own answer.
	default:
		o.t.count.drop(SendError, len(s.packets))
		return len(s.packets), s.bytes
	}
	for _, p := range s.packets {
		one := send{to: s.to, packets: []packet{p}, bytes: p.len()}
		var single sendQueue
		if _, err := sendmmsg(o.t.sock.fd, single.build([]send{one})); err != nil {
			l, b := o.failed(&one, err)
			lost, lostBytes = lost+l, lostBytes+b
		}
	}
	return lost, lostBytes
}

// tooBig answers a packet that the path to the remote cannot carry in one datagram: the
// sender is told when it can do something about it, or else the datagram is fragmented. It
// says whether the packet went.
func (o *outbound) tooBig(s *send) bool {
	p := s.packets[0].whole()
	v6 := p[0]>>4 == 6
	mtu, err := o.t.sock.pathMTU(&s.to.to)
	inner := mtu - o.t.sock.overhead()
	// IPv6 senders never go below 1280 (RFC 8200 section 5), so telling them less is no use.
	if err == nil && dontFragment(p, v6) && inner < len(p) && inner >= minInner(v6) {
		o.t.count.drop(TooBig, 1)
		o.t.complain(p, v6, tooLarge, inner)
		return false
	}
	if err := o.t.sock.fragment(true); err != nil {
		o.t.count.drop(SendError, 1)
		return false
	}
	var single sendQueue
	_, sent := sendmmsg(o.t.sock.fd, single.build([]send{*s}))
	if err := o.t.sock.fragment(false); err != nil || sent != nil {
		o.t.count.drop(SendError, 1)
	}
	return sent == nil
}

func minInner(v6 bool) int {
	if v6 {
		return 1280
	}
	return 68 // RFC 791
}
