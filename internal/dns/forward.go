package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// How long one server elsewhere has for an answer, and all together. The C library gives up after five seconds.
const (
	askTime   = 1900 * time.Millisecond
	totalTime = 4500 * time.Millisecond
)

// inquiry is what servers elsewhere are asked: the same of several askers is asked once.
type inquiry struct {
	where   string // the place that is asked from, and whom
	name    string
	qtype   uint16
	do, off bool // DNSSEC records are wanted; they are not to be checked (RFC 4035 sections 3.2.1 and 3.2.2)
}

// answerOf is what came of an inquiry.
type answerOf struct {
	msg    *dns.Msg // nil: nobody answered
	source string
	steps  []string
}

// forward answers by what servers elsewhere say.
func (v *serving) forward(ctx context.Context, w question, q *dns.Msg) reply {
	servers, where := v.upstreams()
	i := inquiry{where: where, name: w.name, qtype: w.qtype, off: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		i.do = opt.Do()
	}
	if !q.RecursionDesired {
		r := new(dns.Msg).SetRcode(q, dns.RcodeRefused)
		r.RecursionAvailable = true
		edns(q, r)
		return reply{msg: r, source: "names", steps: []string{"not asked elsewhere: the question does not want that"}}
	}
	if m, left := v.s.cache.get(i); m != nil {
		return reply{msg: dress(q, m), source: "cache", steps: []string{fmt.Sprintf("from the cache, %d s left", left)}}
	}
	ctx, cancel := context.WithTimeout(ctx, totalTime)
	defer cancel()
	a, err := v.s.asking.do(ctx, i, v.asking.used(), func() answerOf { return v.askAll(i, servers) })
	if err != nil || a.msg == nil {
		r := new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		r.RecursionAvailable = true
		edns(q, r)
		code, text := dns.ExtendedErrorCodeNoReachableAuthority, "no server answers"
		if len(servers) == 0 {
			code, text = dns.ExtendedErrorCodeNotReady, "there is no server to ask"
		} else if errors.Is(err, errBusy) {
			code, text = dns.ExtendedErrorCodeNotReady, err.Error()
		}
		extend(q, r, code, text)
		return reply{msg: r, source: a.source, steps: append(a.steps, text)}
	}
	return reply{msg: dress(q, a.msg), source: a.source, steps: a.steps}
}

// dress makes what a server said the answer to a question: with its ID, its spelling of the name, and EDNS where it has
// that.
func dress(q, m *dns.Msg) *dns.Msg {
	r := m.Copy()
	r.Id, r.Question = q.Id, q.Question
	r.RecursionDesired, r.CheckingDisabled = q.RecursionDesired, q.CheckingDisabled
	r.Authoritative, r.RecursionAvailable, r.Truncated = false, true, false
	opt := q.IsEdns0()
	r.AuthenticatedData = m.AuthenticatedData && (q.AuthenticatedData || opt != nil && opt.Do()) // RFC 6840 section 5.8
	if len(m.Question) == 1 {
		for _, rr := range r.Answer {
			if rr.Header().Name == m.Question[0].Name {
				rr.Header().Name = q.Question[0].Name
			}
		}
	}
	edns(q, r)
	return r
}

