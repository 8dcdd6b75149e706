package health_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/health"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// path is this host, a router and a far host, each a network namespace:
//
//	10.0.1.1, fd00:1::1 -- u0 ... w0 -- router -- e0 ... v0 -- 10.0.2.2, fd00:2::2
type path struct {
	*kerntest.Env
	t           *testing.T
	router, far string
}

func newPath(t *testing.T) *path {
	t.Helper()
	p := &path{Env: kerntest.New(t), t: t}
	p.router, p.far = namespace(t), namespace(t)
	// Duplicate address detection would keep the routers' link-local addresses from being used for a second.
	const noDAD = "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0"
	p.Sh(noDAD)
	p.in(p.router, noDAD)
	p.in(p.far, noDAD)
	p.Sh("ip link add u0 type veth peer name w0 netns " + p.router)
	// With the router's namespace it would go too, but in the kernel's own time, which may be long on a busy machine.
	t.Cleanup(func() { p.Sh("ip link del u0 || true") })
	p.in(p.router, "ip link add e0 type veth peer name v0 netns "+p.far)
	p.Sh(up("u0", "10.0.1.1/24", "fd00:1::1/64") +
		"ip route add 10.0.2.0/24 via 10.0.1.254; ip route add fd00:2::/64 via fd00:1::fe")
	p.in(p.router, up("w0", "10.0.1.254/24", "fd00:1::fe/64")+up("e0", "10.0.2.254/24", "fd00:2::fe/64")+
		"sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv4.icmp_ratelimit=0 "+
		"net.ipv6.icmp.ratelimit=0")
	p.in(p.far, up("v0", "10.0.2.2/24", "fd00:2::2/64")+"sysctl -qw net.ipv4.icmp_ratelimit=0;"+
		"ip route add default via 10.0.2.254; ip route add default via fd00:2::fe")
	p.Sh("ping -c1 -w10 -q 10.0.2.2; ping -c1 -w10 -q fd00:2::2")
	return p
}

func up(link, v4, v6 string) string {
	return fmt.Sprintf("ip addr add %s dev %s; ip addr add %s dev %s nodad; ip link set %s up\n", v4, link, v6, link,
		link)
}

// namespace makes one that lasts as long as the test, and returns its path.
func namespace(t *testing.T) string {
	t.Helper()
	opened := make(chan *os.File, 1)
	go func() {
		defer close(opened)
		runtime.LockOSThread() // never unlocked: the thread ends in a namespace of its own
		if unix.Unshare(unix.CLONE_NEWNET) == nil {
			if f, err := os.Open("/proc/thread-self/ns/net"); err == nil {
				opened <- f
			}
		}
	}()
	f, ok := <-opened
	if !ok {
		t.Fatal("make a network namespace: refused")
	}
	t.Cleanup(func() { f.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
}

func (p *path) in(ns, script string) {
	p.t.Helper()
	p.Run("nsenter", "--net="+ns, "sh", "-ec", script)
}

func (p *path) prober(o health.Options) *health.Prober {
	p.t.Helper()
	h, err := health.New(o)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := h.Close(); err != nil {
			p.t.Error(err)
		}
	})
	return h
}

// families are the far host's addresses, with those of this one.
var families = []struct {
	name        string
	far, source netip.Addr
}{
	{"IPv4", netip.MustParseAddr("10.0.2.2"), netip.MustParseAddr("10.0.1.1")},
	{"IPv6", netip.MustParseAddr("fd00:2::2"), netip.MustParseAddr("fd00:1::1")},
}

func probe(t *testing.T, h *health.Prober, to health.Target) health.Result {
	t.Helper()
	r, err := h.Probe(t.Context(), to)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: small %v large %v RTT %s MTU %d loss %.2f refused %+v", to.Addr, r.Small, r.Large, r.RTT, r.PathMTU,
		r.Loss, r.Refused)
	return r
}

