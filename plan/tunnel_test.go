package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vethloom/vethloom/plan"
)

// spanning is a network across hosts of each kind: a VXLAN device that is a port of a bridge,
// one that is routed to, and a tunnel through a process.
func spanning() plan.State {
	return plan.State{
		Links: []plan.Link{
			{Name: "vlx-1", Owner: "network/1", Kind: plan.VXLAN, MTU: 1450, Up: true, Master: "vlb-1",
				Port: plan.BridgePort{Hairpin: false}, VXLAN: plan.VXLANDevice{VNI: 4097, Port: 4789,
					Local: ip("192.0.2.1"), Proxy: true}},
			{Name: "vlb-1", Owner: "network/1", Kind: plan.Bridge, MTU: 1450, Up: true},
			{Name: "vlf-2", Owner: "network/2", Kind: plan.VXLAN, MAC: plan.MAC{2, 1}, MTU: 1450, Up: true,
				VXLAN: plan.VXLANDevice{VNI: 1, Port: 8472, Local: ip("192.0.2.1")}},
			{Name: "vlt-3", Owner: "network/3", Kind: plan.TUN, MTU: 1472, Up: true},
		},
		Addrs: []plan.Addr{{Link: "vlt-3", Prefix: pfx("10.3.1.0/32")}, {Link: "vlf-2", Prefix: pfx("10.2.1.0/32")}},
		FDB: []plan.FDBEntry{
			{Link: "vlx-1", Dst: ip("192.0.2.2")},
			{Link: "vlx-1", MAC: plan.MAC{2, 7}, Dst: ip("192.0.2.2")},
			{Link: "vlf-2", MAC: plan.MAC{2, 2}, Dst: ip("192.0.2.2")},
		},
		Neighs: []plan.Neigh{{Link: "vlf-2", IP: ip("10.2.2.0"), MAC: plan.MAC{2, 2}}},
		Routes: []plan.Route{
			{Dst: pfx("10.2.2.0/24"), Via: ip("10.2.2.0"), Link: "vlf-2", OnLink: true},
			{Dst: pfx("10.3.0.0/16"), Link: "vlt-3"},
		},
		Tunnels: []plan.Tunnel{{Link: "vlt-3", Local: ip("192.0.2.1"), Port: 8285,
			Inside: pfxs("10.3.1.0/24", "10.3.0.0/24")}},
		TunnelPeers: []plan.TunnelPeer{
			{Link: "vlt-3", Prefix: pfx("10.3.2.0/24"), Dst: ip("192.0.2.2")},
			{Link: "vlt-3", Prefix: pfx("10.3.3.0/24"), Dst: ip("192.0.2.3")},
		},
	}
}

func TestDiffAcrossHosts(t *testing.T) {
	create := lines(`
		create link vlb-1 bridge mtu 1450 up alias vethloom:network/1
		create link vlf-2 vxlan id 1 local 192.0.2.1 dstport 8472 address 02:01:00:00:00:00 \
			mtu 1450 up alias vethloom:network/2
		create link vlt-3 tun mtu 1472 up alias vethloom:network/3
		create link vlx-1 vxlan id 4097 local 192.0.2.1 dstport 4789 proxy \
			mtu 1450 master vlb-1 up alias vethloom:network/1
		create addr 10.2.1.0/32 dev vlf-2
		create addr 10.3.1.0/32 dev vlt-3
		create fdb 02:02:00:00:00:00 dev vlf-2 dst 192.0.2.2
		create fdb 00:00:00:00:00:00 dev vlx-1 dst 192.0.2.2
		create fdb 02:07:00:00:00:00 dev vlx-1 dst 192.0.2.2
		create neigh 10.2.2.0 lladdr 02:02:00:00:00:00 dev vlf-2 nud permanent
		create tunnel dev vlt-3 local 192.0.2.1 port 8285 inside 10.3.0.0/24 inside 10.3.1.0/24
		create remote 10.3.2.0/24 dev vlt-3 dst 192.0.2.2
		create remote 10.3.3.0/24 dev vlt-3 dst 192.0.2.3
		create route 10.2.2.0/24 via 10.2.2.0 dev vlf-2 onlink
		create route 10.3.0.0/16 dev vlt-3
	`)
	if d := cmp.Diff(create, text(plan.Diff(spanning(), plan.State{}))); d != "" {
		t.Errorf("from nothing (-want +got):\n%s", d)
	}
	if ops := plan.Diff(spanning(), spanning()); len(ops) > 0 {
		t.Errorf("from itself:\n%s", text(ops))
	}
	// The tunnel and everything on the links goes with them.
	remove := lines(`
		delete link vlf-2 vxlan id 1 local 192.0.2.1 dstport 8472 address 02:01:00:00:00:00 \
			mtu 1450 up alias vethloom:network/2
		delete link vlt-3 tun mtu 1472 up alias vethloom:network/3
		delete link vlx-1 vxlan id 4097 local 192.0.2.1 dstport 4789 proxy \
			mtu 1450 master vlb-1 up alias vethloom:network/1
		delete link vlb-1 bridge mtu 1450 up alias vethloom:network/1
	`)
	if d := cmp.Diff(remove, text(plan.Diff(plan.State{}, spanning()))); d != "" {
		t.Errorf("to nothing (-want +got):\n%s", d)
	}
}

