package fastpath_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

const network plan.FastNetwork = "1c34db1e81d200aa"

// node is a host with a bridge and containers, and the fast path of its own.
type node struct {
	t    *testing.T
	env  *kerntest.Env
	ns   string // "" is the test's own
	at   fastpath.Attachment
	path *fastpath.Path
}

// eachAttachment runs a test with every way to have programs at links.
func eachAttachment(t *testing.T, f func(t *testing.T, at fastpath.Attachment)) {
	t.Helper()
	for _, at := range fastpath.Attachments() {
		t.Run(string(at), func(t *testing.T) { f(t, at) })
	}
}

func newNode(t *testing.T, env *kerntest.Env, ns string, at fastpath.Attachment) *node {
	t.Helper()
	n := &node{t: t, env: env, ns: ns, at: at}
	n.sh(`for d in /proc/sys/net/ipv6/conf/*/accept_dad; do echo 0 > $d; done
		ip link set lo up; ip link add vlb type bridge; ip link set vlb address 02:00:00:00:00:01 up
		echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`)
	n.open()
	t.Cleanup(func() {
		n.sh("ip link del vlb")
		if err := n.path.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

func (n *node) open() { n.openWith(nil) }

// openWith opens the fast path with other programs.
func (n *node) openWith(change func(*ebpf.CollectionSpec)) {
	n.t.Helper()
	var indexes []uint32
	for i := range n.links() {
		indexes = append(indexes, i)
	}
	p, err := fastpath.OpenAs(n.at, n.enter, indexes, change)
	if err != nil {
		n.t.Fatal(err)
	}
	n.path = p
}

// enter runs a function in the node's namespace.
func (n *node) enter(f func() error) error { return n.env.Do(n.ns, f) }

// sh runs a script in the node's namespace.
func (n *node) sh(script string) string {
	n.t.Helper()
	if n.ns == "" {
		return n.env.Sh(script)
	}
	return n.env.Run("nsenter", "--net="+n.ns, "sh", "-ec", script)
}

func (n *node) links() map[uint32]string {
	n.t.Helper()
	out := map[uint32]string{}
	err := n.env.Do(n.ns, func() error {
		all, err := net.Interfaces()
		for _, l := range all {
			out[uint32(l.Index)] = l.Name
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

func (n *node) index(link string) (uint32, error) {
	for i, name := range n.links() {
		if name == link {
			return i, nil
		}
	}
	return 0, fmt.Errorf("no link %s", link)
}

// box is a container on a node's bridge.
type box struct {
	*node
	number int
	inside string // path of its namespace
	addrs  []netip.Addr
}

func (b *box) link() string  { return fmt.Sprintf("vle%d", b.number) }
func (b *box) mac() plan.MAC { return plan.MAC{2, 0x42, 0, 0, 1, byte(b.number)} }

// box makes a container with addresses of both families.
func (n *node) box(number int, subnet string) *box {
	n.t.Helper()
	b := &box{node: n, number: number, inside: n.env.Namespace(n.t),
		addrs: []netip.Addr{netip.MustParseAddr(fmt.Sprintf("10.1.%s.%d", subnet, number)),
			netip.MustParseAddr(fmt.Sprintf("fd00:1:0:%s::%d", subnet, number))}}
	n.sh(fmt.Sprintf(`ip link add %s master vlb up type veth peer name eth0 address %s
		ip link set eth0 netns %s`, b.link(), b.mac(), b.inside))
	b.in(fmt.Sprintf(`ip link set lo up; ip link set eth0 up; ip addr add %s/24 dev eth0
		ip addr add %s/64 dev eth0 nodad`, b.addrs[0], b.addrs[1]))
	return b
}

func (b *box) in(script string) string {
	b.t.Helper()
	return b.env.Run("nsenter", "--net="+b.inside, "sh", "-ec", script)
}

// fast leads to the box, and from it.
func (b *box) fast(publishes bool) {
	b.t.Helper()
	for _, a := range b.addrs {
		e := plan.FastEndpoint{Network: network, Addr: a, Link: b.link(), MAC: b.mac(),
			Via: plan.MAC{2, 0, 0, 0, 0, 1}, MTU: 1500, Publishes: publishes}
		if err := b.path.PutEndpoint(e, b.index); err != nil {
			b.t.Fatal(err)
		}
	}
	i, err := b.index(b.link())
	if err != nil {
		b.t.Fatal(err)
	}
	if err := b.path.Attach(i, plan.FastProgram{Link: b.link(), Network: network, MAC: b.mac()}); err != nil {
		b.t.Fatal(err)
	}
}

func (n *node) counts() fastpath.Counts {
	n.t.Helper()
	c, err := n.path.Count(network)
	if err != nil {
		n.t.Fatal(err)
	}
	return c
}

// TestNeighboursMeetOnTheFastPath has two containers of one bridge talk.
func TestNeighboursMeetOnTheFastPath(t *testing.T) { eachAttachment(t, neighbours) }

func neighbours(t *testing.T, at fastpath.Attachment) {
	n := newNode(t, kerntest.New(t), "", at)
	n.must(n.path.Load())
	if err := n.path.PutCounter(plan.FastCounter{Network: network}); err != nil {
		t.Fatal(err)
	}
	a, b := n.box(2, "0"), n.box(3, "0")
	a.fast(false)
	b.fast(false)
	for _, to := range b.addrs {
		a.in(fmt.Sprintf("ping -c 3 -i 0.01 -W 1 %s", to))
	}
	c := n.counts()
	if c.Packets[fastpath.Fast] < 12 {
		t.Errorf("only %d packets took the fast path", c.Packets[fastpath.Fast])
	}
}
