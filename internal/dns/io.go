package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// buffers are for one message each. They are taken when there is something to read: hundreds of sockets have nothing.
type buffers struct{ p sync.Pool }

func (b *buffers) get() *[]byte {
	if v, ok := b.p.Get().(*[]byte); ok {
		return v
	}
	v := make([]byte, maxQuestion)
	return &v
}

func (b *buffers) put(v *[]byte) { b.p.Put(v) }

// maxQuestion bounds a question over UDP, in bytes. Longer ones are cut, and are none then.
const maxQuestion = 4096

// runUDP answers questions over UDP until the socket is closed.
func (v *serving) runUDP() {
	raw, err := v.udp.SyscallConn()
	if err != nil {
		return
	}
	pool := &v.s.pool
	for v.life.Err() == nil {
		var b *[]byte
		var n int
		var from unix.Sockaddr
		var failed error
		err := raw.Read(func(fd uintptr) bool {
			b = pool.get()
			n, from, failed = unix.Recvfrom(int(fd), *b, unix.MSG_DONTWAIT)
			if errors.Is(failed, unix.EAGAIN) {
				pool.put(b)
				return false
			}
			return true
		})
		if err != nil {
			return
		}
		if failed == nil { // else an error of an earlier answer that nobody waited for
			v.packet((*b)[:n], from)
		}
		pool.put(b)
	}
}

// packet answers one question over UDP. What panics in it is the question's fault alone.
func (v *serving) packet(b []byte, sa unix.Sockaddr) {
	defer v.survive()
	from, ok := addrPort(sa)
	if !ok || !v.mayAsk(from.Addr()) {
		return
	}
	since := time.Now()
	if !v.pace.take(from.Addr(), since) {
		return
	}
	q, r, elsewhere := v.look(b)
	if !elsewhere {
		v.send(q, r, from, sa, since)
		return
	}
	if !v.asking.take(from.Addr()) {
		return // who floods waits for itself
	}
	v.tasks.Go(func() {
		defer v.asking.give(from.Addr())
		defer v.survive()
		v.send(q, v.elsewhere(q), from, sa, since)
	})
}

// look reads a message and answers it, but where servers elsewhere must be asked.
func (v *serving) look(b []byte) (q *dns.Msg, r reply, elsewhere bool) {
	q = new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		return new(dns.Msg), reply{msg: malformed(b), source: "names"}, false
	}
	r, elsewhere = v.respond(q, nil)
	return q, r, elsewhere
}

// elsewhere answers a question for which servers elsewhere must be asked.
func (v *serving) elsewhere(q *dns.Msg) reply {
	r, _ := v.respond(q, func(w question, q *dns.Msg) reply { return v.forward(v.life, w, q) })
	return r
}

// survive ends a panic: whoever can send what we fail at would end the resolver of everybody.
func (v *serving) survive() {
	if p := recover(); p != nil {
		v.s.panics.Add(1)
		v.s.log.Error("a question could not be answered: this is a mistake in the resolver", "server", v.Key(),
			"panic", fmt.Sprintf("%.200v", p))
	}
}

// malformed is the answer to what cannot be read, where that is at least a question with an ID.
func malformed(b []byte) *dns.Msg {
	if len(b) < 12 || b[2]&0x80 != 0 {
		return nil
	}
	return &dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(b), Response: true, Opcode: int(b[2]>>3) & 15,
		RecursionDesired: b[2]&1 != 0, RecursionAvailable: true, Rcode: dns.RcodeFormatError}}
}

func (v *serving) send(q *dns.Msg, r reply, from netip.AddrPort, sa unix.Sockaddr, since time.Time) {
	if r.msg == nil {
		return
	}
	v.note(q, r, from, since) // before who asked has the answer: what it asks next is noted later
	if out, err := fit(r.msg, room(q)); err == nil {
		v.write(out, sa)
	}
}

// fit encodes an answer. What is larger than the size is left out, with the bit that says so; what cannot be encoded
// is an error of ours.
func fit(m *dns.Msg, size int) ([]byte, error) {
	m.Compress = true
	out, err := m.Pack()
	if err == nil && len(out) > size {
		m.Truncate(size)
		out, err = m.Pack()
	}
	if err == nil && len(out) <= size {
		return out, nil
	}
	head := &dns.Msg{MsgHdr: m.MsgHdr, Question: m.Question}
	head.Rcode, head.Authoritative, head.Truncated = dns.RcodeServerFailure, false, false
	return head.Pack()
}

