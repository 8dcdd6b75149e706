package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
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
	q := new(dns.Msg)
	if err := q.Unpack(b); err != nil {
		v.malformed(b, sa)
		return
	}
	r, elsewhere := v.respond(q, nil)
	if !elsewhere {
		v.send(q, r, from, sa, since)
		return
	}
	select {
	case v.slots <- struct{}{}:
	default:
		v.floor.Add(1)
		return // who floods waits for itself
	}
	v.tasks.Go(func() {
		defer func() { <-v.slots }()
		defer v.survive()
		r, _ := v.respond(q, func(w question, q *dns.Msg) reply { return v.forward(v.life, w, q) })
		v.send(q, r, from, sa, since)
	})
}

func (v *serving) survive() {
	if p := recover(); p != nil {
		v.s.log.Error("a question could not be answered", "server", v.Key(), "panic", p)
	}
}

// malformed answers what cannot be read, where it is at least a question with an ID.
func (v *serving) malformed(b []byte, sa unix.Sockaddr) {
	if len(b) < 12 || b[2]&0x80 != 0 {
		return
	}
	r := make([]byte, 12)
	copy(r, b[:2])
	r[2], r[3] = 0x80|b[2]&0x79, 0x80|dns.RcodeFormatError
	v.write(r, sa)
}

func (v *serving) send(q *dns.Msg, r reply, from netip.AddrPort, sa unix.Sockaddr, since time.Time) {
	if r.msg == nil {
		return
	}
	r.msg.Compress = true
	size := room(q)
	out, err := r.msg.Pack()
	if err == nil && len(out) > size {
		r.msg.Truncate(size)
		out, err = r.msg.Pack()
	}
	if err != nil {
		out, err = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).Pack()
	}
	if err == nil {
		v.write(out, sa)
	}
	v.note(q, r, from, since)
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

// connection answers the questions of one connection, in their order.
func (v *serving) connection(c net.Conn) {
	defer v.survive()
	from, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil || !v.mayAsk(from.Addr()) {
		return
	}
	for {
		b, err := readMessage(c, tcpIdle, maxQuestion)
		if err != nil {
			return
		}
		since := time.Now()
		q := new(dns.Msg)
		if q.Unpack(b) != nil {
			return
		}
		r, _ := v.respond(q, func(w question, q *dns.Msg) reply { return v.forward(v.life, w, q) })
		if r.msg == nil {
			return
		}
		r.msg.Compress = true
		out, err := r.msg.Pack()
		if err != nil || len(out) > dns.MaxMsgSize {
			if out, err = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure).Pack(); err != nil {
				return
			}
		}
		if writeMessage(c, out) != nil {
			return
		}
		v.note(q, r, from, since)
	}
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
