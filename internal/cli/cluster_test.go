package cli_test

import (
	"context"
	"net/netip"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
)

// clustered ready|cut gives netd a cluster of four nodes; cut, one without its store.
func clustered(ts *testscript.TestScript, _ bool, args []string) {
	d := ts.Value(netdKey{}).(*netd).domain
	addr, prefixes := netip.MustParseAddr, func(s ...string) []netip.Prefix {
		var out []netip.Prefix
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	checked := fake.Epoch.Add(4*time.Minute + 50*time.Second)
	well := func(way, target string, mtu int) server.PeerHealth {
		return server.PeerHealth{Way: way, Target: addr(target), Reachable: true, RTT: 420 * time.Microsecond, MTU: mtu, PathMTU: mtu, Small: true, Large: true, Checked: checked}
	}
	narrow := well("vxlan web", "10.5.2.0", 1450)
	narrow.PathMTU, narrow.Large = 1400, false
	narrow.Cause, narrow.Remedy = "packets above 1400 bytes vanish on the way", "net network create -o mtu=1400"
	deaf := server.PeerHealth{Way: "vxlan web", Target: addr("10.5.3.0"), MTU: 1450, Loss: 1, Checked: checked,
		Cause: "UDP port 8472 is blocked between 192.0.2.1 and 192.0.2.3", Remedy: "open it on both"}
	filtered := server.PeerHealth{Way: "underlay", Target: addr("192.0.2.4"), Reachable: true, MTU: 1500, Checked: checked, Cause: "n4 answers no ping"}
	nodes := []server.NodeView{
		{ID: "b1f7d2a0-0000-4000-8000-000000000003", Name: "n3", Addresses: []netip.Addr{addr("192.0.2.3")}, Version: "1.0", LastSeen: fake.Epoch.Add(-3 * time.Hour),
			Subnets: []server.NodeSubnet{{Network: "web", Prefixes: prefixes("10.5.3.0/24")}}, Health: []server.PeerHealth{well("underlay", "192.0.2.3", 1500), deaf}},
		{ID: "7a3c55e0-0000-4000-8000-000000000001", Name: "n1", Addresses: []netip.Addr{addr("192.0.2.1"), addr("2001:db8::1")}, Version: "1.0", Self: true, Alive: true,
			LastSeen: checked, Drivers: []string{"overlay", "vxlan"}, Endpoints: 2, Subnets: []server.NodeSubnet{{Network: "web", Prefixes: prefixes("10.5.1.0/24", "fd00:5:1::/64")}},
			Blocks: []server.NodeSubnet{{Network: "app", Prefixes: prefixes("10.9.0.0/26")}}},
		{ID: "9d0e4411-0000-4000-8000-000000000002", Name: "n2", Addresses: []netip.Addr{addr("192.0.2.2")}, Version: "1.0", Alive: true, LastSeen: checked,
			Subnets: []server.NodeSubnet{{Network: "web", Prefixes: prefixes("10.5.2.0/24")}}, Health: []server.PeerHealth{well("underlay", "192.0.2.2", 1500), narrow}},
		{ID: "c4c4c4c4-0000-4000-8000-000000000004", Name: "n4", Addresses: []netip.Addr{addr("192.0.2.4")}, Version: "0.9", Alive: true, LastSeen: checked,
			Health: []server.PeerHealth{filtered, well("udp lab", "10.6.4.1", 1472)}},
	}
	d.SetNodes(nodes...)
	in := func(d time.Duration) time.Time { return fake.Epoch.Add(5*time.Minute + d) }
	d.SetLeases(
		server.LeaseView{Network: "web", Driver: "vxlan", Prefixes: prefixes("10.5.1.0/24", "fd00:5:1::/64"), NodeID: nodes[1].ID, Node: "n1", PublicIPs: nodes[1].Addresses, Backend: "vxlan", Expires: in(55 * time.Minute), Own: true},
		server.LeaseView{Network: "web", Driver: "vxlan", Prefixes: prefixes("10.5.2.0/24"), NodeID: nodes[2].ID, Node: "n2", PublicIPs: nodes[2].Addresses, Backend: "vxlan", Expires: in(90 * time.Second)},
		server.LeaseView{Network: "web", Driver: "vxlan", Prefixes: prefixes("10.5.7.0/24"), PublicIPs: []netip.Addr{addr("192.0.2.77")}, Backend: "vxlan"},
		server.LeaseView{Network: "lab", Driver: "host-gw", Prefixes: prefixes("10.6.3.0/24"), NodeID: nodes[0].ID, PublicIPs: nodes[0].Addresses, Backend: "udp", Expires: in(-2 * time.Minute), Problem: "its backend is udp, the network's host-gw"},
	)
	st, err := d.Status(context.Background())
	ts.Check(err)
	st.Cluster = &server.ClusterStatus{
		Store: "https://192.0.2.10:2379", Connected: true, Since: fake.Epoch, NodeID: nodes[1].ID, NodeName: "n1", NodeIPs: nodes[1].Addresses,
		Nodes: 4, Alive: 3, Expires: in(40 * time.Minute),
	}
	if args[0] == "cut" {
		st.Cluster.Connected, st.Cluster.Error = false, "connection refused"
		st.Cluster.Problems = []string{"node n9 has this node's address 192.0.2.1"}
	}
	d.SetStatus(st)
}
