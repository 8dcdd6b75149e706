package overlay_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/plan"
)

// blocks are those of a node.
func (n *node) blocks() []netip.Prefix {
	i := n.host.Node[len("node"):]
	return []netip.Prefix{netip.MustParsePrefix("10.5." + i + ".0/26"), netip.MustParsePrefix("fd05::" + i + ":0/122")}
}

// render renders everything anew, by what nodes and network are like now: nodes have blocks.
func (w *world) render() {
	w.tb.Helper()
	keep := func(s plan.State, err error) plan.State {
		w.tb.Helper()
		if err != nil {
			w.tb.Fatal(err)
		}
		return s
	}
	d := overlay.Driver{}
	for _, n := range w.nodes {
		n.want, n.peers = n.base.Merge(keep(d.RenderNetwork(w.network, n.host))), map[string]plan.State{}
		for name, e := range w.endpoints {
			home := w.homes[name]
			if home == n {
				n.want = n.want.Merge(plan.State{Namespaces: []plan.Namespace{{Name: e.NetNS}}}).
					Merge(keep(d.RenderEndpoint(w.network, e, n.host)))
				continue
			}
			p := w.known[name]
			p.InBlock = home.host.Fast && !slices.ContainsFunc(p.Prefixes, func(a netip.Prefix) bool {
				return !slices.ContainsFunc(home.blocks(), func(b netip.Prefix) bool { return b.Contains(a.Addr()) })
			})
			n.peers[name] = keep(d.RenderPeer(w.network, p, n.host))
		}
		for _, other := range w.nodes {
			if u := other.host.Uplink; other != n {
				n.peers["blocks of "+other.name] = keep(d.RenderPeer(w.network, cnm.Peer{ID: "blocks", Blocks: true,
					Network: w.network.ID, Node: other.name, Prefixes: other.blocks(), Addr4: u.Addr4, Addr6: u.Addr6,
					Fast: other.host.Fast}, n.host))
			}
		}
	}
	w.copies()
	w.converge()
}

// fast makes nodes with the fast path, two of them with boxes.
func fastWorld(t *testing.T, nodes int, v4 bool) *world {
	t.Helper()
	w := newWorld(t, nodes, v4, !v4, false)
	for _, n := range w.nodes {
		if err := n.kernel.FastPath(); err != nil {
			t.Fatal(err)
		}
		n.host.Fast = true
	}
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
	w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
	return w
}

// knows is the MAC address that a box has for an address.
func (w *world) knows(box, addr string) string {
	w.tb.Helper()
	words := strings.Fields(w.must(box, "ip", "neigh", "show", "to", addr, "dev", "eth0"))
	if i := slices.Index(words, "lladdr"); i >= 0 {
		return words[i+1]
	}
	return strings.Join(words, " ")
}

// bridge is the MAC address of a node's bridge.
func (w *world) bridge(node string) string {
	w.tb.Helper()
	words := strings.Fields(w.must(node, "ip", "-o", "link", "show", overlay.Driver{}.NetworkLink(w.network)))
	return words[slices.Index(words, "link/ether")+1]
}

