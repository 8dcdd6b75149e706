package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Sockets are those of one name server, as somebody else has opened them.
type Sockets struct {
	UDP, TCP *os.File // bound, and listening
	// neither bound nor connected: by them servers elsewhere are asked from inside of a sandbox. Without any, they are
	// asked from where this process is.
	AskUDP, AskTCP []*os.File
}

// Close closes all of them.
func (s Sockets) Close() {
	for _, f := range slices.Concat([]*os.File{s.UDP, s.TCP}, s.AskUDP, s.AskTCP) {
		if f != nil {
			f.Close()
		}
	}
}

// Config is what a [Server] works with.
type Config struct {
	Names  *Names
	Resolv []string     // the files that name the host's servers (resolv.conf(5)); the first with one counts
	Log    *slog.Logger // nil: silent
}

// Server answers at the sockets of name servers.
type Server struct {
	names  *Names
	log    *slog.Logger
	resolv *resolvFile
	cache  *cache
	health *health
	asking flights
	pool   buffers
	watch  watchers
	panics atomic.Uint64
	served atomic.Uint64 // name servers until now: their caches are told apart
	life   context.Context
	end    context.CancelFunc

	mu      sync.Mutex
	serving map[string]*serving
	closed  bool
}

// serving is one name server at work.
type serving struct {
	plan.NameServer
	s       *Server
	ask     *asker // from inside of a sandbox; nil: from here
	where   string // tells its cache from others; "" for those who ask the host's servers
	udp     *net.UDPConn
	tcp     net.Listener
	asking  *quota        // questions that servers elsewhere are asked
	talking *quota        // connections, of each who asks
	conns   chan struct{} // and of all
	pace    *pace         // of those who ask over UDP; nil where all are one
	stop    context.CancelFunc
	life    context.Context
	tasks   sync.WaitGroup
}

// What one sandbox may have at a time. Others have as much of their own.
const (
	maxAsking = 256
	maxConns  = 32
)

// New makes a server that answers nowhere yet.
func New(c Config) *Server {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{names: c.Names, log: c.Log, resolv: newResolvFile(c.Resolv), cache: newCache(), health: newHealth(),
		serving: map[string]*serving{}}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	s.asking.most = flightsFor(limit.Cur)
	s.resolv.changed = s.cache.forget
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Serve answers at sockets, which it takes over, also where it fails. A server of the same key ends.
func (s *Server) Serve(n plan.NameServer, socks Sockets) error {
	v, err := s.open(n, socks)
	if err != nil {
		socks.Close()
		return fmt.Errorf("serve %s: %w", n, err)
	}
	s.Stop(n.Key())
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		v.close()
		return fmt.Errorf("serve %s: %w", n, net.ErrClosed)
	}
	s.serving[n.Key()] = v
	s.mu.Unlock()
	v.tasks.Go(v.runUDP)
	v.tasks.Go(v.runTCP)
	return nil
}

// idle has bounds and no sockets yet.
func (s *Server) idle(n plan.NameServer) *serving {
	several := n.NS == ""
	v := &serving{NameServer: n, s: s, asking: newQuota(maxAsking, several), talking: newQuota(maxConns, several),
		conns: make(chan struct{}, maxConns)}
	if several {
		v.pace = newPace()
	}
	return v
}

func (s *Server) open(n plan.NameServer, socks Sockets) (*serving, error) {
	if len(n.Upstreams) > 0 && (len(socks.AskUDP) == 0 || len(socks.AskTCP) == 0) {
		return nil, errors.New("there are no sockets to ask its servers by")
	}
	v := s.idle(n)
	pc, err := net.FilePacketConn(socks.UDP)
	if err != nil {
		return nil, fmt.Errorf("use the UDP socket: %w", err)
	}
	udp, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, errors.New("the first socket is none of UDP")
	}
	tcp, err := net.FileListener(socks.TCP)
	if err != nil {
		udp.Close()
		return nil, fmt.Errorf("use the TCP socket: %w", err)
	}
	// Both are duplicates.
	socks.UDP.Close()
	socks.TCP.Close()
	v.udp, v.tcp = udp, tcp
	if len(n.Upstreams) > 0 {
		v.ask = newAsker(socks.AskUDP, socks.AskTCP)
		v.where = fmt.Sprintf("%s, %d", n.Key(), s.served.Add(1))
	} else {
		Sockets{AskUDP: socks.AskUDP, AskTCP: socks.AskTCP}.Close()
	}
	v.life, v.stop = context.WithCancel(s.life)
	return v, nil
}