// askAll asks one server after the other until one has an answer that is one.
func (v *serving) askAll(i inquiry, servers []netip.AddrPort) (out answerOf) {
	defer v.survive() // what a server sent
	life := v.s.life  // others may wait for the same
	if v.ask != nil {
		life = v.life
	}
	ctx, cancel := context.WithTimeout(life, totalTime)
	defer cancel()
	servers = v.s.health.order(i.where, servers)
	if len(servers) == 1 { // a packet may be lost
		servers = append(servers, servers[0])
	}
	var refused *dns.Msg
	for _, at := range servers {
		begin := time.Now()
		m, err := v.askOne(ctx, at, i)
		took := time.Since(begin).Round(10 * time.Microsecond)
		out.source = at.Addr().String()
		if !errors.Is(err, errNoSocket) {
			v.s.health.note(patient{i.where, at}, err == nil)
		}
		switch {
		case err != nil:
			out.steps = append(out.steps, fmt.Sprintf("asked %s (%s): %v", at.Addr(), took, err))
		case m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError:
			out.steps = append(out.steps, fmt.Sprintf("asked %s (%s): %s", at.Addr(), took, rcodeName(m.Rcode)))
			out.msg = m
			if life.Err() == nil { // else its place is gone
				v.s.cache.put(i, m)
			}
			return out
		default:
			out.steps = append(out.steps, fmt.Sprintf("asked %s (%s): %s", at.Addr(), took, rcodeName(m.Rcode)))
			refused = m
		}
		if ctx.Err() != nil {
			break
		}
	}
	out.msg = refused
	return out
}

// askOne asks a server, and again without EDNS where it does not know that (RFC 6891 section 7).
func (v *serving) askOne(ctx context.Context, at netip.AddrPort, i inquiry) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(i.name), i.qtype)
	q.CheckingDisabled, q.AuthenticatedData = i.off, true // whether it was proved: RFC 6840 section 5.7
	q.SetEdns0(udpSize, i.do)
	m, err := v.askOver(ctx, at, q)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) {
		q.Id, q.Extra = dns.Id(), nil
		m, err = v.askOver(ctx, at, q)
	}
	if err != nil && ctx.Err() != nil && !errors.Is(err, errNoSocket) {
		err = errors.New("no answer in time")
	}
	if err != nil {
		return nil, err
	}
	strip(m)
	return m, nil
}

// askOver asks over UDP, and over TCP when the answer is cut.
func (v *serving) askOver(ctx context.Context, at netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	b, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("encode the question: %w", err)
	}
	m, err := v.overUDP(ctx, at, q, b)
	if err == nil && m.Truncated {
		return v.overTCP(ctx, at, q, b)
	}
	return m, err
}

// strip takes off what is between the server and us: EDNS (RFC 6891 section 6.1.1 has it hop by hop).
func strip(m *dns.Msg) {
	kept := m.Extra[:0]
	for _, rr := range m.Extra {
		if rr.Header().Rrtype != dns.TypeOPT && rr.Header().Rrtype != dns.TypeTSIG {
			kept = append(kept, rr)
		}
	}
	m.Extra = kept
}

// answers reports whether a message is the answer to a question. Others are not worth an error: anybody may send them.
// Who could not read the question may leave it out.
func answers(m, q *dns.Msg) bool {
	if !m.Response || m.Id != q.Id || m.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(m.Question) == 0 {
		return m.Rcode == dns.RcodeFormatError && len(m.Answer)+len(m.Ns) == 0
	}
	return len(m.Question) == 1 &&
		sameName(m.Question[0].Name, q.Question[0].Name) && m.Question[0].Qtype == q.Question[0].Qtype &&
		m.Question[0].Qclass == q.Question[0].Qclass
}