func TestBlocksLeadToTheirNodes(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		t.Run(fmt.Sprintf("IPv4 %v", v4), func(t *testing.T) {
			w := fastWorld(t, 2, v4)
			w.box("slow", w.nodes[1], "10.5.2.3/16", "fd05::2:3/64")
			slow := w.endpoints["slow"]
			slow.RateIn, slow.RateOut = 1<<30, 1<<30
			w.endpoints["slow"] = slow
			w.box("outside", w.nodes[1], "10.5.9.9/16", "fd05::9:9/64")
			w.render()
			w.countUnderlay()
			w.serve("b", 80)
			for _, to := range []string{"10.5.2.2", "fd05::2:2", "10.5.2.3", "fd05::2:3", "10.5.9.9", "fd05::9:9"} {
				w.pings("a", to, true)
				w.pings("a", to, true, "-t1")
				w.pings("a", to, true, "-s4000") // fragments
			}
			w.pings("a", "10.5.2.2", true, "-R") // an IP option
			w.fetches("a", "10.5.2.2:80")
			w.fetches("a", "[fd05::2:2]:80")
			w.fetches("slow", "10.5.2.2:80")
			for _, from := range []string{"b", "slow", "outside"} {
				w.pings(from, "10.5.1.2", true)
				w.pings(from, "fd05::1:2", true)
			}
			w.countedNone("blocks", "inner_arp")
			w.countedNone("blocks", "solicitations")
			c, err := w.nodes[0].kernel.FastCounts(cnm.FastNetwork(w.network))
			if err != nil || c.Packets[fastpath.Fast] < 20 {
				t.Errorf("only %d packets took the fast path: %v", c.Packets[fastpath.Fast], err)
			}
			// Whoever has an address of a block, its node is told; and what is in no block is an entry of its own.
			for addr, node := range map[string]string{"10.5.2.2": "node2", "fd05::2:2": "node2", "10.5.2.60": "node2",
				"fd05::2:3c": "node2", "10.5.0.1": "node1", "fd05::1": "node1"} {
				w.pings("a", addr, !strings.Contains(addr, "60") && !strings.Contains(addr, "3c"))
				if got, want := w.knows("a", addr), w.bridge(node); got != want {
					t.Errorf("%s is at %s, want %s", addr, got, want)
				}
			}
			if got, want := w.knows("a", "10.5.9.9"), "02:42:00:00:00:04"; got != want {
				t.Errorf("an address of no block is at %s, want %s", got, want)
			}
			link := overlay.LinkName(w.network.ID)
			entries := w.must("node1", "ip", "neigh", "show", "dev", link) + w.must("node1", "bridge", "fdb", "show",
				"dev", link)
			for _, none := range []string{"10.5.2.2 ", "fd05::2:2 ", "02:42:00:00:00:02"} {
				if strings.Contains(entries, none) {
					t.Errorf("%s has an entry:\n%s", none, entries)
				}
			}
		})
	}
}

// The host itself asks for an address of a block, and its packet arrives. The answer is for the gateway, which the
// other node has itself.
func TestTheHostKnowsBlocks(t *testing.T) {
	w := fastWorld(t, 2, true)
	w.render()
	bridge := overlay.Driver{}.NetworkLink(w.network)
	echoes := func() string {
		return strings.Fields(w.must("b", "sh", "-c", "grep ^Icmp: /proc/net/snmp | tail -1"))[9]
	}
	w.must("node1", "sh", "-c", "ping -c1 -W0.1 10.5.2.2; ping -c1 -W0.1 fd05::2:2; true")
	await.Value(t, "pings of the host that came to a box elsewhere", "1", echoes)
	for _, addr := range []string{"10.5.2.2", "fd05::2:2"} {
		out := w.must("node1", "ip", "neigh", "show", "to", addr, "dev", bridge)
		if want := w.bridge("node2"); !strings.Contains(out, "lladdr "+want) {
			t.Errorf("to the host, %s is %q, want %s", addr, out, want)
		}
	}
}

// A gateway's address is in the block of some node, and each node has it.
func TestTheGatewayIsNotOfABlock(t *testing.T) {
	w := fastWorld(t, 2, true)
	w.nodes[1].host.Node = "node0" // whose blocks have the gateways
	w.render()
	for _, gateway := range []string{"10.5.0.1", "fd05::1"} {
		w.pings("a", gateway, true)
		if got, want := w.knows("a", gateway), w.bridge("node1"); got != want {
			t.Errorf("%s is at %s, want %s", gateway, got, want)
		}
	}
	w.pings("a", "10.5.2.2", true)
}

