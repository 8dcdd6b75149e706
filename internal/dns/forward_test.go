package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

const (
	up1 = "127.0.0.51"
	up2 = "127.0.0.52"
	up3 = "127.0.0.53"
)

// silent answers nothing.
func silent(dns.ResponseWriter, *dns.Msg) {}

func isTCP(w dns.ResponseWriter) bool { return w.RemoteAddr().Network() == "tcp" }

// extended is the text of an answer's extended error.
func extended(r *dns.Msg) string {
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				return e.ExtraText
			}
		}
	}
	return ""
}

// askEDNS asks with EDNS, over UDP or TCP.
func (f *fabric) askEDNS(network, at, name string, qtype uint16) *dns.Msg {
	f.t.Helper()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
	q.SetEdns0(4096, false)
	r, err := exchange(network, at, q)
	if err != nil {
		f.t.Fatalf("%s: %v", name, err)
	}
	return r
}

func TestServersElsewhere(t *testing.T) {
	good := record("60 IN A 192.0.2.1")
	for _, c := range []struct {
		name   string
		first  func(dns.ResponseWriter, *dns.Msg) // of the first server; nil: nobody is there
		second func(dns.ResponseWriter, *dns.Msg)
		want   string
	}{
		{"answers", good, rcode(dns.RcodeNameError), "192.0.2.1"},
		{"is not there", nil, good, "192.0.2.1"},
		{"does not answer", silent, good, "192.0.2.1"},
		{"fails", rcode(dns.RcodeServerFailure), good, "192.0.2.1"},
		{"refuses", rcode(dns.RcodeRefused), good, "192.0.2.1"},
		{"refuses, as the other", rcode(dns.RcodeRefused), rcode(dns.RcodeRefused), "REFUSED"},
		{"knows no such name", rcode(dns.RcodeNameError), good, "NXDOMAIN"},
		{"has nothing of the type", rcode(dns.RcodeSuccess), good, ""},
		{"cuts its answer", func(w dns.ResponseWriter, q *dns.Msg) {
			if isTCP(w) {
				record("60 IN A 192.0.2.7")(w, q)
				return
			}
			r := new(dns.Msg).SetReply(q)
			r.Truncated = true
			_ = w.WriteMsg(r)
		}, rcode(dns.RcodeNameError), "192.0.2.7"},
		{"cuts its answer in the middle of a record", func(w dns.ResponseWriter, q *dns.Msg) {
			if isTCP(w) {
				record("60 IN A 192.0.2.8")(w, q)
				return
			}
			r := new(dns.Msg).SetReply(q)
			r.Truncated = true
			b, _ := r.Pack()
			b[7] = 9 // answers that are not there
			_, _ = w.Write(b)
		}, rcode(dns.RcodeNameError), "192.0.2.8"},
		{"cuts its answer, and has no TCP", func(w dns.ResponseWriter, q *dns.Msg) {
			if !isTCP(w) {
				r := new(dns.Msg).SetReply(q)
				r.Truncated = true
				_ = w.WriteMsg(r)
			}
		}, good, "192.0.2.1"},
		{"knows no EDNS", func(w dns.ResponseWriter, q *dns.Msg) {
			if q.IsEdns0() != nil {
				r := new(dns.Msg).SetRcode(q, dns.RcodeFormatError)
				r.Question = nil
				_ = w.WriteMsg(r)
				return
			}
			record("60 IN A 192.0.2.9")(w, q)
		}, rcode(dns.RcodeNameError), "192.0.2.9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFabric(t, up1, up2)
			if c.first != nil {
				elsewhere(t, up1, c.first)
			}
			elsewhere(t, up2, c.second)
			q := new(dns.Msg).SetQuestion("Www.Example.", dns.TypeA)
			r, err := exchange("udp", f.box, q)
			if err != nil {
				t.Fatal(err)
			}
			if got := answer(r); got != c.want {
				t.Errorf("%q, want %q", got, c.want)
			}
			if r.Authoritative || !r.RecursionAvailable || !r.RecursionDesired || r.Question[0].Name != "Www.Example." {
				t.Errorf("the answer's head is %v, its question %v", r.MsgHdr, r.Question)
			}
			for _, rr := range r.Answer {
				if rr.Header().Name != "Www.Example." {
					t.Errorf("a record of %s", rr.Header().Name)
				}
			}
		})
	}
}

