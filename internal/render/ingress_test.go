package render_test

import (
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// What all nodes publish is held and led on by an owner of its own, in the families that the peer and both nodes have,
// and by nodes alone that take part in the network.
func TestIngress(t *testing.T) {
	w := real(t)
	n := cnm.Network{ID: id("a"), Name: "web", Driver: "host-gw", Scope: cnm.Cluster, IPv4: true, Phase: cnm.Active,
		Pools:   []cnm.Pool{pool("10.5.1.0/24", "10.5.1.1")},
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16")}, Leases: "/x"}}
	p := cnm.Peer{ID: cnm.PeerID(n.ID, "e1"), Network: n.ID, Node: "n2", Endpoint: true, MAC: plan.MAC{2, 9},
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.5.2.7/32")}, Addr4: netip.MustParseAddr("192.0.2.2"),
		Addr6:   netip.MustParseAddr("2001:db8::2"),
		Ingress: []cnm.Ingress{{Proto: plan.TCP, Port: 8080, Count: 2}}}
	w.put(t, cnm.KindNetwork, n.ID, n)
	w.put(t, cnm.KindPeer, p.ID, p)
	const led = `inet element ingress4 { tcp . 8080 comment "ingress/aaaaaaaaaaaa/e1" : 192.0.2.2 . 8080 }
inet element onward4 { 192.0.2.2 . tcp . 8080 comment "ingress/aaaaaaaaaaaa/e1" }
inet element ingress4 { tcp . 8081 comment "ingress/aaaaaaaaaaaa/e1" : 192.0.2.2 . 8081 }
inet element onward4 { 192.0.2.2 . tcp . 8081 comment "ingress/aaaaaaaaaaaa/e1" }
port 0.0.0.0:8080-8081 tcp
port [::]:8080-8081 tcp`
	if got := w.text(t, cnm.IngressOwner(p.ID)); got != led {
		t.Errorf("the peer's ports are %q, want %q", got, led)
	}
	if got := w.text(t, cnm.IngressOwner(cnm.PeerID(n.ID, "e2"))); got != "" {
		t.Errorf("ports of no peer: %q", got)
	}
	n.Cluster.Left = true
	w.put(t, cnm.KindNetwork, n.ID, n)
	if got := w.text(t, cnm.IngressOwner(p.ID)); got != "" {
		t.Errorf("ports of a network that was left: %q", got)
	}
}