// injected has the first node's tunnel bring a frame to the second one.
func (w *world) injected(b []byte) {
	w.tb.Helper()
	w.tunnelled(append(binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, w.network.Cluster.VNI<<8), b...))
}

func hardware(s string) []byte {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// to changes whom a frame is for.
func to(mac string, b []byte) []byte { return append(hardware(mac), b[6:]...) }

// What another node lets out of its tunnel tells nobody another MAC address for what is in a block, and gets nowhere by
// the bridge of this node but to endpoints.
func TestWhatComesForABlock(t *testing.T) {
	w := fastWorld(t, 3, true)
	w.box("c", w.nodes[2], "10.5.3.2/16", "fd05::3:2/64")
	w.render()
	w.pings("b", "10.5.1.2", true)
	w.pings("b", "fd05::1:2", true)
	evil := hardware("02:42:00:00:00:66")
	one, two := netip.MustParseAddr("10.5.1.2").AsSlice(), netip.MustParseAddr("10.5.2.2").AsSlice()
	arp := slices.Concat(hardware("ff:ff:ff:ff:ff:ff"), evil, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, evil, one, evil,
		one)
	request := slices.Concat(arp[:20], []byte{0, 1}, evil, one, make([]byte, 6), two)
	target := netip.MustParseAddr("fd05::1:2").AsSlice()
	na := func(to string, flags byte) []byte {
		return frame(58, "fd05::1:2", to, slices.Concat([]byte{136, 0, 0, 0, flags, 0, 0, 0}, target, []byte{2, 1},
			evil))
	}
	ns := frame(58, "fd05::1:2", "ff02::1", slices.Concat([]byte{135, 0, 0, 0, 0, 0, 0, 0},
		netip.MustParseAddr("fd05::2:2").AsSlice(), []byte{1, 1}, evil))
	unicast := "02:42:00:00:00:02"
	got := w.frames("b")
	for _, b := range [][]byte{arp, request, to(unicast, arp), na("ff02::1", 0x20),
		to(unicast, na("fd05::2:2", 0x60)), ns} {
		w.injected(b)
	}
	w.injected(to(w.bridge("node2"), frame(17, "10.5.1.2", "10.5.2.2", make([]byte, 8))))
	await.Value(t, "frames to an endpoint by its node's bridge", "1", got)
	for _, addr := range []string{"10.5.1.2", "fd05::1:2"} {
		if got, want := w.knows("b", addr), w.bridge("node1"); got != want {
			t.Errorf("%s is at %s, want %s", addr, got, want)
		}
	}

	elsewhere := w.frames("node3")
	for _, addr := range []string{"192.0.2.3", "10.5.3.2", "10.5.0.1", "10.5.2.9"} {
		w.injected(to(w.bridge("node2"), frame(17, "10.5.1.2", addr, make([]byte, 8))))
	}
	for _, addr := range []string{"fd05::3:2", "fd05::1", "2001:db8::3"} {
		w.injected(to(w.bridge("node2"), frame(17, "fd05::1:2", addr, make([]byte, 8))))
	}
	w.injected(to(w.bridge("node2"), frame(17, "fd05::1:2", "fd05::2:2", make([]byte, 8))))
	await.Value(t, "frames to an endpoint by its node's bridge", "2", got)
	if n := elsewhere(); n != "0" {
		t.Errorf("%s frames went on to another node", n)
	}
	w.pings("c", "10.5.2.2", true)
}

// Nodes with and without the fast path are of one network.
func TestNodesWithAndWithoutTheFastPath(t *testing.T) {
	w := fastWorld(t, 3, true)
	w.box("c", w.nodes[2], "10.5.3.2/16", "fd05::3:2/64")
	w.nodes[2].host.Fast = false
	w.render()
	all := map[string][]string{"a": {"10.5.1.2", "fd05::1:2"}, "b": {"10.5.2.2", "fd05::2:2"},
		"c": {"10.5.3.2", "fd05::3:2"}}
	for from := range all {
		for _, addrs := range all {
			for _, to := range addrs {
				w.pings(from, to, true)
				w.pings(from, to, true, "-t1")
			}
		}
	}
	if got := w.knows("a", "10.5.3.2"); got != "02:42:00:00:00:03" {
		t.Errorf("an endpoint of a node without the fast path is at %s", got)
	}
	if got := w.knows("c", "10.5.1.2"); got != "02:42:00:00:00:01" {
		t.Errorf("to a node without the fast path an endpoint is at %s", got)
	}
}

// echo has a box say again what it is told, and returns a connection to it.
func (w *world) echo(from, to, at string) net.Conn {
	w.tb.Helper()
	var l net.Listener
	var c net.Conn
	err := w.env.Do(w.path(to), func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(at, "0"))
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 1<<16)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			if _, err := c.Write(b[:n]); err != nil {
				return
			}
		}
	}()
	err = w.env.Do(w.path(from), func() (err error) {
		c, err = net.DialTimeout("tcp", l.Addr().String(), await.Patience)
		return err
	})
	w.tb.Cleanup(func() {
		if c != nil {
			c.Close()
		}
		l.Close()
		<-done
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	return c
}

func (w *world) talks(when string, c net.Conn) {
	w.tb.Helper()
	c.SetDeadline(time.Now().Add(await.Patience))
	b := make([]byte, 3000)
	for i := 0; i < 3; i++ {
		if _, err := c.Write(b); err != nil {
			w.tb.Fatalf("%s: %v", when, err)
		}
		for n := 0; n < len(b); {
			m, err := c.Read(b[n:])
			if err != nil {
				w.tb.Fatalf("%s: %v", when, err)
			}
			n += m
		}
	}
}

// A connection outlives that its network, or one of its nodes, goes by address or no more. Who knows a MAC address from
// before keeps it.
func TestGoingByAddressAndBack(t *testing.T) {
	w := fastWorld(t, 3, true)
	w.box("c", w.nodes[2], "10.5.3.2/16", "fd05::3:2/64")
	w.render()
	var all []net.Conn
	for _, at := range []string{"10.5.2.2", "fd05::2:2"} {
		all = append(all, w.echo("a", "b", at))
	}
	each := func(when string) {
		t.Helper()
		for _, c := range all {
			w.talks(when, c)
		}
	}
	each("by address")
	step := func(when string, f func()) {
		t.Helper()
		f()
		w.render()
		each(when)
		for _, box := range []string{"a", "b"} { // they ask again
			w.must(box, "ip", "neigh", "flush", "dev", "eth0")
		}
		for _, at := range []string{"10.5.2.2", "fd05::2:2"} {
			all = append(all, w.echo("a", "b", at)) // which knows the way of this time
		}
		each(when + ", with more of them")
	}
	step("with one node off", func() { w.nodes[0].host.Fast = false })
	step("with both off", func() { w.nodes[1].host.Fast = false })
	if got := w.knows("a", "10.5.2.2"); got != "02:42:00:00:00:02" {
		t.Errorf("without the fast path an endpoint is at %s", got)
	}
	step("with the other on", func() { w.nodes[0].host.Fast = true })
	others := w.count("node3", "eth0", 4789)
	before := others()
	w.must("a", "ip", "neigh", "replace", "10.5.2.2", "lladdr", "02:42:00:00:00:02", "dev", "eth0")
	w.must("a", "ip", "neigh", "replace", "fd05::2:2", "lladdr", "02:42:00:00:00:02", "dev", "eth0")
	step("with both on", func() { w.nodes[1].host.Fast = true })
	if n := others(); n != before {
		t.Errorf("%d frames of connections went to another node", n-before)
	}
	step("with the network off", func() { w.network.Options = map[string]string{"fastpath": "off"} })
	step("with the network on", func() { w.network.Options = nil })
	step("without multicast", func() { w.network.Options = map[string]string{"multicast": "false"} })
}