// write sends an answer. One that finds no room is lost, as any packet may be: it is asked for again.
func (v *serving) write(b []byte, to unix.Sockaddr) {
	raw, err := v.udp.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _ = unix.Sendto(int(fd), b, unix.MSG_DONTWAIT, to) })
}

func addrPort(sa unix.Sockaddr) (netip.AddrPort, bool) {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port)), true
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port)), true
	}
	return netip.AddrPort{}, false
}

// How long a connection may be idle, and how long one message may take (RFC 7766 section 6.2.3).
const (
	tcpIdle    = 10 * time.Second
	tcpMessage = 5 * time.Second
)

// runTCP takes connections until the socket is closed. Beyond the limit the next ones wait in the kernel's queue.
func (v *serving) runTCP() {
	for {
		select {
		case v.conns <- struct{}{}:
		case <-v.life.Done():
			return
		}
		c, err := v.tcp.Accept()
		if err != nil {
			<-v.conns
			if v.life.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of descriptors, or a connection that was reset
			case <-v.life.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		v.tasks.Go(func() {
			defer func() { <-v.conns }()
			defer c.Close()
			defer context.AfterFunc(v.life, func() { c.Close() })()
			v.connection(c)
		})
	}
}

// connection is one over TCP. Its questions are answered as their answers come (RFC 7766 section 6.2.1.1).
type connection struct {
	net.Conn
	v     *serving
	from  netip.AddrPort
	mu    sync.Mutex    // held while a message is written
	slots chan struct{} // questions that servers elsewhere are asked, at a time
	tasks sync.WaitGroup
}

// maxPipelined are the questions of one connection that servers elsewhere are asked at a time.
const maxPipelined = 16

func (v *serving) connection(conn net.Conn) {
	from, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil || !v.mayAsk(from.Addr()) {
		return
	}
	who := from.Addr().Unmap()
	if !v.talking.take(who) {
		return
	}
	defer v.talking.give(who)
	c := &connection{Conn: conn, v: v, from: netip.AddrPortFrom(who, from.Port()),
		slots: make(chan struct{}, maxPipelined)}
	defer c.tasks.Wait()
	defer v.survive()
	for c.next() {
		runtime.Gosched() // others first: there may be more in this connection, without end
	}
}

// next answers one question, and reports whether there may be more.
func (c *connection) next() bool {
	b, err := readMessage(c, tcpIdle, maxQuestion)
	if err != nil {
		return false
	}
	since := time.Now()
	q, r, elsewhere := c.v.look(b)
	switch {
	case elsewhere:
		c.slots <- struct{}{} // each has an end: forward has a time for everything
		c.tasks.Go(func() {
			defer func() { <-c.slots }()
			defer c.v.survive()
			r := reply{msg: busy(q), source: "names"}
			if c.v.asking.take(c.from.Addr()) {
				defer c.v.asking.give(c.from.Addr())
				r = c.v.elsewhere(q)
			}
			c.send(q, r, since)
		})
		return true
	case r.msg == nil:
		return false
	}
	return c.send(q, r, since)
}

// busy is the answer to who has too many questions under way.
func busy(q *dns.Msg) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
	r.RecursionAvailable = true
	edns(q, r)
	extend(q, r, dns.ExtendedErrorCodeNotReady, "too many questions are under way")
	return r
}

// send writes an answer and reports whether that went well.
func (c *connection) send(q *dns.Msg, r reply, since time.Time) bool {
	c.v.note(q, r, c.from, since)
	out, err := fit(r.msg, dns.MaxMsgSize)
	if err == nil {
		c.mu.Lock()
		err = writeMessage(c, out)
		c.mu.Unlock()
	}
	if err != nil {
		c.Close() // half a message may be there: nothing can follow it
		return false
	}
	return true
}

// readMessage reads a message after its length (RFC 1035 section 4.2.2), of at most limit bytes.
func readMessage(c net.Conn, idle time.Duration, limit int) ([]byte, error) {
	if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return nil, err
	}
	var head [2]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(head[:]))
	if n > limit {
		return nil, errors.New("a message that is too long")
	}
	if err := c.SetReadDeadline(time.Now().Add(tcpMessage)); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	_, err := io.ReadFull(c, b)
	return b, err
}

func writeMessage(c net.Conn, b []byte) error {
	if err := c.SetWriteDeadline(time.Now().Add(tcpMessage)); err != nil {
		return err
	}
	_, err := c.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b))), b...))
	return err
}
