package udp

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/tun"
)

// batchPackets is how many packets are collected before they are passed on. A packet of 64 KB
// splits into as many at an MSS of 512; for a smaller MSS the end of it is dropped.
const batchPackets = 128

// slab cuts one allocation into buffers that hold the largest packet and its headroom. The
// kernel backs only the pages that packets have reached.
func slab(n int) [][]byte {
	const size = headroom + maxDatagram + 1
	all := make([]byte, n*size)
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = all[i*size : (i+1)*size : (i+1)*size]
	}
	return bufs
}

// outbound is the way from the TUN link to the remotes. One goroutine owns it.
type outbound struct {
	t     *tunnel
	bufs  [][]byte
	sizes []int
	queue sendQueue
	last  struct { // the route of the packet before: a burst is mostly one flow
		table    *table
		v6       bool
		src, dst key
		to       *hop
		why      Reason
	}
}

func newOutbound(t *tunnel) *outbound {
	// Whatever was read before, there is room for the parts of one more large packet.
	return &outbound{t: t, bufs: slab(2 * batchPackets), sizes: make([]int, 2*batchPackets)}
}

// run moves packets until the device ends; it returns why.
func (o *outbound) run() error {
	for {
		if err := wait(o.t.dev.fd, o.t.stop); err != nil {
			return err
		}
		n, err := o.read()
		o.handle(n)
		if err != nil {
			return err
		}
	}
}

// read takes what the device has, up to a batch: one large packet that was split, or small
// ones, which then leave together too.
func (o *outbound) read() (int, error) {
	total := 0
	for total < batchPackets {
		n, err := o.t.dev.Read(o.bufs[total:], o.sizes[total:], headroom)
		if err != nil && gone(err) {
			return total, err
		}
		if err != nil {
			o.t.count.drop(BadHeader, 1)
		}
		if err == nil || errors.Is(err, tun.ErrTooManySegments) {
			total += n
		}
		if n != 1 || !ready(o.t.dev.fd) {
			break
		}
	}
	return total, nil
}

func (o *outbound) handle(n int) {
	table := o.t.table.Load()
	bytes := 0
	for i := range n {
		p := o.bufs[i][headroom : headroom+o.sizes[i]]
		if to := o.route(table, p); to != nil {
			o.queue.add(to, p, o.t.sock.gso)
			bytes += len(p)
		}
	}
	if len(o.queue.sends) > 0 {
		packets := o.queue.packets
		lost, lostBytes := o.flush()
		o.t.count.outPackets.Add(uint64(packets - lost))
		o.t.count.outBytes.Add(uint64(bytes - lostBytes))
	}
}

// route decides where a packet goes and makes it ready for the way, or drops it: nil.
func (o *outbound) route(table *table, p []byte) *hop {
	h, why := parse(p)
	if why != "" {
		o.t.count.drop(why, 1)
		return nil
	}
	l := &o.last
	if l.table != table || l.dst != h.dst || l.src != h.src || l.v6 != h.v6 {
		l.table, l.v6, l.src, l.dst = table, h.v6, h.src, h.dst
		l.to, l.why = choose(table, h)
	}
	switch {
	case l.why != "":
		o.t.count.drop(l.why, 1)
		if l.why == NoRoute {
			o.t.complain(p, h.v6, unreachable, 0)
		}
		return nil
	case h.ttl <= 1:
		o.t.count.drop(TTLExpired, 1)
		o.t.complain(p, h.v6, expired, 0)
		return nil
	}
	decrement(p, h.v6)
	return l.to
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
	packets [][]byte
	bytes   int
}

func (s *send) takes(to *hop, p []byte) bool {
	first, last := len(s.packets[0]), len(s.packets[len(s.packets)-1])
	return s.to == to && last == first && len(p) <= first && len(s.packets) < maxSegments && s.bytes+len(p) <= maxSend
}

// sendQueue collects what one read has brought.
type sendQueue struct {
	sends   []send
	packets int
	msgs    []mmsghdr
	iovs    []unix.Iovec
	control [][]byte
}

func (q *sendQueue) add(to *hop, p []byte, gso bool) {
	q.packets++
	if n := len(q.sends); gso && n > 0 && q.sends[n-1].takes(to, p) {
		s := &q.sends[n-1]
		s.packets = append(s.packets, p)
		s.bytes += len(p)
		return
	}
	if len(q.sends) < cap(q.sends) {
		q.sends = q.sends[:len(q.sends)+1]
	} else {
		q.sends = append(q.sends, send{})
	}
	s := &q.sends[len(q.sends)-1]
	s.to, s.bytes, s.packets = to, len(p), append(s.packets[:0], p)
}

// build makes the messages of sends from the n-th on.
func (q *sendQueue) build(sends []send) []mmsghdr {
	q.msgs, q.iovs = q.msgs[:0], q.iovs[:0]
	for i := range sends {
		for _, p := range sends[i].packets {
			v := unix.Iovec{Base: &p[0]}
			v.SetLen(len(p))
			q.iovs = append(q.iovs, v)
		}
	}
	at := 0
	for i := range sends {
		s := &sends[i]
		m := mmsghdr{hdr: unix.Msghdr{Name: &s.to.to.raw[0], Namelen: s.to.to.n, Iov: &q.iovs[at]}}
		m.hdr.SetIovlen(len(s.packets))
		at += len(s.packets)
		if len(s.packets) > 1 {
			c := q.controlBuffer(i)
			binary.NativeEndian.PutUint16(c[unix.CmsgLen(0):], uint16(len(s.packets[0])))
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

// flush sends what is queued and returns how many packets and bytes did not go.
func (o *outbound) flush() (lost, lostBytes int) {
	q := &o.queue
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
	q.sends, q.packets = q.sends[:0], 0
	return lost, lostBytes
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
		one := send{to: s.to, packets: [][]byte{p}, bytes: len(p)}
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
	p := s.packets[0]
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