func sameName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if x >= 'A' && x <= 'Z' {
			x += 'a' - 'A'
		}
		if y >= 'A' && y <= 'Z' {
			y += 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

func (v *serving) dial(ctx context.Context, network string, at netip.AddrPort) (net.Conn, error) {
	if v.ask != nil {
		return v.ask.dial(ctx, network, at)
	}
	c, err := new(net.Dialer).DialContext(ctx, network, at.String())
	if err != nil {
		return nil, reason(err)
	}
	return c, nil
}

// reason is an error of the network without what everybody knows already: which server.
func reason(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func (v *serving) overUDP(ctx context.Context, at netip.AddrPort, q *dns.Msg, b []byte) (*dns.Msg, error) {
	c, err := v.dial(ctx, "udp", at)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer interrupt(ctx, c)()
	if _, err := c.Write(b); err != nil {
		return nil, reason(err)
	}
	in := v.s.pool.get()
	defer v.s.pool.put(in)
	for {
		n, err := c.Read(*in)
		if err != nil {
			return nil, reason(err)
		}
		if m := accept((*in)[:n], q); m != nil {
			return m, nil
		}
	}
}

// accept returns what was sent where it is the answer to a question, or the head of one that was cut.
func accept(b []byte, q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	err := m.Unpack(b)
	if err == nil && answers(m, q) {
		return m
	}
	if head := new(dns.Msg); err != nil && cut(b, q, head) {
		return head
	}
	return nil
}

// cut reports whether an answer that cannot be read says that it was cut: then it is asked for over TCP.
func cut(b []byte, q, head *dns.Msg) bool {
	if len(b) < 12 || uint16(b[0])<<8|uint16(b[1]) != q.Id || b[2]&0x82 != 0x82 {
		return false
	}
	head.Id, head.Response, head.Truncated = q.Id, true, true
	return true
}

func (v *serving) overTCP(ctx context.Context, at netip.AddrPort, q *dns.Msg, b []byte) (*dns.Msg, error) {
	c, err := v.dial(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer interrupt(ctx, c)()
	if err := writeMessage(c, b); err != nil {
		return nil, reason(err)
	}
	in, err := readMessage(c, askTime, dns.MaxMsgSize)
	if err != nil {
		return nil, reason(err)
	}
	m := new(dns.Msg)
	if err := m.Unpack(in); err != nil || !answers(m, q) {
		return nil, errors.New("its answer cannot be read")
	}
	return m, nil
}

// interrupt ends what is under way on a connection with the context.
func interrupt(ctx context.Context, c net.Conn) (undo func() bool) {
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d) // fails where it is closed, as reads do then
	}
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// maxFlights bounds the inquiries under way, of all name servers together. Each has a descriptor: they get a quarter of
// those that this process may have at most.
const (
	maxFlights  = 4096
	flightsPart = 4
)

// flightsFor is how many inquiries there may be with a limit of descriptors.
func flightsFor(descriptors uint64) int {
	return int(min(max(descriptors/flightsPart, 16), maxFlights))
}

var errBusy = errors.New("too many questions are under way")

// share is how many questions one name server may have under way for another one to be asked, when so many more may be.
// The less room there is, the less of it one gets: however many of them flood, there is some for the next one.
func share(room, most int) int {
	half := most / 2
	if room >= half {
		return maxAsking
	}
	return min(max(maxAsking*room*room/(half*half), 1), room)
}

// flights are the inquiries under way.
type flights struct {
	most  int
	mu    sync.Mutex
	now   map[inquiry]*flight
	tasks sync.WaitGroup
}

type flight struct {
	done chan struct{}
	a    answerOf
	wait int // those who have come for it
}

// do waits for the answer to an inquiry, which one of those who ask it sees to. It goes on for the others when one does
// not wait any more. Has is how many questions of one name server are under way.
func (f *flights) do(ctx context.Context, i inquiry, has int, ask func() answerOf) (answerOf, error) {
	f.mu.Lock()
	if f.now == nil {
		f.now = map[inquiry]*flight{}
	}
	x := f.now[i]
	if x == nil && has > share(f.most-len(f.now), f.most) {
		f.mu.Unlock()
		return answerOf{}, errBusy
	}
	if x == nil {
		x = &flight{done: make(chan struct{})}
		f.now[i] = x
		f.tasks.Go(func() {
			defer func() {
				f.mu.Lock()
				delete(f.now, i)
				f.mu.Unlock()
				close(x.done)
			}()
			x.a = ask()
		})
	}
	x.wait++
	f.mu.Unlock()
	select {
	case <-x.done:
		return x.a, nil
	case <-ctx.Done():
		return answerOf{}, ctx.Err()
	}
}

func (f *flights) wait() { f.tasks.Wait() }
