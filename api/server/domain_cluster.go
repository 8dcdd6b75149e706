package server

import (
	"context"
	"net/netip"
	"time"
)

// Nodes is what the nodes service needs. Both answer from what this node knows, also
// while the cluster's store is away; on a node that is in no cluster there are none.
type Nodes interface {
	// ListNodes returns every node of the cluster, this one included.
	ListNodes(context.Context) ([]NodeView, error)
	// InspectNode finds a node by name, ID or unambiguous ID prefix. It may probe the ways to it.
	InspectNode(ctx context.Context, ref string) (NodeView, error)
}

// NodeView is a node of the cluster, as this node sees it.
type NodeView struct {
	ID        string // UUID
	Name      string
	Addresses []netip.Addr // on the underlay, IPv4 first
	Version   string
	Drivers   []string // that it can join networks of
	Self      bool
	Alive     bool
	LastSeen  time.Time    // zero: not known
	Subnets   []NodeSubnet // leased
	Blocks    []NodeSubnet // of subnets that all nodes share
	Endpoints int
	Health    []PeerHealth // the ways to it, the underlay first; none of this node itself
}

// NodeSubnet is what a node has of one network.
type NodeSubnet struct {
	Network  string // name
	Prefixes []netip.Prefix
}

// PeerHealth is how one way to a node is doing.
type PeerHealth struct {
	Way       string // "underlay", or driver and network: "vxlan web"
	Target    netip.Addr
	Reachable bool
	RTT       time.Duration // 0: not known
	MTU       int           // of the way, bytes
	PathMTU   int           // that was found, bytes; 0: not known
	Small     bool          // small packets arrive
	Large     bool          // packets as large as MTU arrive
	Loss      float64       // of the latest probes, 0 to 1
	Checked   time.Time     // zero: not yet
	Cause     string        // why it is not well
	Remedy    string
}

// Leases is what the leases service needs.
type Leases interface {
	// ListLeases returns the leases of every network whose nodes have subnets of their
	// own, those that cannot be used included.
	ListLeases(context.Context) ([]LeaseView, error)
}

// LeaseView is a subnet that a node has of a network.
type LeaseView struct {
	Network   string // name
	Driver    string
	Prefixes  []netip.Prefix // IPv4 first
	NodeID    string         // "": the holder is no vethloom node
	Node      string         // name
	PublicIPs []netip.Addr
	Backend   string
	Expires   time.Time // zero: a reservation, it stays
	Own       bool
	Problem   string // why it is not used: "", or what is malformed
}

// ClusterStatus is how this node is doing as a member of its cluster.
type ClusterStatus struct {
	Store     string // "embedded", or the endpoints
	Connected bool
	Error     string    // why it is not connected
	Since     time.Time // of the present state
	NodeID    string
	NodeName  string
	NodeIPs   []netip.Addr
	Nodes     int       // this one included
	Alive     int       // of them
	Expires   time.Time // when what this node holds is over unless it is renewed; zero: it holds nothing
	Problems  []string
}