// A server that sends what it was not asked, or somebody in its name, is not believed: the right answer comes after.
func TestAnswersThatAreNone(t *testing.T) {
	stranger, err := net.ListenPacket("udp", "127.0.0.66:53")
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	lies := func(w dns.ResponseWriter, q *dns.Msg) {
		if isTCP(w) {
			return
		}
		lie := func(change func(*dns.Msg)) []byte {
			m := new(dns.Msg).SetReply(q)
			m.Answer = []dns.RR{addressRecord(q.Question[0].Name, addr("192.0.2.66"))}
			change(m)
			b, err := m.Pack()
			if err != nil {
				t.Error(err)
			}
			return b
		}
		loop := lie(func(m *dns.Msg) { m.Answer = nil })
		loop[12], loop[13] = 0xc0, 12 // its question is a pointer to itself
		long := lie(func(*dns.Msg) {})
		long[len(long)-6] = 0xff // a record of 65284 bytes
		for _, b := range [][]byte{
			lie(func(m *dns.Msg) { m.Id++ }),
			lie(func(m *dns.Msg) { m.Response = false }),
			lie(func(m *dns.Msg) { m.Question[0].Name = "other." }),
			lie(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAAAA }),
			lie(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }),
			lie(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }),
			lie(func(m *dns.Msg) { m.Question = nil }),
			lie(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }),
			loop, long, {}, {1, 2, 3}, make([]byte, 2000),
		} {
			if _, err := w.Write(b); err != nil {
				t.Error(err)
			}
		}
		if _, err := stranger.WriteTo(lie(func(*dns.Msg) {}), w.RemoteAddr()); err != nil {
			t.Error(err)
		}
		record("60 IN A 192.0.2.1")(w, q)
	}
	f := newFabric(t, up1)
	u := elsewhere(t, up1, lies)
	if got := answer(f.ask(f.box, "www.example", dns.TypeA)); got != "192.0.2.1" {
		t.Errorf("%q", got)
	}
	if u.times("www.example") != 1 {
		t.Errorf("asked %d times", u.times("www.example"))
	}
}

// A server that lies over TCP is passed over, as one that hangs there.
func TestLiesOverTCP(t *testing.T) {
	other := func(change func(*dns.Msg)) func(dns.ResponseWriter, *dns.Msg) {
		return func(w dns.ResponseWriter, q *dns.Msg) {
			change(q)
			record("60 IN A 192.0.2.66")(w, q)
		}
	}
	for name, lie := range map[string]func(dns.ResponseWriter, *dns.Msg){
		"another ID":       other(func(q *dns.Msg) { q.Id++ }),
		"another question": other(func(q *dns.Msg) { q.Question[0].Name = "x." }),
		"it hangs up":      func(w dns.ResponseWriter, _ *dns.Msg) { _ = w.Close() },
		"garbage":          func(w dns.ResponseWriter, _ *dns.Msg) { _, _ = w.Write([]byte("what is this?")) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFabric(t, up1, up2)
			elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
				if isTCP(w) {
					lie(w, q)
					return
				}
				r := new(dns.Msg).SetReply(q)
				r.Truncated = true
				_ = w.WriteMsg(r)
			})
			elsewhere(t, up2, record("60 IN A 192.0.2.1"))
			if got := answer(f.ask(f.box, "www.example", dns.TypeA)); got != "192.0.2.1" {
				t.Errorf("%q", got)
			}
		})
	}
}

func TestNobodyToAsk(t *testing.T) {
	f := newFabric(t)
	for _, network := range []string{"udp", "tcp"} {
		r := f.askEDNS(network, f.box, "www.example", dns.TypeA)
		if answer(r) != "SERVFAIL" || extended(r) == "" {
			t.Errorf("%s, %q", answer(r), extended(r))
		}
	}
}