func TestDiffChangesAcrossHosts(t *testing.T) {
	for name, c := range map[string]struct {
		want, have func(*plan.State)
		ops        string
	}{
		"another identifier: the device and all that is on it come again": {
			want: func(s *plan.State) { s.Links[2].VXLAN.VNI = 2 },
			ops: `delete link vlf-2 vxlan id 1 local 192.0.2.1 dstport 8472 address 02:01:00:00:00:00 \
				mtu 1450 up alias vethloom:network/2
				create link vlf-2 vxlan id 2 local 192.0.2.1 dstport 8472 address 02:01:00:00:00:00 \
					mtu 1450 up alias vethloom:network/2
				create addr 10.2.1.0/32 dev vlf-2
				create fdb 02:02:00:00:00:00 dev vlf-2 dst 192.0.2.2
				create neigh 10.2.2.0 lladdr 02:02:00:00:00:00 dev vlf-2 nud permanent
				create route 10.2.2.0/24 via 10.2.2.0 dev vlf-2 onlink`,
		},
		"a bridge port with another source address": {
			want: func(s *plan.State) { s.Links[0].VXLAN.Local = ip("192.0.2.9") },
			ops: `delete link vlx-1 vxlan id 4097 local 192.0.2.1 dstport 4789 proxy \
				mtu 1450 master vlb-1 up alias vethloom:network/1
				create link vlx-1 vxlan id 4097 local 192.0.2.9 dstport 4789 proxy \
					mtu 1450 master vlb-1 up alias vethloom:network/1
				create fdb 00:00:00:00:00:00 dev vlx-1 dst 192.0.2.2
				create fdb 02:07:00:00:00:00 dev vlx-1 dst 192.0.2.2`,
		},
		"a peer that moved": {
			want: func(s *plan.State) {
				s.FDB[2].Dst, s.TunnelPeers[0].Dst, s.Neighs[0].MAC = ip("192.0.2.8"), ip("192.0.2.8"), plan.MAC{2, 8}
			},
			ops: `modify fdb 02:02:00:00:00:00 dev vlf-2 dst 192.0.2.8
				modify neigh 10.2.2.0 lladdr 02:08:00:00:00:00 dev vlf-2 nud permanent
				modify remote 10.3.2.0/24 dev vlt-3 dst 192.0.2.8`,
		},
		"a changed tunnel keeps its remotes": {
			want: func(s *plan.State) { s.Tunnels[0].Local, s.Tunnels[0].Plain = ip("192.0.2.9"), true },
			ops:  "modify tunnel dev vlt-3 local 192.0.2.9 port 8285 inside 10.3.0.0/24 inside 10.3.1.0/24 plain",
		},
		"a set has no order": {
			want: func(s *plan.State) { s.Tunnels[0].Inside = pfxs("10.3.0.0/24", "10.3.1.7/24", "10.3.0.0/24") },
		},
		"a process that ended": {
			have: func(s *plan.State) { s.Tunnels, s.TunnelPeers = nil, nil },
			ops: `create tunnel dev vlt-3 local 192.0.2.1 port 8285 inside 10.3.0.0/24 inside 10.3.1.0/24
				create remote 10.3.2.0/24 dev vlt-3 dst 192.0.2.2
				create remote 10.3.3.0/24 dev vlt-3 dst 192.0.2.3`,
		},
		"a link of another kind: the tunnel is another": {
			have: func(s *plan.State) { s.Links[3].Kind = "dummy" },
			ops: `delete link vlt-3 dummy mtu 1472 up alias vethloom:network/3
				create link vlt-3 tun mtu 1472 up alias vethloom:network/3
				create addr 10.3.1.0/32 dev vlt-3
				create tunnel dev vlt-3 local 192.0.2.1 port 8285 inside 10.3.0.0/24 inside 10.3.1.0/24
				create remote 10.3.2.0/24 dev vlt-3 dst 192.0.2.2
				create remote 10.3.3.0/24 dev vlt-3 dst 192.0.2.3
				create route 10.3.0.0/16 dev vlt-3`,
		},
		"no tunnel any more": {
			want: func(s *plan.State) { s.Tunnels, s.TunnelPeers, s.Routes = nil, nil, s.Routes[:1] },
			ops: `delete route 10.3.0.0/16 dev vlt-3
				delete remote 10.3.2.0/24 dev vlt-3 dst 192.0.2.2
				delete remote 10.3.3.0/24 dev vlt-3 dst 192.0.2.3
				delete tunnel dev vlt-3 local 192.0.2.1 port 8285 inside 10.3.0.0/24 inside 10.3.1.0/24`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			differs(t, spanning, c.want, c.have, c.ops)
		})
	}
}

func TestTunnelObjects(t *testing.T) {
	s := spanning()
	kinds := map[string]int{}
	for o := range plan.Union(s, s).Objects() {
		kinds[plan.KindOf(o)]++
		if ns, link := plan.LinkOf(o); ns != "" || link == "" {
			t.Errorf("%s is on link %q of %q", o, link, ns)
		}
	}
	if d := cmp.Diff(map[string]int{"link": 4, "addr": 2, "fdb": 3, "neigh": 1, "route": 2, "tunnel": 1, "remote": 2},
		kinds); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if (plan.State{Tunnels: s.Tunnels}).Empty() || (plan.State{TunnelPeers: s.TunnelPeers}).Empty() {
		t.Error("a state with a tunnel is empty")
	}
}
