package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// node is one kernel and what it is to be like.
type node struct {
	w      *world
	name   string
	kernel *kern.Kernel
	host   cnm.Host
	base   plan.State // what the node has without networks
	want   plan.State
	peers  map[string]plan.State
}

// world is an underlay with nodes on it.
type world struct {
	tb       testing.TB
	env      *kerntest.Env
	underlay *node
	nodes    []*node
	network  cnm.Network
	homes    map[string]*node
	// what boxes are, for another render
	endpoints map[string]cnm.Endpoint
	known     map[string]cnm.Peer
}

// newWorld makes nodes on one link, with addresses of the families given, 192.0.2.1
// and 2001:db8::1 the first.
func newWorld(tb testing.TB, nodes int, v4, v6, bridgeNetfilter bool) *world {
	tb.Helper()
	w := &world{tb: tb, env: kerntest.New(tb), homes: map[string]*node{},
		endpoints: map[string]cnm.Endpoint{}, known: map[string]cnm.Peer{}}
	w.underlay = w.open("", "underlay")
	for i := 1; i <= nodes; i++ {
		w.underlay.want.Namespaces = append(w.underlay.want.Namespaces,
			plan.Namespace{Name: plan.NetNS(fmt.Sprintf("node%d", i))})
	}
	w.underlay.converge()
	// By hand, as the nodes would remove links that have the fabric's mark and are not in their plans.
	w.env.Run("ip", "link", "add", "wire", "up", "type", "bridge")
	tb.Cleanup(func() { w.env.Run("ip", "link", "del", "wire") })
	for i := 1; i <= nodes; i++ {
		port, ns := fmt.Sprintf("port%d", i), w.underlay.kernel.NetNSPath(plan.NetNS(fmt.Sprintf("node%d", i)))
		w.env.Run("ip", "link", "add", port, "up", "master", "wire", "type", "veth", "peer", "name", "eth0")
		w.env.Run("ip", "link", "set", "eth0", "netns", ns)
		tb.Cleanup(func() { w.env.Run("ip", "link", "del", port) })
		w.enter(ns, "ip", "link", "set", "eth0", "up")
		for _, a := range addresses(i, v4, v6) {
			args := []string{"ip", "addr", "add", a.String(), "dev", "eth0"}
			if a.Addr().Is6() {
				args = append(args, "nodad")
			}
			w.enter(ns, args...)
		}
	}
	for i := 1; i <= nodes; i++ {
		n := w.open(w.underlay.kernel.NetNSPath(plan.NetNS(fmt.Sprintf("node%d", i))), fmt.Sprintf("node%d", i))
		n.host = cnm.Host{MTU: 1500, Fast: kerntest.FastPath() == "auto", Node: n.name,
			Uplink: cnm.Uplink{Link: "eth0", MTU: 1500}}
		for _, a := range addresses(i, v4, v6) {
			if a.Addr().Is4() {
				n.host.Uplink.Addr4 = a.Addr()
			} else {
				n.host.Uplink.Addr6 = a.Addr()
			}
		}
		n.want = firewall.Base(firewall.Config{BridgeNetfilterOff: !bridgeNetfilter})
		if bridgeNetfilter {
			n.want.Sysctls = append(n.want.Sysctls, plan.Sysctl{Path: "bridge/bridge-nf-call-iptables", Value: "1"},
				plan.Sysctl{Path: "bridge/bridge-nf-call-ip6tables", Value: "1"})
		}
		n.base = n.want
		w.nodes = append(w.nodes, n)
	}
	return w
}

func addresses(i int, v4, v6 bool) []netip.Prefix {
	var out []netip.Prefix
	if v4 {
		out = append(out, netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i)))
	}
	if v6 {
		out = append(out, netip.MustParsePrefix(fmt.Sprintf("2001:db8::%d/64", i)))
	}
	return out
}

