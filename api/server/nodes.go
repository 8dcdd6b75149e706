package server

import (
	"context"
	"net/netip"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/health"
	"google.golang.org/protobuf/types/known/durationpb"
)

type nodesService struct {
	apiv1.UnimplementedNodesServer
	nodes Nodes
}

func (s *nodesService) List(ctx context.Context, r *apiv1.ListNodesRequest) (*apiv1.ListNodesResponse, error) {
	f, err := parseFilters(r.GetFilters(), "name", "id", "status=ready|away")
	if err != nil {
		return nil, err
	}
	all, err := s.nodes.ListNodes(ctx)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListNodesResponse{}
	for _, n := range all {
		status := "away"
		if n.Alive {
			status = "ready"
		}
		if f.named("name", n.Name) && f.prefix("id", n.ID) && f.equal("status", status) {
			out.Nodes = append(out.Nodes, encodeNode(n))
		}
	}
	return out, nil
}

func (s *nodesService) Inspect(ctx context.Context, r *apiv1.InspectNodeRequest) (*apiv1.Node, error) {
	n, err := s.nodes.InspectNode(ctx, r.GetNode())
	if err != nil {
		return nil, err
	}
	return encodeNode(n), nil
}

func (s *nodesService) Remove(ctx context.Context, r *apiv1.RemoveNodeRequest) (*apiv1.RemoveNodeResponse, error) {
	id, err := s.nodes.RemoveNode(ctx, r.GetNode())
	if err != nil {
		return nil, err
	}
	return &apiv1.RemoveNodeResponse{Id: id}, nil
}

type leasesService struct {
	apiv1.UnimplementedLeasesServer
	leases Leases
}

func (s *leasesService) List(ctx context.Context, r *apiv1.ListLeasesRequest) (*apiv1.ListLeasesResponse, error) {
	f, err := parseFilters(r.GetFilters(), "network", "node", "backend")
	if err != nil {
		return nil, err
	}
	all, err := s.leases.ListLeases(ctx)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListLeasesResponse{}
	for _, l := range all {
		if f.equal("network", l.Network.Name) && f.anyOf("node", l.Node, l.NodeID) &&
			f.equal("backend", l.BackendType) {
			out.Leases = append(out.Leases, encodeLease(l))
		}
	}
	return out, nil
}

func encodeNode(n NodeView) *apiv1.Node {
	return &apiv1.Node{
		Id: n.ID, Name: n.Name, Addresses: addrs(n.Addr4, n.Addr6), Version: n.Version, Drivers: n.Drivers,
		Self: n.Self, Alive: n.Alive, LastSeen: timestamp(n.LastSeen), Subnets: encodeNodeSubnets(n.Subnets),
		Blocks: encodeNodeSubnets(n.Blocks), Endpoints: int32(n.Endpoints), Health: list(n.Health, encodeHealth),
	}
}

func encodeNodeSubnets(byNetwork map[string][]netip.Prefix) []*apiv1.NodeSubnet {
	return list(sortedKeys(byNetwork), func(name string) *apiv1.NodeSubnet {
		return &apiv1.NodeSubnet{Network: name, Prefixes: list(byNetwork[name], prefix)}
	})
}

func encodeHealth(v health.Verdict) *apiv1.PeerHealth {
	out := &apiv1.PeerHealth{
		Path: v.Path, Target: addr(v.Addr), Reachable: v.Reachable, Mtu: int32(v.MTU), PathMtu: int32(v.PathMTU),
		Small: v.Small, Large: v.Large, Loss: v.Loss, Checked: timestamp(v.Checked), Cause: v.Cause, Remedy: v.Remedy,
	}
	if v.RTT != 0 {
		out.Rtt = durationpb.New(v.RTT)
	}
	return out
}

func encodeLease(l cluster.LeaseView) *apiv1.Lease {
	out := &apiv1.Lease{
		Network: l.Network.Name, Driver: l.Network.Driver, NodeId: l.NodeID, Node: l.Node,
		PublicIps: addrs(l.PublicIP, l.PublicIPv6), Backend: l.BackendType, Expires: timestamp(l.Expires), Own: l.Own,
		Problem: l.Problem,
	}
	for _, p := range []netip.Prefix{l.Subnet, l.Subnet6} {
		if p.IsValid() {
			out.Prefixes = append(out.Prefixes, p.String())
		}
	}
	return out
}

func encodeClusterStatus(c *ClusterStatus) *apiv1.ClusterStatus {
	if c == nil {
		return nil
	}
	return &apiv1.ClusterStatus{
		Store: c.Store, Connected: c.Connected, Error: c.Error, Since: timestamp(c.Since), NodeId: c.NodeID,
		NodeName: c.NodeName, NodeIps: list(c.NodeIPs, addr), Nodes: int32(c.Nodes), Alive: int32(c.Alive),
		Problems: c.Problems, Expires: timestamp(c.Expires),
	}
}
