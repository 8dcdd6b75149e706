package fastpath_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// across is how two nodes of a test meet.
type across struct {
	way    plan.FastWay
	routed bool
	ipv6   bool // the underlay
}

func (a across) String() string {
	s := string(a.way)
	if a.ipv6 {
		s += " over IPv6"
	}
	if !a.routed {
		s += " bridged"
	}
	return s
}

// joined is a node with an uplink and one container.
type joined struct {
	*node
	box    *box
	number int // 1 or 2
	uplink string
}

func (j *joined) underlay(ipv6 bool) netip.Addr {
	if ipv6 {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", j.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", j.number))
}

func (j *joined) bridge() plan.MAC { return plan.MAC{2, 0, 0, 0, 0, byte(j.number)} }
func (j *joined) vtep() plan.MAC   { return plan.MAC{2, 0, 0, 0, 1, byte(j.number)} }

// subnets of a node's part of the network.
func (j *joined) subnets() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.1.%d.0/24", j.number)),
		netip.MustParsePrefix(fmt.Sprintf("fd00:1:0:%d::/64", j.number))}
}

// newPair makes two nodes with a link between them.
func newPair(t *testing.T, at fastpath.Attachment) (a, b *joined) {
	t.Helper()
	env := kerntest.New(t)
	far := env.Namespace(t)
	env.Sh("ip link add up1 type veth peer name up2 netns " + far)
	t.Cleanup(func() { env.Sh("ip link del up1") })
	for i, ns := range []string{"", far} {
		j := &joined{node: newNode(t, env, ns, at), number: i + 1, uplink: fmt.Sprintf("up%d", i+1)}
		j.sh(fmt.Sprintf(`ip link set %[1]s up; ip addr add %[2]s/24 dev %[1]s; ip addr add %[3]s/64 dev %[1]s nodad
			ip link set vlb address %[4]s`, j.uplink, j.underlay(false), j.underlay(true), j.bridge()))
		j.box = j.node.box(10+j.number, fmt.Sprint(j.number))
		j.sh(fmt.Sprintf("ip link set vlb mtu %d", mtu))
		j.box.in(fmt.Sprintf("ip link set eth0 mtu %d", mtu))
		for _, s := range j.subnets() {
			gateway := s.Addr().Next()
			j.sh(fmt.Sprintf("ip addr add %s/%d dev vlb nodad", gateway, s.Bits()))
			j.box.in(fmt.Sprintf("ip route add default via %s", gateway))
		}
		if a == nil {
			a = j
		} else {
			b = j
		}
	}
	return a, b
}

const mtu = 1400

// meet has the fast path lead to the other node and its container.
func (j *joined) meet(other *joined, w across) {
	j.t.Helper()
	j.must(j.path.PutCounter(plan.FastCounter{Network: network}))
	for _, a := range j.box.addrs {
		e := plan.FastEndpoint{Network: network, Addr: a, Link: j.box.link(), MAC: j.box.mac(),
			Via: j.bridge(), MTU: mtu}
		j.must(j.path.PutEndpoint(e, j.index))
		e.Plain = true
		j.must(j.path.PutEndpoint(e, j.index))
	}
	up, err := j.index(j.uplink)
	j.must(err)
	for _, s := range other.subnets() {
		outer := w.ipv6 || w.way == plan.FastPlain && s.Addr().Is6()
		p := plan.FastPeer{Network: network, Prefix: s, Way: w.way, Node: other.underlay(outer),
			Self: j.underlay(outer),
			Link: j.uplink, MTU: mtu, VNI: 77, Port: 8472, Via: j.bridge(), Routed: w.routed, SourceMAC: j.vtep(),
			DestMAC: other.vtep()}
		if !w.routed {
			p.Via = other.box.mac()
		}
		j.must(j.path.PutPeer(p, up, fastpath.Hop{Link: up, Addr: p.Node}))
	}
	t := plan.FastTunnel{Port: 8472, IPv6: w.ipv6, Way: w.way, Self: j.underlay(w.ipv6), Routed: w.routed,
		MAC: j.vtep()}
	if w.way == plan.FastVXLAN {
		j.must(j.path.PutTunnel(t, j.index))
		t.VNI = 77
	}
	if t.Network = network; w.way != plan.FastPlain {
		j.must(j.path.PutTunnel(t, j.index))
	}
	i, err := j.index(j.box.link())
	j.must(err)
	j.must(j.path.Attach(i, plan.FastProgram{Link: j.box.link(), Network: network, MAC: j.box.mac()}))
	j.must(j.path.Attach(up, plan.FastProgram{Link: j.uplink}))
	if !w.routed { // the other container is a neighbour
		for i, a := range other.box.addrs {
			j.box.in(fmt.Sprintf("ip route add %s dev eth0; ip neigh replace %s lladdr %s dev eth0", a,
				other.box.addrs[i], other.box.mac()))
		}
	}
}

// TestNodesMeetOnTheFastPath has containers of two nodes talk, by each way and over both families of the underlay.
func TestNodesMeetOnTheFastPath(t *testing.T) { eachAttachment(t, nodesMeet) }

func nodesMeet(t *testing.T, at fastpath.Attachment) {
	for _, w := range []across{
		{way: plan.FastPlain, routed: true},
		{way: plan.FastUDP, routed: true}, {way: plan.FastUDP, routed: true, ipv6: true},
		{way: plan.FastVXLAN, routed: true}, {way: plan.FastVXLAN, routed: true, ipv6: true},
		{way: plan.FastVXLAN}, {way: plan.FastVXLAN, ipv6: true},
	} {
		t.Run(w.String(), func(t *testing.T) {
			a, b := newPair(t, at)
			a.meet(b, w)
			b.meet(a, w)
			for _, to := range b.box.addrs {
				out := a.box.in(fmt.Sprintf("ping -c 3 -i 0.01 -W 1 -s 1300 %s", to))
				if want := "ttl=64"; !w.routed != strings.Contains(out, want) {
					t.Errorf("the hops are not counted as on the slow path:\n%s", out)
				}
				transfer(t, a.box, b.box, to)
			}
			for _, j := range []*joined{a, b} {
				c := j.counts()
				t.Logf("%+v", c)
				if c.Packets[fastpath.Fast] < 12 || c.Bytes[fastpath.Fast] < 2*size {
					t.Errorf("only %d packets with %d bytes took the fast path", c.Packets[fastpath.Fast],
						c.Bytes[fastpath.Fast])
				}
				for r := fastpath.Other; r <= fastpath.Refused; r++ {
					if r != fastpath.Form && c.Packets[r] > 0 {
						t.Errorf("%d packets took the slow path: %s", c.Packets[r], r)
					}
				}
			}
		})
	}
}

const size = 8 << 20

// transfer sends bytes by TCP, and compares what arrives.
func transfer(t *testing.T, from, to *box, at netip.Addr) {
	t.Helper()
	sent := bytes.Repeat([]byte("vethloom"), size/8)
	var l net.Listener
	if err := to.env.Do(to.inside, func() (err error) {
		l, err = net.Listen("tcp", netip.AddrPortFrom(at, 0).String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sum := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			sum <- err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(await.Patience))
		h := sha256.New()
		_, err = io.Copy(h, c)
		sum <- fmt.Sprintf("%x %v", h.Sum(nil), err)
	}()
	if err := from.env.Do(from.inside, func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		c.SetDeadline(time.Now().Add(await.Patience))
		_, err = c.Write(sent)
		c.Close()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want, got := fmt.Sprintf("%x %v", sha256.Sum256(sent), nil), <-sum; got != want {
		t.Errorf("other bytes arrived: %s, want %s", got, want)
	}
}