// Panics are how often a message could not be handled. Each is a mistake of this package, which nobody but who sent the
// message noticed.
func (s *Server) Panics() uint64 { return s.panics.Load() }

// Stop ends a server by its key, and closes its sockets.
func (s *Server) Stop(key string) {
	s.mu.Lock()
	v := s.serving[key]
	delete(s.serving, key)
	s.mu.Unlock()
	if v != nil {
		v.close()
	}
}

// Close ends all servers.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	all := s.serving
	s.serving = map[string]*serving{}
	s.mu.Unlock()
	s.end()
	for _, v := range all {
		v.close()
	}
	s.asking.wait()
}

func (v *serving) close() {
	v.stop()
	v.udp.Close()
	v.tcp.Close()
	if v.ask != nil {
		v.ask.close()
	}
	v.tasks.Wait()
	if v.ask != nil {
		v.s.cache.forget(v.where)
	}
}

// upstreams are the servers elsewhere that are asked for this one, and the place that tells their answers from others.
func (v *serving) upstreams() (servers []netip.AddrPort, where string) {
	if v.ask == nil {
		return v.s.resolv.servers()
	}
	for _, a := range v.Upstreams {
		servers = append(servers, netip.AddrPortFrom(a, dnsPort))
	}
	return servers, v.where
}

// dnsPort is where servers are asked (RFC 1035 section 4.2).
const dnsPort = 53

// mayAsk reports whether an address is one that questions are answered to: on a bridge the network's own, and the
// host's.
func (v *serving) mayAsk(from netip.Addr) bool {
	if v.NS != "" {
		return true
	}
	v.s.names.mu.RLock()
	defer v.s.names.mu.RUnlock()
	from = from.Unmap()
	if slices.ContainsFunc(v.s.names.zones[v.Network].Subnets, func(p netip.Prefix) bool { return p.Contains(from) }) {
		return true
	}
	for _, z := range v.s.names.zones {
		if slices.Contains(z.Host, from) {
			return true
		}
	}
	return false
}

// reply is what is answered to a question, and what is told of it.
type reply struct {
	msg    *dns.Msg
	source string // names, cache, or the address of the server that was asked
	steps  []string
}

// respond answers a message: nil where nothing is to be answered. ask is called where servers elsewhere must be asked;
// nil: they are not, and the second result tells that they must be.
func (v *serving) respond(q *dns.Msg, ask func(question, *dns.Msg) reply) (reply, bool) {
	if q.Response {
		return reply{}, false
	}
	if r := refuse(q); r != nil {
		return reply{msg: r, source: "names"}, false
	}
	asked := q.Question[0]
	w := question{name: strings.ToLower(strings.TrimSuffix(asked.Name, ".")), qtype: asked.Qtype, asked: asked.Name}
	f := v.s.names.find(v.NameServer, w)
	switch {
	case f.ours:
		return reply{msg: local(q, f), source: "names", steps: []string{f.why}}, false
	case !f.forward:
		f.nothing(dns.RcodeNameError, "not asked elsewhere: "+f.closed)
		r := local(q, f)
		extend(q, r, dns.ExtendedErrorCodeProhibited, f.closed)
		return reply{msg: r, source: "names", steps: []string{f.why}}, false
	case ask == nil:
		return reply{}, true
	}
	return ask(w, q), false
}

// refuse answers what is no question of ours.
func refuse(q *dns.Msg) *dns.Msg {
	rcode := -1
	opt := q.IsEdns0()
	switch {
	case q.Opcode != dns.OpcodeQuery:
		rcode = dns.RcodeNotImplemented
	case len(q.Question) != 1:
		rcode = dns.RcodeFormatError
	case opt != nil && opt.Version() != 0:
		rcode = dns.RcodeBadVers
	case q.Question[0].Qclass != dns.ClassINET, q.Question[0].Qtype == dns.TypeAXFR,
		q.Question[0].Qtype == dns.TypeIXFR:
		rcode = dns.RcodeRefused
	}
	if rcode < 0 {
		return nil
	}
	r := new(dns.Msg).SetRcode(q, rcode)
	if rcode == dns.RcodeFormatError {
		r.Question = nil
	}
	r.RecursionAvailable = true
	edns(q, r)
	return r
}

