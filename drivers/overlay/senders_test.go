package overlay_test

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/firewall"
)

// refused is how many packets the firewall of node1 has kept from its tunnels.
func (w *world) refused() string {
	w.tb.Helper()
	out := w.must("node1", "nft", "list", "chain", "inet", "vethloom", "tunnel")
	last := strings.LastIndex(out, "counter packets ") // that of the rule for everybody else
	if last < 0 {
		w.tb.Fatalf("no counter in %s", out)
	}
	return strings.Fields(out[last:])[2]
}

// outer sends node1 a datagram as a tunnel would, from an address of a node.
func (w *world) outer(from string, source, to netip.Addr) {
	w.tb.Helper()
	err := w.env.Do(w.path(from), func() error {
		c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(source, 0)),
			net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 4789)))
		if err != nil {
			return err
		}
		_, err = c.Write(make([]byte, 8+14+64))
		return errors.Join(err, c.Close())
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}

// Only nodes that a tunnel leads to send to its port, and only by the link that the way to them leads out by.
func TestOnlyKnownNodesSend(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		w := newWorld(t, 3, v4, !v4, false)
		w.join(nil)
		w.box("a", w.nodes[0], "10.5.1.2/16")
		w.box("b", w.nodes[1], "10.5.2.2/16")
		clear(w.nodes[2].peers) // else its device tells the others which groups it is in, at a time of its own
		of := func(node int) netip.Addr { return addresses(node, v4, !v4)[0].Addr() }
		one, two, three := of(1), of(2), of(3)
		for i, known := range []netip.Addr{two, one} {
			e := firewall.Elements{Owner: "fabric"}
			e.TunnelPort(4789)
			e.TunnelPeer(known)
			n := w.nodes[i]
			n.want.Rules.Elements = append(n.want.Rules.Elements, e.List...)
		}
		w.converge()
		w.pings("a", "10.5.2.2", true)
		await.Value(t, "packets of node2 refused", "0", w.refused)
		w.outer("node3", three, one)
		await.Value(t, "packets refused after one of a node that is not known", "1", w.refused)

		// The third node has the second one's address too, and another link to the first.
		ns := w.underlay.kernel.NetNSPath("node3")
		w.enter(w.path("node1"), "ip", "link", "add", "side", "type", "veth", "peer", "name", "side", "netns", ns)
		side := map[bool][2]string{true: {"198.51.100.1/24", "198.51.100.3/24"},
			false: {"2001:db8:1::1/64", "2001:db8:1::3/64"}}[v4]
		for i, path := range []string{w.path("node1"), ns} {
			w.enter(path, "ip", "addr", "add", side[i], "dev", "side", "nodad")
			w.enter(path, "ip", "link", "set", "side", "up")
		}
		w.enter(ns, "ip", "addr", "add", netip.PrefixFrom(two, two.BitLen()).String(), "dev", "lo", "nodad")
		w.outer("node3", two, netip.MustParsePrefix(side[0]).Addr())
		await.Value(t, "packets refused after one by another link", "2", w.refused)
	}
}