// Who is on internal networks alone, or on none, gets no answers from elsewhere.
func TestInternalNetworksAskNobody(t *testing.T) {
	f := newFabric(t, up1)
	u := elsewhere(t, up1, record("60 IN A 192.0.2.1"))
	for ns, names := range map[plan.NetNS][]string{"shut": {"www.example", "short", "1.2.0.192.in-addr.arpa"},
		"nowhere": {"www.example"}} {
		at := f.serve(plan.NameServer{NS: ns, Addr: addr("127.0.0.11")}, Sockets{})
		for _, name := range names {
			r := f.askEDNS("udp", at, name, dns.TypeA)
			if answer(r) != "NXDOMAIN" || extended(r) == "" || u.times(name) > 0 {
				t.Errorf("%s asked for %s: %s, %q", ns, name, answer(r), extended(r))
			}
		}
	}
}

// What was answered is kept as long as it says, and counted down; what is not there as long as its zone says.
func TestCache(t *testing.T) {
	f := newFabric(t, up1)
	u := elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		name := strings.ToLower(q.Question[0].Name)
		switch name {
		case "none.example.", "empty.example.":
			soa, err := dns.NewRR("example. 300 IN SOA ns.example. root.example. 1 2 3 4 20")
			if err != nil {
				t.Error(err)
			}
			r.Ns = []dns.RR{soa}
		case "two.example.":
			for _, text := range []string{"60 IN A 192.0.2.1", "40 IN A 192.0.2.2"} {
				rr, err := dns.NewRR(name + " " + text)
				if err != nil {
					t.Error(err)
				}
				r.Answer = append(r.Answer, rr)
			}
		}
		if strings.HasPrefix(name, "no") {
			r.Rcode = dns.RcodeNameError
		}
		_ = w.WriteMsg(r)
	})
	var passed atomic.Int64
	start := time.Now()
	f.srv.cache.now = func() time.Time { return start.Add(time.Duration(passed.Load())) }
	ttls := func(r *dns.Msg) (out []uint32) {
		for _, rr := range append(r.Answer, r.Ns...) {
			out = append(out, rr.Header().Ttl)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		after time.Duration
		name  string
		rcode int
		ttls  []uint32
		asked int
	}{
		{0, "two.example", dns.RcodeSuccess, []uint32{40, 60}, 1},
		{0, "none.example", dns.RcodeNameError, []uint32{300}, 1},
		{0, "empty.example", dns.RcodeSuccess, []uint32{300}, 1},
		{0, "nosoa.example", dns.RcodeNameError, nil, 1},
		{10 * time.Second, "TWO.example", dns.RcodeSuccess, []uint32{30, 50}, 1},
		{19 * time.Second, "none.example", dns.RcodeNameError, []uint32{281}, 1},
		{19 * time.Second, "empty.example", dns.RcodeSuccess, []uint32{281}, 1},
		{19 * time.Second, "nosoa.example", dns.RcodeNameError, nil, 2},
		{21 * time.Second, "none.example", dns.RcodeNameError, []uint32{300}, 2},
		{39 * time.Second, "two.example", dns.RcodeSuccess, []uint32{1, 21}, 1},
		{41 * time.Second, "two.example", dns.RcodeSuccess, []uint32{40, 60}, 2},
	} {
		passed.Store(int64(c.after))
		r := f.ask(f.box, c.name, dns.TypeA)
		if got := ttls(r); r.Rcode != c.rcode || !slices.Equal(got, c.ttls) {
			t.Errorf("%s after %s: %s with TTLs %d, want %d", c.name, c.after, dns.RcodeToString[r.Rcode], got, c.ttls)
		}
		if got := u.times(strings.ToLower(c.name)); got != c.asked {
			t.Errorf("%s after %s: asked %d times, want %d", c.name, c.after, got, c.asked)
		}
	}
}