// reject is what a firewall says that does not just drop.
const reject = "meta nfproto ipv4 reject with icmp admin-prohibited; nft add rule inet t c meta nfproto ipv6 " +
	"reject with icmpv6 admin-prohibited"

func chain(hook, rule string) string {
	return "nft add table inet t; nft 'add chain inet t c { type filter hook " + hook +
		" priority 0; }'; nft add rule inet t c " + rule
}

func TestProbe(t *testing.T) {
	far := func(p *path, script string) { p.in(p.far, script) }
	router := func(p *path, script string) { p.in(p.router, script) }
	here := func(p *path, script string) { p.Sh(script) }
	tooBig := "icmp type destination-unreachable drop; nft add rule inet t c icmpv6 type packet-too-big drop"
	for _, c := range []struct {
		name   string
		where  func(*path, string)
		script string
		want   func(health.Result) bool
		cause  string
	}{
		{"nothing wrong", nil, "", func(r health.Result) bool {
			return r.Small && r.Large && r.PathMTU == 1500 && r.RTT > 0 && r.Loss == 0 && r.Refused == health.Refusals{}
		}, ""},
		{"narrow link, the router says so", router, "ip link set e0 mtu 1403", func(r health.Result) bool {
			return r.Small && !r.Large && r.PathMTU == 1403 && r.Refused.TooBig == 1403
		}, "MTU to far is 1403, smaller than the 1500 of u0: a router says so"},
		{"narrow link, packets lost", router, "ip link set e0 mtu 1403; " + chain("output", tooBig),
			func(r health.Result) bool {
				return r.Small && !r.Large && r.PathMTU == 1403 && r.Refused.TooBig == 0
			}, "MTU to far is 1403, smaller than the 1500 of u0: large packets are lost"},
		{"this host's link is narrow", here, "ip link set u0 mtu 1400", func(r health.Result) bool {
			return r.Small && !r.Large && r.PathMTU == 1400 && r.Refused.Link
		}, "1400"},
		{"the far host drops", far, chain("input", "drop"), func(r health.Result) bool {
			return !r.Small && r.Loss == 1 && r.Refused == health.Refusals{}
		}, "answers no ping"},
		{"a firewall refuses", router, chain("forward", reject), func(r health.Result) bool {
			return !r.Small && r.Refused.Prohibited
		}, "refuses packets"},
		{"this host's firewall drops", here, chain("output", "drop"), func(r health.Result) bool {
			return !r.Small && r.Refused.Denied
		}, "own firewall"},
		{"the router has no route", router, "ip route del 10.0.2.0/24; ip route del fd00:2::/64 dev e0",
			func(r health.Result) bool {
				return !r.Small && r.Refused.Host
			}, "a router says"},
		{"no route", here, "ip route del 10.0.2.0/24; ip route del fd00:2::/64", func(r health.Result) bool {
			return !r.Small && r.Refused.NoRoute
		}, "no route"},
		{"another address answers", far, "ip addr add 10.0.2.77/24 dev v0; ip addr add fd00:2::77/64 dev v0 nodad;" +
			chain("output", "icmp type echo-reply ip saddr set 10.0.2.77; nft add rule inet t c icmpv6 type "+
				"echo-reply ip6 saddr set fd00:2::77"), func(r health.Result) bool {
			return r.Small && (r.From == netip.MustParseAddr("10.0.2.77") ||
				r.From == netip.MustParseAddr("fd00:2::77"))
		}, "another address than it announces"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPath(t)
			h := p.prober(health.Options{Timeout: 400 * time.Millisecond})
			if c.where != nil {
				c.where(p, c.script)
			}
			for _, f := range families {
				r := probe(t, h, health.Target{Node: "2", Name: "far", Path: health.Underlay, Addr: f.far,
					Source: f.source, MTU: 1500})
				if !c.want(r) {
					t.Errorf("%s: %+v", f.name, r)
				}
				d := health.Diagnose(health.Peer{Alive: true, Announced: f.far, Link: "u0"}, r, r)
				if (d.Cause == "") != (c.cause == "") || !strings.Contains(d.Cause, c.cause) {
					t.Errorf("%s: cause %q, want %q", f.name, d.Cause, c.cause)
				}
			}
		})
	}
}

