package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// inside marks the process that has a network namespace of its own: servers elsewhere are asked on port 53, and nothing
// that is sent leaves it.
const inside = "VETHLOOM_TEST_DNS"

func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "bring loopback up: %v: %s", err, out)
			os.Exit(1)
		}
		goleak.VerifyTestMain(m)
		return
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }
func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// fabric is a server that serves one sandbox, "box", on networks front and back, and front's gateway.
type fabric struct {
	t     testing.TB
	names *Names
	srv   *Server
	box   string // where the sandbox asks
	gate  string
	path  string // resolv.conf
	count int    // name servers
}

func member(zone, id string, ns plan.NetNS, rank int, names string, addrs ...string) plan.NameMember {
	m := plan.NameMember{Zone: zone, ID: id, NS: ns, Rank: rank, Names: strings.Fields(names)}
	for _, a := range addrs {
		m.Addrs = append(m.Addrs, addr(a))
	}
	return m
}

func newFabric(t testing.TB, upstreams ...string) *fabric {
	t.Helper()
	f := &fabric{t: t, names: NewNames(), path: filepath.Join(t.TempDir(), "resolv.conf")}
	f.resolv(upstreams...)
	db := member("f", "1", "", 0, "db store", "10.7.0.2", "fd07::2")
	db.Ports = []plan.NamePort{{Proto: plan.TCP, Port: 80}, {Proto: plan.UDP, Port: 53}}
	f.names.Apply([]plan.Object{
		plan.NameZone{ID: "f", Name: "front", Subnets: []netip.Prefix{prefix("10.7.0.0/24"), prefix("fd07::/64"),
			prefix("127.0.0.0/8")}, Host: []netip.Addr{addr("10.7.0.1"), addr("fd07::1")}},
		plan.NameZone{ID: "b", Name: "back", Internal: true, Subnets: []netip.Prefix{prefix("10.8.0.0/24")}},
		plan.NameZone{ID: "o", Name: "other", Subnets: []netip.Prefix{prefix("10.9.0.0/24")}},
		plan.NameZone{ID: "d", Name: "dev"},
		db, member("f", "2", "box", 20, "web web_1", "10.7.0.3"), member("b", "3", "box", 10, "web", "10.8.0.3"),
		member("b", "4", "", 0, "db deep.name", "10.8.0.2"), member("o", "5", "out", 0, "far", "10.9.0.5"),
		member("f", "6", "", 0, "app", "10.7.0.6"), member("f", "7", "", 0, "app", "10.7.0.7"),
		member("d", "8", "box", 30, "known", "10.10.0.8"), member("b", "9", "shut", 0, "shut", "10.8.0.9"),
	}, nil)
	f.srv = New(Config{Names: f.names, Resolv: []string{f.path}})
	t.Cleanup(f.srv.Close)
	f.box = f.serve(plan.NameServer{NS: "box", Addr: addr("127.0.0.11")}, Sockets{})
	f.gate = f.serve(plan.NameServer{Link: "vlb-1", Addr: addr("10.7.0.1"), Network: "f"}, Sockets{})
	return f
}

// resolv writes the host's file anew.
func (f *fabric) resolv(upstreams ...string) {
	f.t.Helper()
	var b strings.Builder
	for _, u := range upstreams {
		fmt.Fprintf(&b, "nameserver %s\n", u)
	}
	if err := os.WriteFile(f.path+".new", []byte(b.String()), 0o644); err != nil {
		f.t.Fatal(err)
	}
	if err := os.Rename(f.path+".new", f.path); err != nil {
		f.t.Fatal(err)
	}
	if f.srv != nil {
		f.srv.resolv.mu.Lock()
		f.srv.resolv.next = time.Time{}
		f.srv.resolv.mu.Unlock()
	}
}

// serve opens sockets on loopback, at an address of their own, and serves at them.
func (f *fabric) serve(n plan.NameServer, ask Sockets) string {
	f.t.Helper()
	f.count++
	at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(f.count >> 8), byte(f.count)}), 53).String()
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort(at)))
	if err != nil {
		f.t.Fatal(err)
	}
	defer udp.Close()
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		f.t.Fatal(err)
	}
	defer tcp.Close()
	if ask.UDP, err = udp.File(); err != nil {
		f.t.Fatal(err)
	}
	if ask.TCP, err = tcp.(*net.TCPListener).File(); err != nil {
		f.t.Fatal(err)
	}
	if err := f.srv.Serve(n, ask); err != nil {
		f.t.Fatal(err)
	}
	return at
}

// ask sends a question over UDP.
func (f *fabric) ask(at, name string, qtype uint16) *dns.Msg {
	f.t.Helper()
	r, err := exchange("udp", at, new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype))
	if err != nil {
		f.t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	return r
}

func exchange(network, at string, q *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: 10 * time.Second}
	r, _, err := c.Exchange(q, at)
	return r, err
}

// answer is what people see of an answer: the code where it is an error, else the values, sorted.
func answer(r *dns.Msg) string {
	if r.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[r.Rcode]
	}
	var out []string
	for _, rr := range r.Answer {
		out = append(out, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// upstream is a server elsewhere.
type upstream struct {
	mu    sync.Mutex
	asked []string
	stop  func()
}

func (u *upstream) times(name string) (n int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, a := range u.asked {
		if a == dns.Fqdn(name) {
			n++
		}
	}
	return n
}

// elsewhere starts a server at an address of loopback. It answers by handle, which may answer nothing.
func elsewhere(t testing.TB, at string, handle func(w dns.ResponseWriter, q *dns.Msg)) *upstream {
	t.Helper()
	u := &upstream{}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		u.mu.Lock()
		u.asked = append(u.asked, strings.ToLower(q.Question[0].Name))
		u.mu.Unlock()
		handle(w, q)
	})
	pc, err := net.ListenPacket("udp", net.JoinHostPort(at, "53"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(at, "53"))
	if err != nil {
		t.Fatal(err)
	}
	var stops []func()
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		done, started := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			_ = s.ActivateAndServe()
		}()
		<-started
		stops = append(stops, func() { _ = s.Shutdown(); <-done })
	}
	u.stop = sync.OnceFunc(func() {
		for _, f := range stops {
			f()
		}
	})
	t.Cleanup(u.stop)
	return u
}

// record answers with one record.
func record(text string) func(dns.ResponseWriter, *dns.Msg) {
	return func(w dns.ResponseWriter, q *dns.Msg) {
		r := new(dns.Msg).SetReply(q)
		if rr, err := dns.NewRR(q.Question[0].Name + " " + text); err == nil {
			r.Answer = append(r.Answer, rr)
		}
		_ = w.WriteMsg(r)
	}
}

func rcode(code int) func(dns.ResponseWriter, *dns.Msg) {
	return func(w dns.ResponseWriter, q *dns.Msg) { _ = w.WriteMsg(new(dns.Msg).SetRcode(q, code)) }
}
