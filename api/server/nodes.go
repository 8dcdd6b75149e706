package server

import (
	"context"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

type nodesService struct {
	apiv1.UnimplementedNodesServer
	nodes Nodes
}

func (s *nodesService) List(ctx context.Context, r *apiv1.ListNodesRequest) (*apiv1.ListNodesResponse, error) {
	f, err := parseFilters(r.GetFilters(), "name", "id", "status")
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
		if f.contains("name", n.Name) && f.prefix("id", n.ID) && f.equal("status", status) {
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
		if f.equal("network", l.Network) && f.anyOf("node", l.Node, l.NodeID) && f.equal("backend", l.Backend) {
			out.Leases = append(out.Leases, encodeLease(l))
		}
	}
	return out, nil
}

func encodeNode(n NodeView) *apiv1.Node {
	return &apiv1.Node{
		Id: n.ID, Name: n.Name, Addresses: list(n.Addresses, addr), Version: n.Version, Drivers: n.Drivers,
		Self: n.Self, Alive: n.Alive, LastSeen: timestamp(n.LastSeen), Subnets: list(n.Subnets, encodeNodeSubnet),
		Blocks: list(n.Blocks, encodeNodeSubnet), Endpoints: int32(n.Endpoints), Health: list(n.Health, encodeHealth),
	}
}

func encodeNodeSubnet(s NodeSubnet) *apiv1.NodeSubnet {
	return &apiv1.NodeSubnet{Network: s.Network, Prefixes: list(s.Prefixes, prefix)}
}

func encodeHealth(h PeerHealth) *apiv1.PeerHealth {
	out := &apiv1.PeerHealth{
		Way: h.Way, Target: addr(h.Target), Reachable: h.Reachable, Mtu: int32(h.MTU), PathMtu: int32(h.PathMTU),
		Small: h.Small, Large: h.Large, Loss: h.Loss, Checked: timestamp(h.Checked), Cause: h.Cause, Remedy: h.Remedy,
	}
	if h.RTT != 0 {
		out.Rtt = durationpb.New(h.RTT)
	}
	return out
}

func encodeLease(l LeaseView) *apiv1.Lease {
	return &apiv1.Lease{
		Network: l.Network, Driver: l.Driver, Prefixes: list(l.Prefixes, prefix), NodeId: l.NodeID, Node: l.Node,
		PublicIps: list(l.PublicIPs, addr), Backend: l.Backend, Expires: timestamp(l.Expires), Own: l.Own, Problem: l.Problem,
	}
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