func TestNobodyOnTheLink(t *testing.T) {
	p := newPath(t)
	h := p.prober(health.Options{})
	var probes sync.WaitGroup
	for _, f := range []struct{ addr, source string }{{"10.0.1.99", "10.0.1.1"}, {"fd00:1::99", "fd00:1::1"}} {
		probes.Go(func() {
			to := health.Target{Node: "9", Name: "far", Path: health.Underlay, Addr: netip.MustParseAddr(f.addr),
				Source: netip.MustParseAddr(f.source), MTU: 1500}
			r, err := h.Probe(t.Context(), to)
			if err != nil || !r.Refused.Neighbour || r.Small {
				t.Errorf("%s: %+v, %v", f.addr, r, err)
			}
		})
	}
	probes.Wait()
}

// TestTunnel blocks, closes and opens the UDP port of a tunnel.
func TestTunnel(t *testing.T) {
	p := newPath(t)
	h := p.prober(health.Options{Timeout: 400 * time.Millisecond})
	// Neighbours are permanent, as those of vethloom's tunnels are.
	const vxlan = "ip link add x0 address 02:00:00:00:09:%[1]d type vxlan id 1 dstport 8472 local %[2]s remote " +
		"%[3]s nolearning;" +
		"ip addr add 10.9.0.%[1]d/24 dev x0; ip link set x0 mtu 1450 up; ip neigh replace 10.9.0.%[4]d lladdr " +
		"02:00:00:00:09:%[4]d dev x0 nud permanent"
	p.Sh(fmt.Sprintf(vxlan, 1, "10.0.1.1", "10.0.2.2", 2))
	t.Cleanup(func() { p.Sh("ip link del x0") })
	to := health.Target{Node: "2", Name: "far", Path: "vxlan web", Addr: netip.MustParseAddr("10.9.0.2"),
		Source: netip.MustParseAddr("10.9.0.1"), MTU: 1450,
		Outer: netip.MustParseAddrPort("10.0.2.2:8472")}
	under := health.Target{Node: "2", Name: "far", Path: health.Underlay, Addr: families[0].far,
		Source: families[0].source, MTU: 1500}
	peer := health.Peer{Alive: true, Announced: under.Addr, Link: "u0", Self: families[0].source}
	expect := func(cause string) {
		t.Helper()
		paths := []health.Result{probe(t, h, under), probe(t, h, to)}
		v := health.Judge(peer, paths)[1]
		if (v.Cause == "") != (cause == "") || !strings.Contains(v.Cause, cause) {
			t.Errorf("cause %q, want %q", v.Cause, cause)
		}
	}
	expect("nothing listens on UDP port 8472 of far")
	// Two networks may have tunnels to the same port.
	other := to
	other.Path = "vxlan other"
	h.Set([]health.Target{under, to, other})
	paths, err := h.Refresh(t.Context(), "2")
	if err != nil || len(paths) != 3 || !paths[0].Large || !paths[1].Refused.Port || !paths[2].Refused.Port {
		t.Errorf("all paths at once: %+v, %v", paths, err)
	}
	if left := p.Sh("ss -Hlnu | grep -v :8472 || true"); left != "" {
		t.Errorf("ports of probes are in use after they ended: %s", left)
	}
	p.in(p.far, fmt.Sprintf(vxlan, 2, "10.0.2.2", "10.0.1.1", 1))
	expect("")
	p.in(p.router, chain("forward", "udp dport 8472 drop"))
	expect("UDP port 8472 is blocked between 10.0.1.1 and 10.0.2.2")
	p.in(p.router, "nft flush chain inet t c; nft add rule inet t c udp dport 8472 reject with icmp admin-prohibited")
	expect("a firewall refuses UDP port 8472")
	p.in(p.router, "nft flush chain inet t c; nft add rule inet t c udp dport 8472 meta length \\> 1400 drop")
	expect("packets above 1350 bytes are lost")
}