// open opens the kernel of the namespace at path, and empties it when the test ends.
func (w *world) open(path, name string) *node {
	w.tb.Helper()
	n := &node{w: w, name: name, peers: map[string]plan.State{}}
	err := w.env.Do(path, func() (err error) {
		n.kernel, err = kern.Open(kern.Config{RunDir: filepath.Join(w.env.RunDir, name)})
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	w.tb.Cleanup(func() {
		n.peers = nil
		// Links first: those that go with their namespace go in the kernel's own time.
		n.want = plan.State{Namespaces: n.want.Namespaces}
		n.converge()
		n.want = plan.State{}
		n.converge()
		if err := n.kernel.Close(); err != nil {
			w.tb.Error(err)
		}
	})
	return n
}

// converge makes the kernel agree and checks that it then does.
func (n *node) converge() {
	n.w.tb.Helper()
	want := n.want
	for _, p := range n.peers {
		want = want.Merge(p)
	}
	diff := func() []plan.Op {
		have, err := n.kernel.Observe(context.Background(), want.Sysctls)
		if err != nil {
			n.w.tb.Fatal(err)
		}
		return plan.Diff(want, have)
	}
	if err := n.kernel.Apply(context.Background(), diff()); err != nil {
		n.w.tb.Fatalf("%s: %v", n.name, err)
	}
	for _, op := range diff() {
		n.w.tb.Errorf("%s: still to do after a pass: %s", n.name, op)
	}
}

func (w *world) converge() {
	w.tb.Helper()
	for _, n := range w.nodes {
		n.converge()
	}
}

// join makes the network on every node.
func (w *world) join(change func(*cnm.Network)) {
	w.tb.Helper()
	pool := func(subnet, gw string) cnm.Pool {
		return cnm.Pool{Subnet: netip.MustParsePrefix(subnet), Range: netip.MustParsePrefix(subnet),
			Gateway: netip.MustParseAddr(gw)}
	}
	w.network = cnm.Network{
		ID: fmt.Sprintf("%016x%048x", 0x5ca1ab1e, 0), Name: "web", Driver: "overlay", Scope: cnm.Cluster, IPv4: true,
		IPv6: true, Phase: cnm.Active,
		Cluster: &cnm.ClusterNetwork{VNI: 4097, Port: 4789},
		Pools: []cnm.Pool{pool("10.5.0.0/16", "10.5.0.1"), pool("fd05::/64", "fd05::1"),
			pool("10.6.0.0/24", "10.6.0.1")},
	}
	if change != nil {
		change(&w.network)
	}
	if err := (overlay.Driver{}).CheckNetwork(w.network); err != nil {
		w.tb.Fatal(err)
	}
	for _, n := range w.nodes {
		s, err := overlay.Driver{}.RenderNetwork(w.network, n.host)
		if err != nil {
			w.tb.Fatal(err)
		}
		n.want = n.want.Merge(s)
	}
}

// box adds a container to a node, and makes it known to the others.
func (w *world) box(name string, home *node, addrs ...string) {
	w.tb.Helper()
	i := len(w.homes) + 1
	w.homes[name] = home
	e := cnm.Endpoint{
		ID: fmt.Sprintf("%08x%056x", i, 0), Network: w.network.ID, NetNS: plan.NetNS(name), Phase: cnm.Active,
		MAC: plan.MAC{2, 0x42, 0, 0, 0, byte(i)},
	}
	p := cnm.Peer{
		ID: cnm.PeerID(w.network.ID, e.ID), Network: w.network.ID, Node: home.name, Endpoint: true, MAC: e.MAC,
		Addr4: home.host.Uplink.Addr4, Addr6: home.host.Uplink.Addr6,
	}
	for _, a := range addrs {
		e.Addrs = append(e.Addrs, netip.MustParsePrefix(a))
		addr := e.Addrs[len(e.Addrs)-1].Addr()
		p.Prefixes = append(p.Prefixes, netip.PrefixFrom(addr, addr.BitLen()))
	}
	s, err := overlay.Driver{}.RenderEndpoint(w.network, e, home.host)
	if err != nil {
		w.tb.Fatal(err)
	}
	home.want = home.want.Merge(plan.State{Namespaces: []plan.Namespace{{Name: e.NetNS}}}).Merge(s)
	for _, n := range w.nodes {
		if n == home {
			continue
		}
		if n.peers[name], err = (overlay.Driver{}).RenderPeer(w.network, p, n.host); err != nil {
			w.tb.Fatal(err)
		}
	}
	w.endpoints[name], w.known[name] = e, p
	w.copies()
}

// copies renders which nodes each node sends what is for many to.
func (w *world) copies() {
	w.tb.Helper()
	on := map[*node]bool{}
	for _, home := range w.homes {
		on[home] = true
	}
	for _, n := range w.nodes {
		for _, other := range w.nodes {
			delete(n.peers, "at "+other.name)
			if other == n || !on[other] {
				continue
			}
			for _, a := range []netip.Addr{other.host.Uplink.Addr4, other.host.Uplink.Addr6} {
				s, err := overlay.Driver{}.RenderNode(w.network, a, n.host)
				if err != nil {
					w.tb.Fatal(err)
				}
				n.peers["at "+other.name] = n.peers["at "+other.name].Merge(s)
			}
		}
	}
}

// forget has the other nodes know a box no more.
func (w *world) forget(name string) {
	delete(w.homes, name)
	for _, n := range w.nodes {
		delete(n.peers, name)
	}
	w.copies()
}

// path is where the namespace of a box or a node is.
func (w *world) path(box string) string {
	if n := w.homes[box]; n != nil {
		return n.kernel.NetNSPath(plan.NetNS(box))
	}
	for _, n := range w.nodes {
		if n.name == box {
			return n.kernel.NetNSPath("")
		}
	}
	return ""
}

// try runs a command in a box, on a node, or on the underlay.
func (w *world) try(box string, args ...string) (string, bool) {
	out, err := w.run(w.path(box), args...)
	return out, err == nil
}

func (w *world) run(path string, args ...string) (string, error) {
	var out []byte
	err := w.env.Do(path, func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	return string(out), err
}

// enter runs a command in the namespace at path.
func (w *world) enter(path string, args ...string) {
	w.tb.Helper()
	if out, err := w.run(path, args...); err != nil {
		w.tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (w *world) must(box string, args ...string) string {
	w.tb.Helper()
	out, ok := w.try(box, args...)
	if !ok {
		w.tb.Fatalf("%s in %q failed: %s", strings.Join(args, " "), box, out)
	}
	return out
}

func (w *world) pings(from, to string, want bool, more ...string) {
	w.tb.Helper()
	wait := "5"
	if !want {
		wait = "0.3"
	}
	args := append([]string{"ping", "-n", "-c1", "-W" + wait}, more...)
	if out, ok := w.try(from, append(args, to)...); ok != want {
		w.tb.Errorf("ping from %q to %s: got %v, want %v\n%s", from, to, ok, want, out)
	}
}

// inner is what nft(8) calls the bytes of a frame inside a tunnel: after those of UDP and VXLAN.
func inner(offset int) string { return fmt.Sprintf("@th,%d", 8*(8+8+offset)) }

// reports are frames in a tunnel with hop-by-hop options. A VXLAN device with IPv6 on, a router as its host is, says
// once and at a time of its own that it is in the group of all routers.
var reports = fmt.Sprintf("udp dport 4789 %s,16 0x86dd %s,8 0", inner(12), inner(14+6))

// countUnderlay counts what the first node sends over the underlay on VXLAN's port: everything, ARP
// and neighbour solicitations.
func (w *world) countUnderlay() {
	w.tb.Helper()
	w.must("", "nft", fmt.Sprintf(`table netdev watch {
		counter sent {}
		counter inner_arp {}
		counter solicitations {}
		chain in { type filter hook ingress device port1 priority 0;
			%s accept
			udp dport 4789 counter name sent
			udp dport 4789 %s,16 0x0806 counter name inner_arp
			udp dport 4789 %s,16 0x86dd %s,8 58 %s,8 135 counter name solicitations
		}
	}`, reports, inner(12), inner(12), inner(14+6), inner(14+40)))
	w.tb.Cleanup(func() { w.must("", "nft", "delete", "table", "netdev", "watch") })
	arp, solicitation := make([]byte, 8+14+64), make([]byte, 8+14+64) // of a network that nobody has
	arp[8+12], arp[8+13] = 0x08, 0x06
	solicitation[8+12], solicitation[8+13], solicitation[8+14+6], solicitation[8+14+40] = 0x86, 0xdd, 58, 135
	w.tunnelled(arp)
	w.tunnelled(solicitation)
	for name, want := range map[string]string{"sent": "2", "inner_arp": "1", "solicitations": "1"} {
		await.Value(w.tb, "counter "+name, want, func() string { return w.counted(name) })
	}
	w.must("", "nft", "reset", "counters", "table", "netdev", "watch")
}

// tunnelled sends a datagram to the second node's end of the tunnels.
func (w *world) tunnelled(b []byte) {
	w.tb.Helper()
	to := w.nodes[1].host.Uplink.Addr4
	if !to.IsValid() {
		to = w.nodes[1].host.Uplink.Addr6
	}
	err := w.env.Do(w.path("node1"), func() error {
		c, err := net.Dial("udp", netip.AddrPortFrom(to, 4789).String())
		if err != nil {
			return err
		}
		_, err = c.Write(b)
		return errors.Join(err, c.Close())
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}

func (w *world) counted(name string) string {
	w.tb.Helper()
	_, after, ok := strings.Cut(w.must("", "nft", "list", "counter", "netdev", "watch", name), "packets ")
	packets, _, _ := strings.Cut(after, " ")
	if !ok {
		w.tb.Fatalf("no counter %s", name)
	}
	return packets
}

func (w *world) countedNone(what, name string) {
	w.tb.Helper()
	if n := w.counted(name); n != "0" {
		w.tb.Errorf("%s: %s of %s went over the underlay", what, n, name)
	}
}
