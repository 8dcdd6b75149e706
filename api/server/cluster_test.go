package server_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/vethloom/vethloom/api/client"
	"github.com/vethloom/vethloom/api/server"
	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/health"
	"github.com/vethloom/vethloom/subnet"
)

func TestNodesAndLeases(t *testing.T) {
	s := serve(t)
	seen := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	web := netip.MustParsePrefix("10.5.2.0/24")
	s.domain.SetNodes(
		server.NodeView{NodeView: cluster.NodeView{Node: record.Node{ID: "aa11", Name: "n1"}, Self: true, Alive: true,
			LastSeen: seen}},
		server.NodeView{
			NodeView: cluster.NodeView{
				Node:    record.Node{ID: "bb22", Name: "n2", Addr4: netip.MustParseAddr("192.0.2.2")},
				Subnets: map[string][]netip.Prefix{"web": {web}}},
			Health: []health.Verdict{{
				Result: health.Result{
					Target:  health.Target{Path: "underlay", Addr: netip.MustParseAddr("192.0.2.2"), MTU: 1500},
					Checked: seen, RTT: time.Millisecond, Loss: 0.5},
				Diagnosis: health.Diagnosis{Cause: "lost"}}}},
	)
	s.domain.SetLeases(
		cluster.LeaseView{Network: cnm.Network{Name: "web"}, Node: "n2",
			Lease: subnet.Lease{Subnet: web, Attrs: subnet.Attrs{NodeID: "bb22", BackendType: "udp"}}},
		cluster.LeaseView{Network: cnm.Network{Name: "db"}, Own: true, Expires: seen})
	nodes, err := s.Nodes.List(t.Context(), &apiv1.ListNodesRequest{Filters: []string{"status=away"}})
	if err != nil || len(nodes.GetNodes()) != 1 || nodes.GetNodes()[0].GetLastSeen() != nil {
		t.Errorf("away: %v, %v", nodes, err)
	}
	n, err := s.Nodes.Inspect(t.Context(), &apiv1.InspectNodeRequest{Node: "bb"})
	if err != nil || n.GetAddresses()[0] != "192.0.2.2" || n.GetSubnets()[0].GetPrefixes()[0] != "10.5.2.0/24" {
		t.Errorf("inspect: %v, %v", n, err)
	}
	if h := n.GetHealth()[0]; h.GetRtt().AsDuration() != time.Millisecond || h.GetLoss() != 0.5 ||
		h.GetCause() != "lost" || h.GetReachable() || !h.GetChecked().AsTime().Equal(seen) {
		t.Errorf("health: %v", h)
	}
	if _, err := s.Nodes.Inspect(t.Context(), &apiv1.InspectNodeRequest{Node: "cc"}); client.CodeOf(
		err) != codes.NotFound {
		t.Errorf("a node that is none: %v", err)
	}
	leases, err := s.Leases.List(t.Context(), &apiv1.ListLeasesRequest{Filters: []string{"node=n2", "backend=udp"}})
	if err != nil || len(leases.GetLeases()) != 1 || leases.GetLeases()[0].GetExpires() != nil {
		t.Errorf("leases: %v, %v", leases, err)
	}
	if _, err := s.Leases.List(t.Context(), &apiv1.ListLeasesRequest{Filters: []string{"colour=red"}}); client.CodeOf(
		err) != codes.InvalidArgument {
		t.Errorf("a filter that is none: %v", err)
	}
	s.domain.Fail("ListNodes", &cnm.Error{Kind: cnm.ErrUnavailable, Reason: "etcd is away"})
	_, err = s.Nodes.List(t.Context(), &apiv1.ListNodesRequest{})
	if e := client.Explain(err); client.CodeOf(e) != codes.FailedPrecondition || e.Error() != "etcd is away" {
		t.Errorf("without the store: %v", e)
	}
}

func TestClusterNetwork(t *testing.T) {
	s := serve(t)
	for driver, want := range map[string]struct{ subnet, blocks string }{"overlay": {"10.20.0.0/16", "10.20.0.0/26"},
		"udp": {"10.20.0.0/24", ""}} {
		n, err := s.Networks.Create(t.Context(), &apiv1.CreateNetworkRequest{Name: driver, Driver: driver,
			Pools: []*apiv1.Pool{{Subnet: "10.20.0.0/16"}}})
		if err != nil {
			t.Fatal(err)
		}
		c, p := n.GetCluster(), n.GetPools()[0]
		if n.GetScope() != "cluster" || c.GetSubnets()[0] != "10.20.0.0/16" || c.GetVni() == 0 ||
			p.GetSubnet() != want.subnet ||
			strings.Join(p.GetBlocks(), ",") != want.blocks || (c.GetLeases() == "") != (driver == "overlay") {
			t.Errorf("%s: %v", driver, n)
		}
		if _, err := s.Networks.Remove(t.Context(), &apiv1.RemoveNetworkRequest{Network: driver}); err != nil {
			t.Fatal(err)
		}
	}
	st := server.Status{Cluster: &server.ClusterStatus{Store: "embedded", Connected: true, NodeName: "n1", Nodes: 3,
		Alive: 2}}
	s.domain.SetStatus(st)
	got, err := s.System.Status(t.Context(), &apiv1.StatusRequest{})
	if c := got.GetCluster(); err != nil || c.GetStore() != "embedded" || !c.GetConnected() || c.GetNodes() != 3 ||
		c.GetAlive() != 2 || c.GetSince() != nil {
		t.Errorf("status: %v, %v", got, err)
	}
	s.domain.SetStatus(server.Status{})
	if got, err := s.System.Status(t.Context(), &apiv1.StatusRequest{}); err != nil || got.GetCluster() != nil {
		t.Errorf("status without a cluster: %v, %v", got, err)
	}
}