func TestRunProbesEveryTargetAtABoundedRate(t *testing.T) {
	p := newPath(t)
	const count, rate = 1000, 500
	var mu sync.Mutex
	checked := map[netip.Addr]int{}
	all := make(chan struct{})
	h := p.prober(health.Options{Period: 50 * time.Millisecond, Rate: rate, Changed: func(r health.Result) {
		mu.Lock()
		defer mu.Unlock()
		if checked[r.Addr]++; len(checked) == count && checked[r.Addr] == 1 {
			close(all)
		}
	}})
	var targets []health.Target
	for i := range count {
		targets = append(targets, health.Target{Node: fmt.Sprint(i), Path: health.Underlay,
			Addr: netip.AddrFrom4([4]byte{127, 0, byte(1 + i/200), byte(1 + i%200)}), MTU: 1500})
	}
	defer run(t, h)()
	begin := time.Now()
	h.Set(targets)
	await.From(t, "all are probed", all)
	if took := time.Since(begin); took < count*time.Second/rate*3/4 {
		t.Errorf("a thousand targets took %s: faster than %d a second", took, rate)
	}
	for _, r := range h.Results() {
		if !r.Small || !r.Large || r.Checked.IsZero() {
			t.Fatalf("%+v", r)
		}
	}
	h.Set(targets[10:12])
	if got := h.Results(); len(got) != 2 || got[0].Checked.IsZero() || len(h.Of("0")) != 0 || len(h.Of("11")) != 1 {
		t.Errorf("after most went: %+v", got)
	}
}

// run has a prober run until what it returns is called.
func run(t *testing.T, h *health.Prober) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	return func() {
		cancel()
		<-ended
	}
}

// TestRunEnds ends while rounds are waiting for their turn.
func TestRunEnds(t *testing.T) {
	p := newPath(t)
	h := p.prober(health.Options{Period: time.Millisecond, Rate: 5000, Timeout: 100 * time.Millisecond})
	var targets []health.Target
	for i := range 200 { // nobody answers there, so that rounds take their time
		targets = append(targets, health.Target{Node: fmt.Sprint(i), Path: health.Underlay,
			Addr: netip.AddrFrom4([4]byte{10, 0, 2, byte(20 + i)}), MTU: 1500})
	}
	h.Set(targets)
	for range 20 {
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Millisecond)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			h.Run(ctx)
		}()
		await.From(t, "the prober ends", ended)
		stop()
	}
}

// TestRunSeesChanges loses a path and finds it again.
func TestRunSeesChanges(t *testing.T) {
	p := newPath(t)
	seen := make(chan bool, 10)
	h := p.prober(health.Options{Period: 20 * time.Millisecond, Timeout: 200 * time.Millisecond,
		Changed: func(r health.Result) { seen <- r.Small }})
	defer run(t, h)()
	expect := func(want bool) {
		t.Helper()
		if got := await.From(t, "something changes", seen); got != want {
			t.Errorf("small packets arrive: %v, want %v", got, want)
		}
	}
	h.Set([]health.Target{{Node: "2", Path: health.Underlay, Addr: families[0].far}})
	expect(true)
	p.in(p.router, chain("forward", "drop"))
	expect(false)
	p.in(p.router, "nft delete table inet t")
	expect(true)
}

func TestProbeEndsWithItsContext(t *testing.T) {
	p := newPath(t)
	p.in(p.router, chain("forward", "drop"))
	h := p.prober(health.Options{Timeout: time.Hour})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Probe(ctx, health.Target{Name: "far", Path: health.Underlay, Addr: families[0].far}); err == nil ||
		!strings.Contains(err.Error(), "probe far at 10.0.2.2 by underlay") {
		t.Errorf("error %v", err)
	}
	if _, err := h.Probe(t.Context(), health.Target{Name: "far", Path: health.Underlay}); err == nil {
		t.Error("probed a target without an address")
	}
}