// Who wants to know whether an answer was proved is told what the server says, and the records that prove it are for
// who asks for them.
func TestProvedAnswers(t *testing.T) {
	f := newFabric(t, up1)
	elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		r.AuthenticatedData = q.AuthenticatedData && !q.CheckingDisabled
		text := "60 IN A 192.0.2.1"
		if q.IsEdns0().Do() {
			text = "60 IN A 192.0.2.2"
		}
		rr, err := dns.NewRR(q.Question[0].Name + " " + text)
		if err != nil {
			t.Error(err)
		}
		r.Answer = []dns.RR{rr}
		_ = w.WriteMsg(r)
	})
	for _, c := range []struct {
		ad, do, cd, proved bool
		want               string
	}{
		{false, false, false, false, "192.0.2.1"}, {true, false, false, true, "192.0.2.1"},
		{false, true, false, true, "192.0.2.2"}, {true, true, true, false, "192.0.2.2"},
	} {
		q := new(dns.Msg).SetQuestion("www.example.", dns.TypeA)
		q.AuthenticatedData, q.CheckingDisabled = c.ad, c.cd
		q.SetEdns0(1232, c.do)
		r, err := exchange("udp", f.box, q)
		if err != nil {
			t.Fatal(err)
		}
		if r.AuthenticatedData != c.proved || r.CheckingDisabled != c.cd || r.IsEdns0().Do() != c.do {
			t.Errorf("%+v: the head is %v", c, r.MsgHdr)
		}
		if answer(r) != c.want {
			t.Errorf("%+v: %v", c, r)
		}
	}
}

// The same question of many is asked once.
func TestTheSameIsAskedOnce(t *testing.T) {
	f := newFabric(t, up1)
	arrived, release := make(chan struct{}, 100), make(chan struct{})
	u := elsewhere(t, up1, func(w dns.ResponseWriter, q *dns.Msg) {
		arrived <- struct{}{}
		<-release
		record("0 IN A 192.0.2.1")(w, q)
	})
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			r, err := exchange("udp", f.box, new(dns.Msg).SetQuestion("www.example.", dns.TypeA))
			if err != nil || answer(r) != "192.0.2.1" {
				t.Errorf("%v: %v", r, err)
			}
		})
	}
	await.From(t, "the question at the server", arrived)
	await.Value(t, "all wait", 20, func() int {
		f.srv.asking.mu.Lock()
		defer f.srv.asking.mu.Unlock()
		for _, x := range f.srv.asking.now {
			return x.wait
		}
		return 0
	})
	close(release)
	wg.Wait()
	if n := u.times("www.example"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// The host's file may be changed, replaced, a link that leads elsewhere, empty or gone.
func TestTheHostsServersChange(t *testing.T) {
	f := newFabric(t)
	dir := t.TempDir()
	first, second := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "second")
	r := newResolvFile([]string{first, second})
	servers := func() string {
		r.mu.Lock()
		r.next = time.Time{}
		r.mu.Unlock()
		found, _ := r.servers()
		return fmt.Sprint(found)
	}
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what, want string) {
		t.Helper()
		if got := servers(); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	want("no file", "[]")
	write(second, "nameserver 192.0.2.9\n")
	want("the second alone", "[192.0.2.9:53]")
	write(first, "# nothing\n")
	want("the first is empty", "[192.0.2.9:53]")
	stub := filepath.Join(dir, "stub")
	write(stub, "search example\nnameserver 127.0.0.53\nnameserver fe80::1%lo\n nameserver 2001:db8::53 # ours\n"+
		"nameserver nonsense\nnameserver\nnameserver 127.0.0.53\n;nameserver 192.0.2.3\n#nameserver 192.0.2.4\n")
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(stub, first); err != nil {
		t.Fatal(err)
	}
	want("a link", "[127.0.0.53:53 [fe80::1%lo]:53 [2001:db8::53]:53]")
	write(stub+".new", "nameserver 192.0.2.1\n")
	if err := os.Rename(stub+".new", stub); err != nil {
		t.Fatal(err)
	}
	want("what the link leads to was replaced", "[192.0.2.1:53]")
	write(stub, "nameserver 192.0.2.1\n"+strings.Repeat("x", 1<<20)+"\nnameserver 192.0.2.2\n")
	want("a long line", "[192.0.2.1:53]")
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	want("the first is gone", "[192.0.2.9:53]")
	// It counts for the next question.
	if got := answer(f.ask(f.box, "www.example", dns.TypeA)); got != "SERVFAIL" {
		t.Errorf("without a server: %s", got)
	}
	elsewhere(t, up3, record("60 IN A 192.0.2.1"))
	f.resolv(up3)
	if got := answer(f.ask(f.box, "www.example", dns.TypeA)); got != "192.0.2.1" {
		t.Errorf("with a server: %s", got)
	}
}

