package server

import (
	"context"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/health"
)

// Nodes is what the nodes service needs. List and Inspect answer from what this node knows, also
// while the cluster's store is away; on a node that is in no cluster there are none.
type Nodes interface {
	// ListNodes returns every node of the cluster, this one included.
	ListNodes(context.Context) ([]NodeView, error)
	// InspectNode finds a node by name, ID or unambiguous ID prefix. It may probe the paths to it.
	InspectNode(ctx context.Context, ref string) (NodeView, error)
	// RemoveNode ends the membership of a node that is away, found likewise, and returns its ID.
	RemoveNode(ctx context.Context, ref string) (string, error)
}

// NodeView is a node of the cluster, as this node sees it, and how the paths to it are.
type NodeView struct {
	cluster.NodeView
	Health []health.Verdict // the underlay first; none of this node itself
}

// Leases is what the leases service needs.
type Leases interface {
	// ListLeases returns the leases of every network whose nodes have subnets of their
	// own, those that cannot be used included.
	ListLeases(context.Context) ([]cluster.LeaseView, error)
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
