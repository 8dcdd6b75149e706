package health

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// echo sends probes and knows which answer belongs to which. One goroutine reads all its
// sockets; an echo must be closed.
type echo struct {
	sockets []socket
	wake    int // an eventfd that ends the reader
	id      uint16
	done    chan struct{}

	mu     sync.Mutex // guards what follows
	seq    uint16
	nonce  uint64
	asked  map[uint16]*flight                     // echo requests by their sequence number
	knocks map[netip.AddrPort]map[*tries]struct{} // who sent datagrams there, and waits
}

// flight is a probe that is on its way.
type flight struct {
	sent   time.Time
	nonce  uint64
	to     netip.Addr
	source netip.Addr
	tries  *tries
}

// answer is what came back of a probe.
type answer struct {
	rtt     time.Duration // 0: an error came
	from    netip.Addr
	refused Refusals
}

func newEcho() (*echo, error) {
	var seed [10]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("choose numbers for probes: %w", err)
	}
	e := &echo{
		id: binary.NativeEndian.Uint16(seed[:]), nonce: binary.NativeEndian.Uint64(seed[2:]), done: make(chan struct{}),
		asked: map[uint16]*flight{}, knocks: map[netip.AddrPort]map[*tries]struct{}{},
	}
	var err error
	if e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("make an eventfd: %w", err)
	}
	if e.sockets, err = openSockets(); err != nil {
		unix.Close(e.wake)
		return nil, err
	}
	go e.read()
	return e, nil
}

// close ends the reader and waits for it.
func (e *echo) close() error {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, err := unix.Write(e.wake, one)
	if err != nil {
		return fmt.Errorf("end the reader of probes: %w", err)
	}
	<-e.done
	closeSockets(e.sockets)
	unix.Close(e.wake)
	return nil
}

func (e *echo) socket(v4, icmp bool) (socket, bool) {
	for _, s := range e.sockets {
		if s.v4 == v4 && s.icmp == icmp {
			return s, true
		}
	}
	return socket{}, false
}

// tries are the probes of one round: they share a channel, so that a late answer still counts.
type tries struct {
	echo    *echo
	answers chan answer
	seqs    []uint16
	knocked netip.AddrPort
}

// maxTries bounds how many probes a round has at most, so that nobody waits to deliver an answer.
const maxTries = 64

func (e *echo) begin() *tries { return &tries{echo: e, answers: make(chan answer, maxTries)} }

// end forgets the probes that are still on their way. With the last of those to ports, the ports that they were sent
// from are free again.
func (t *tries) end() {
	t.echo.mu.Lock()
	defer t.echo.mu.Unlock()
	for _, seq := range t.seqs {
		delete(t.echo.asked, seq)
	}
	if !t.knocked.IsValid() {
		return
	}
	delete(t.echo.knocks[t.knocked], t)
	if len(t.echo.knocks[t.knocked]) == 0 {
		delete(t.echo.knocks, t.knocked)
	}
	if len(t.echo.knocks) == 0 {
		for _, s := range t.echo.sockets {
			s.release()
		}
	}
}

// ping sends an echo request of size bytes. What kept it from being sent is among the answers.
func (t *tries) ping(to Target, size int) {
	e := t.echo
	dst := to.Addr.Unmap()
	s, ok := e.socket(dst.Is4(), true)
	if !ok || len(t.seqs) == maxTries {
		t.tell(answer{refused: Refusals{NoRoute: true}})
		return
	}
	seq, nonce := e.register(t, dst, to.Source)
	err := s.send(echoRequest(dst, e.id, seq, nonce, size), netip.AddrPortFrom(dst, 0), to.Source)
	t.failed(err)
}

// sendEmpty sends an empty datagram to the tunnel's port: no tunnel takes it for a packet, and
// a host where nothing listens there says so.
func (t *tries) sendEmpty(to netip.AddrPort) {
	e := t.echo
	s, ok := e.socket(to.Addr().Is4(), false)
	if !ok {
		return
	}
	e.mu.Lock()
	if e.knocks[to] == nil {
		e.knocks[to] = map[*tries]struct{}{}
	}
	e.knocks[to][t], t.knocked = struct{}{}, to
	e.mu.Unlock()
	t.failed(s.send(nil, to, netip.Addr{}))
}

func (e *echo) register(t *tries, to, source netip.Addr) (seq uint16, nonce uint64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.seq++; e.asked[e.seq] != nil; e.seq++ {
	}
	e.nonce++
	e.asked[e.seq] = &flight{sent: time.Now(), nonce: e.nonce, to: to, source: source, tries: t}
	t.seqs = append(t.seqs, e.seq)
	return e.seq, e.nonce
}

// failed reports a send that did not happen. A full queue is as good as a lost packet.
func (t *tries) failed(err error) {
	var errno unix.Errno
	switch {
	case err == nil || errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN):
	case errors.As(err, &errno):
		t.tell(answer{refused: sendRefusals(errno)})
	}
}

func (t *tries) tell(a answer) {
	select {
	case t.answers <- a:
	default:
	}
}

// read delivers answers until the echo is closed.
func (e *echo) read() {
	defer close(e.done)
	polled := []unix.PollFd{{Fd: int32(e.wake), Events: unix.POLLIN}}
	for _, s := range e.sockets {
		polled = append(polled, unix.PollFd{Fd: int32(s.fd), Events: unix.POLLIN})
	}
	buf, oob := make([]byte, 1<<16), make([]byte, 512)
	for {
		// A thread waits here rather than the runtime's poller, which gives up on
		// descriptors that report an error alone, as an error queue does.
		if _, err := unix.Poll(polled, -1); err != nil && err != unix.EINTR {
			return
		}
		if polled[0].Revents != 0 {
			return
		}
		for i, s := range e.sockets {
			if polled[i+1].Revents != 0 {
				e.drain(s, buf, oob)
			}
		}
	}
}

func (e *echo) drain(s socket, buf, oob []byte) {
	now := time.Now()
	for {
		quoted, dst, r, ok := s.receiveError(buf, oob)
		if !ok {
			break
		}
		e.refused(s, quoted, dst, r)
	}
	for {
		b, from, ok := s.receive(buf)
		if !ok {
			break
		}
		if m, ok := parseEcho(b, s.v4); ok && s.icmp {
			e.arrived(m, from, now)
		}
	}
	// An error without a place in the queue would be reported by poll(2) for ever.
	_, _ = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
}

func (e *echo) arrived(m message, from netip.Addr, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if f := e.asked[m.seq]; m.id == e.id && f != nil && f.nonce == m.nonce {
		delete(e.asked, m.seq) // a second answer is none
		f.tries.tell(answer{rtt: max(now.Sub(f.sent), time.Microsecond), from: from})
	}
}

func (e *echo) refused(s socket, quoted []byte, dst netip.AddrPort, r refusal) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !s.icmp {
		for t := range e.knocks[dst] {
			t.tell(answer{refused: r.refusals(netip.Addr{})})
		}
		return
	}
	m, ok := parseEcho(quoted, false)
	if f := e.asked[m.seq]; ok && m.id == e.id && f != nil && f.to == dst.Addr() {
		delete(e.asked, m.seq)
		f.tries.tell(answer{refused: r.refusals(f.source)})
	}
}