// unbound are sockets as netd opens them inside of a sandbox.
func unbound(t *testing.T, n int) Sockets {
	t.Helper()
	var s Sockets
	for range n {
		for kind, to := range map[int]*[]*os.File{unix.SOCK_DGRAM: &s.AskUDP, unix.SOCK_STREAM: &s.AskTCP} {
			fd, err := unix.Socket(unix.AF_INET6, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0); err != nil {
				t.Fatal(err)
			}
			*to = append(*to, os.NewFile(uintptr(fd), "ask"))
		}
	}
	return s
}

// A sandbox with servers of its own asks these, by the sockets that were made in it, and shares no answer with others.
func TestServersOfASandbox(t *testing.T) {
	f := newFabric(t, up1)
	var mu sync.Mutex
	ports := map[uint16]bool{}
	elsewhere(t, up1, record("60 IN A 192.0.2.1"))
	elsewhere(t, up2, func(w dns.ResponseWriter, q *dns.Msg) {
		mu.Lock()
		ports[netip.MustParseAddrPort(w.RemoteAddr().String()).Port()] = true
		mu.Unlock()
		if strings.HasPrefix(q.Question[0].Name, "cut") && !isTCP(w) {
			r := new(dns.Msg).SetReply(q)
			r.Truncated = true
			_ = w.WriteMsg(r)
			return
		}
		record("60 IN A 192.0.2.2")(w, q)
	})
	six := elsewhere(t, "::1", record("60 IN A 192.0.2.6"))
	own := plan.NameServer{NS: "box", Addr: addr("127.0.0.12"), Upstreams: []netip.Addr{addr(up3), addr(up2)}}
	at := f.serve(own, unbound(t, 2))
	for i := range 10 {
		for _, name := range []string{fmt.Sprint("www", i, ".example"), fmt.Sprint("cut", i, ".example")} {
			if got := answer(f.ask(at, name, dns.TypeA)); got != "192.0.2.2" {
				t.Errorf("%s: %s", name, got)
			}
			if got := answer(f.ask(f.box, name, dns.TypeA)); got != "192.0.2.1" {
				t.Errorf("%s: %s for who has no servers of its own", name, got)
			}
		}
	}
	if len(ports) < 5 {
		t.Errorf("asked from %d ports alone", len(ports))
	}
	own.Addr, own.Upstreams = addr("127.0.0.13"), []netip.Addr{addr("::1")}
	at = f.serve(own, unbound(t, 1))
	if got := answer(f.ask(at, "www.example", dns.TypeA)); got != "192.0.2.6" || six.times("www.example") != 1 {
		t.Errorf("over IPv6: %s", got)
	}
}

// A sandbox's own servers do not answer: its questions wait for sockets, and end in time. When they answer again, so do
// its questions.
func TestServersOfASandboxThatAreSilent(t *testing.T) {
	f := newFabric(t)
	var well atomic.Bool
	elsewhere(t, up2, func(w dns.ResponseWriter, q *dns.Msg) {
		if well.Load() {
			record("60 IN A 192.0.2.2")(w, q)
		}
	})
	own := plan.NameServer{NS: "box", Addr: addr("127.0.0.12"), Upstreams: []netip.Addr{addr(up2)}}
	at := f.serve(own, unbound(t, 2))
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r, err := exchange("udp", at, new(dns.Msg).SetQuestion(fmt.Sprint("www", i, ".example."), dns.TypeA))
			if err != nil || answer(r) != "SERVFAIL" {
				t.Errorf("%v: %v", r, err)
			}
		})
	}
	wg.Wait()
	well.Store(true)
	for i := range 8 {
		if got := answer(f.ask(at, fmt.Sprint("www", i, ".example"), dns.TypeA)); got != "192.0.2.2" {
			t.Errorf("%s", got)
		}
	}
}
