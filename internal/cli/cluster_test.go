package cli_test

import (
	"context"
	"net/netip"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/health"
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
	way := func(name, target string, mtu int) health.Verdict {
		return health.Verdict{Result: health.Result{
			Target: health.Target{Path: name, Addr: addr(target), MTU: mtu}, Checked: checked}}
	}
	well := func(name, target string, mtu int) health.Verdict {
		v := way(name, target, mtu)
		v.Reachable, v.RTT, v.PathMTU, v.Small, v.Large = true, 420*time.Microsecond, mtu, true, true
		return v
	}
	narrow := well("vxlan web", "10.5.2.0", 1450)
	narrow.PathMTU, narrow.Large = 1400, false
	narrow.Cause, narrow.Remedy = "packets above 1400 bytes are lost on the path", "net network create -o mtu=1400"
	deaf := way("vxlan web", "10.5.3.0", 1450)
	deaf.Loss, deaf.Cause = 1, "UDP port 8472 is blocked between 192.0.2.1 and 192.0.2.3"
	deaf.Remedy = "open it on both"
	filtered := way("underlay", "192.0.2.4", 1500)
	filtered.Reachable, filtered.Cause = true, "n4 answers no ping"
	of := func(network string, s ...string) map[string][]netip.Prefix {
		return map[string][]netip.Prefix{network: prefixes(s...)}
	}
	nodes := []cluster.NodeView{
		{Node: record.Node{ID: "b1f7d2a0-0000-4000-8000-000000000003", Name: "n3", Addr4: addr("192.0.2.3"),
			Version: "1.0"}, LastSeen: fake.Epoch.Add(-3 * time.Hour), Subnets: of("web", "10.5.3.0/24")},
		{Node: record.Node{ID: "7a3c55e0-0000-4000-8000-000000000001", Name: "n1", Addr4: addr("192.0.2.1"),
			Addr6: addr("2001:db8::1"), Version: "1.0", Drivers: []string{"overlay", "vxlan"}},
			Self: true, Alive: true, LastSeen: checked, Endpoints: 2,
			Subnets: of("web", "10.5.1.0/24", "fd00:5:1::/64"), Blocks: of("app", "10.9.0.0/26")},
		{Node: record.Node{ID: "9d0e4411-0000-4000-8000-000000000002", Name: "n2", Addr4: addr("192.0.2.2"),
			Version: "1.0"}, Alive: true, LastSeen: checked, Subnets: of("web", "10.5.2.0/24")},
		{Node: record.Node{ID: "c4c4c4c4-0000-4000-8000-000000000004", Name: "n4", Addr4: addr("192.0.2.4"),
			Version: "0.9"}, Alive: true, LastSeen: checked},
	}
	d.SetNodes(
		server.NodeView{NodeView: nodes[0], Health: []health.Verdict{well("underlay", "192.0.2.3", 1500), deaf}},
		server.NodeView{NodeView: nodes[1]},
		server.NodeView{NodeView: nodes[2], Health: []health.Verdict{well("underlay", "192.0.2.2", 1500), narrow}},
		server.NodeView{NodeView: nodes[3], Health: []health.Verdict{filtered, well("udp lab", "10.6.4.1", 1472)}})
	in := func(d time.Duration) time.Time { return fake.Epoch.Add(5*time.Minute + d) }
	// lease is one that a node, or with nil somebody else, holds.
	lease := func(network, driver, backend, prefix string, n *cluster.NodeView) cluster.LeaseView {
		l := cluster.LeaseView{Network: cnm.Network{Name: network, Driver: driver}}
		l.Subnet, l.BackendType = netip.MustParsePrefix(prefix), backend
		if n != nil {
			l.NodeID, l.Node, l.PublicIP, l.PublicIPv6 = n.ID, n.Name, n.Addr4, n.Addr6
		}
		return l
	}
	own := lease("web", "vxlan", "vxlan", "10.5.1.0/24", &nodes[1])
	own.Subnet6, own.Expires, own.Own = netip.MustParsePrefix("fd00:5:1::/64"), in(55*time.Minute), true
	other := lease("web", "vxlan", "vxlan", "10.5.2.0/24", &nodes[2])
	other.Expires = in(90 * time.Second)
	foreign := lease("web", "vxlan", "vxlan", "10.5.7.0/24", nil)
	foreign.PublicIP = addr("192.0.2.77")
	wrong := lease("lab", "host-gw", "udp", "10.6.3.0/24", &nodes[0])
	wrong.Node, wrong.Expires, wrong.Problem = "", in(-2*time.Minute), "its backend is udp, the network's host-gw"
	d.SetLeases(own, other, foreign, wrong)
	st, err := d.Status(context.Background())
	ts.Check(err)
	st.Cluster = &server.ClusterStatus{
		Store: "https://192.0.2.10:2379", Connected: true, Since: fake.Epoch, NodeID: nodes[1].ID, NodeName: "n1",
		NodeIPs: []netip.Addr{nodes[1].Addr4, nodes[1].Addr6},
		Nodes:   4, Alive: 3, Expires: in(40 * time.Minute),
	}
	if args[0] == "cut" {
		st.Cluster.Connected, st.Cluster.Error = false, "connection refused"
		st.Cluster.Problems = []string{"node n9 has this node's address 192.0.2.1"}
	}
	d.SetStatus(st)
}