// local is the message with a finding.
func local(q *dns.Msg, f finding) *dns.Msg {
	r := new(dns.Msg).SetRcode(q, f.rcode)
	r.Authoritative, r.RecursionAvailable = true, true
	r.Answer, r.Extra = f.answer, f.extra
	if len(r.Answer) == 0 {
		name := q.Question[0].Name
		r.Ns = []dns.RR{&dns.SOA{
			Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: localTTL},
			Ns:  "resolver.vethloom.internal.", Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600,
			Expire: 86400, Minttl: localTTL}}
	}
	edns(q, r)
	return r
}

// udpSize is how large answers over UDP may be, as what is sent over the internet without being cut: DNS flag day 2020.
const udpSize = 1232

// edns answers with EDNS (RFC 6891) who asks with it.
func edns(q, r *dns.Msg) {
	if opt := q.IsEdns0(); opt != nil && r.IsEdns0() == nil {
		r.SetEdns0(udpSize, opt.Do())
	}
}

// extend adds an error that people can read (RFC 8914).
func extend(q, r *dns.Msg, code uint16, text string) {
	if opt := r.IsEdns0(); opt != nil && q.IsEdns0() != nil {
		opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: code, ExtraText: text})
	}
}

// room is how large an answer over UDP may be for who asks.
func room(q *dns.Msg) int {
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		size = min(max(size, int(opt.UDPSize())), 4096)
	}
	return size
}

// note tells those who watch.
func (v *serving) note(q *dns.Msg, r reply, from netip.AddrPort, since time.Time) {
	if !v.s.watch.any() || r.msg == nil || len(q.Question) != 1 {
		return
	}
	v.s.watch.tell(v.NameServer, Entry{Time: since, Server: v.Key(), Client: from.String(),
		Name: strings.TrimSuffix(q.Question[0].Name, "."), Type: typeName(q.Question[0].Qtype),
		Rcode: rcodeName(r.msg.Rcode), Answers: texts(r.msg.Answer), Source: r.source, Took: time.Since(since)})
}

func typeName(t uint16) string {
	if s, ok := dns.TypeToString[t]; ok {
		return s
	}
	return fmt.Sprintf("TYPE%d", t)
}

func rcodeName(code int) string {
	if s, ok := dns.RcodeToString[code]; ok {
		return s
	}
	return fmt.Sprintf("RCODE%d", code)
}

// What is told to people of an answer: so many records, and so much of each, in bytes.
const (
	maxTold = 16
	maxText = 300
)

func texts(rrs []dns.RR) []string {
	var out []string
	for _, rr := range rrs[:min(len(rrs), maxTold)] {
		text := rr.String()
		if len(text) > maxText {
			text = strings.ToValidUTF8(text[:maxText], "") + "…"
		}
		out = append(out, text)
	}
	return out
}

// Explanation is what would be answered, and why.
type Explanation struct {
	Rcode   string
	Answers []string
	Steps   []string
}

// Lookup says what a server's askers would be answered, and why.
func (s *Server) Lookup(ctx context.Context, key, name string, qtype uint16) (Explanation, error) {
	s.mu.Lock()
	v := s.serving[key]
	s.mu.Unlock()
	if v == nil {
		return Explanation{}, fmt.Errorf("no names are answered at %.100q", key)
	}
	if _, ok := dns.IsDomainName(name); !ok {
		return Explanation{}, fmt.Errorf("%.300q is no name", name)
	}
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(udpSize, false)
	r, _ := v.respond(q, func(w question, q *dns.Msg) reply { return v.forward(ctx, w, q) })
	return Explanation{Rcode: rcodeName(r.msg.Rcode), Answers: texts(r.msg.Answer), Steps: r.steps}, nil
}
