package udp

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) {
	if childMain() {
		return
	}
	goleak.VerifyTestMain(m)
}

// space is a fresh network namespace with a thread in it.
type space struct {
	tb   testing.TB
	tid  int
	work chan func()
}

func newSpace(tb testing.TB) *space {
	tb.Helper()
	s := &space{tb: tb, work: make(chan func())}
	ready, done := make(chan error), make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		s.tid = unix.Gettid()
		ready <- unix.Unshare(unix.CLONE_NEWNET)
		for f := range s.work {
			f()
		}
	}()
	if err := <-ready; err != nil {
		tb.Fatalf("make a network namespace: %v", err)
	}
	tb.Cleanup(func() { close(s.work); <-done })
	s.ip("link set lo up")
	return s
}

// do runs f on the namespace's thread.
func (s *space) do(f func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); f() }
	<-done
}

// start starts a command in the namespace.
func (s *space) start(c *exec.Cmd) error {
	var err error
	s.do(func() { err = c.Start() })
	return err
}

// try runs a command in the namespace.
func (s *space) try(name string, args ...string) (string, error) {
	var out strings.Builder
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = &out, &out
	if err := s.start(c); err != nil {
		return "", err
	}
	err := c.Wait()
	return out.String(), err
}

func (s *space) run(name string, args ...string) string {
	s.tb.Helper()
	out, err := s.try(name, args...)
	if err != nil {
		s.tb.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func (s *space) ip(args string) { s.tb.Helper(); s.run("ip", strings.Fields(args)...) }

// side is a node of a lab: a namespace with a Host, a TUN link and an underlay, and a
// container's namespace behind it.
type side struct {
	*space
	host   *Host
	died   chan string
	box    *space
	tunnel plan.Tunnel
	outer  netip.Addr
	inner4 netip.Addr // the box's
	inner6 netip.Addr
	net4   netip.Prefix
	net6   netip.Prefix
}

const testLink = "vlt-test"

// labConfig varies a lab.
type labConfig struct {
	outer6 bool
	plain  [2]bool
	mtu    int // of the underlay; 0 is 1500
}

// newLab makes two nodes, each with a box, and a tunnel between them.
func newLab(tb testing.TB, cfg labConfig) [2]*side {
	tb.Helper()
	if cfg.mtu == 0 {
		cfg.mtu = 1500
	}
	var sides [2]*side
	for i := range sides {
		sides[i] = newSide(tb, i+1, cfg)
	}
	a, b := sides[0], sides[1]
	a.ip(fmt.Sprintf("link add ul mtu %d type veth peer name ul mtu %d netns %d", cfg.mtu, cfg.mtu, b.tid))
	for _, s := range sides {
		bits := 24
		if cfg.outer6 {
			bits = 64
		}
		s.ip(fmt.Sprintf("addr add %s/%d dev ul nodad", s.outer, bits))
		s.ip("link set ul up")
		s.makeTUN(cfg)
	}
	for i, s := range sides {
		other := sides[1-i]
		if err := s.open(); err != nil {
			tb.Fatal(err)
		}
		for _, p := range []netip.Prefix{other.net4, other.net6} {
			if err := s.host.Add(plan.TunnelPeer{Link: testLink, Prefix: p, Dst: other.outer}); err != nil {
				tb.Fatal(err)
			}
		}
	}
	for _, s := range sides {
		s.settle()
	}
	reaches(tb, a, b)
	return sides
}

func newSide(tb testing.TB, n int, cfg labConfig) *side {
	s := &side{space: newSpace(tb), box: newSpace(tb), died: make(chan string, 8)}
	s.host = New(Config{Died: func(link string, _ error) { s.died <- link }})
	tb.Cleanup(s.host.Shutdown)
	s.outer = netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", n))
	if cfg.outer6 {
		s.outer = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", n))
	}
	s.net4 = netip.MustParsePrefix(fmt.Sprintf("10.9.%d.0/24", n))
	s.net6 = netip.MustParsePrefix(fmt.Sprintf("fd09:0:0:%d::/64", n))
	s.inner4 = netip.MustParseAddr(fmt.Sprintf("10.9.%d.2", n))
	s.inner6 = netip.MustParseAddr(fmt.Sprintf("fd09:0:0:%d::2", n))
	s.tunnel = plan.Tunnel{
		Link: testLink, Local: s.outer, Port: 8285, Inside: []netip.Prefix{s.net4, s.net6}, Plain: cfg.plain[n-1],
	}
	s.ip(fmt.Sprintf("link add box type veth peer name eth0 netns %d", s.box.tid))
	s.ip(fmt.Sprintf("addr add 10.9.%d.1/24 dev box", n))
	s.ip(fmt.Sprintf("addr add fd09:0:0:%d::1/64 dev box nodad", n))
	s.ip("link set box up")
	s.box.ip(fmt.Sprintf("addr add %s/24 dev eth0", s.inner4))
	s.box.ip(fmt.Sprintf("addr add %s/64 dev eth0 nodad", s.inner6))
	s.box.ip("link set eth0 up")
	s.box.ip(fmt.Sprintf("route add default via 10.9.%d.1", n))
	s.box.ip(fmt.Sprintf("route add default via fd09:0:0:%d::1", n))
	s.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
	return s
}

// makeTUN makes the persistent link as internal/kern does.
func (s *side) makeTUN(cfg labConfig) {
	overhead := 28
	if cfg.outer6 {
		overhead = 48
	}
	s.ip("tuntap add mode tun name " + testLink + " vnet_hdr")
	s.ip("link set " + testLink + " addrgenmode none") // no router solicitations in between
	s.ip(fmt.Sprintf("link set %s mtu %d up", testLink, cfg.mtu-overhead))
	s.ip("route add 10.9.0.0/16 dev " + testLink)
	s.ip("route add fd09::/32 dev " + testLink)
}

func (s *side) open() error {
	var err error
	s.do(func() { err = s.host.Open(context.Background(), s.tunnel) })
	return err
}

// settle builds the table that is due.
func (s *side) settle() {
	s.host.mu.Lock()
	defer s.host.mu.Unlock()
	for _, l := range s.host.links {
		l.build()
	}
}

// reaches waits until boxes reach each other: the kernel starts the queue of a TUN link that
// has just been attached to in its own time.
func reaches(tb testing.TB, from, to *side) {
	tb.Helper()
	await.True(tb, "one box answers the other", func() bool {
		_, err := from.box.try("ping", "-c", "1", "-W", "1", to.inner4.String())
		return err == nil
	})
}

// listen and dial make TCP connections in namespaces.
func (s *space) listen(addr netip.Addr) net.Listener {
	s.tb.Helper()
	var (
		l   net.Listener
		err error
	)
	s.do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(addr, 0).String()) })
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { l.Close() })
	return l
}

func (s *space) dial(network, addr string) net.Conn {
	s.tb.Helper()
	var (
		c   net.Conn
		err error
	)
	s.do(func() { c, err = net.DialTimeout(network, addr, 5*time.Second) })
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { c.Close() })
	return c
}

func (s *space) packetConn(addr netip.AddrPort) *net.UDPConn {
	s.tb.Helper()
	var (
		c   *net.UDPConn
		err error
	)
	s.do(func() { c, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)) })
	if err != nil {
		s.tb.Fatal(err)
	}
	s.tb.Cleanup(func() { c.Close() })
	return c
}

func drain(r io.Reader) { _, _ = io.Copy(io.Discard, r) }
