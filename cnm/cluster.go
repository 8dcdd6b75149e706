package cnm

import (
	"context"
	"net/netip"

	"github.com/vethloom/vethloom/internal/plan"
)

// ClusterNetwork is what a network of cluster scope is beyond one node.
type ClusterNetwork struct {
	Subnets []netip.Prefix `json:"subnets,omitempty"` // of all nodes together, at most one a family, IPv4 first
	VNI     uint32         `json:"vni,omitempty"`     // VXLAN network identifier (RFC 7348), unique among the cluster's networks
	Port    uint16         `json:"port,omitempty"`    // UDP port of the tunnel
	Leases  string         `json:"leases,omitempty"`  // directory of the nodes' subnet leases in etcd, of networks whose nodes have subnets of their own
	// Gone is set once the cluster has the network no more while endpoints of this node are still on
	// it: it renders no tunnel any more, as others may have its identifiers.
	Gone bool `json:"gone,omitempty"`
}

// TunnelRequest asks for the identifiers of a new cluster network's tunnel. A zero VNI or
// Port with a range means the lowest that no network of the same Kind has; without a range, none.
type TunnelRequest struct {
	Kind                string // networks of one kind share the space of identifiers: "vxlan", "udp"
	VNI                 uint32
	FirstVNI, LastVNI   uint32
	Port                uint16
	FirstPort, LastPort uint16
}

// Peer is what another node has of a cluster network and this node needs a
// way to: its subnet lease, or one of its endpoints.
type Peer struct {
	ID       string         `json:"id"` // <Short of the network's ID>/<lease or endpoint>: unique, and the end of its scope
	Network  string         `json:"network"`
	Node     string         `json:"node,omitempty"` // ID of the node; "" when the lease's holder is no vethloom node
	Endpoint bool           `json:"endpoint,omitempty"`
	Prefixes []netip.Prefix `json:"prefixes"`          // leased subnets, or the endpoint's addresses with all their bits; IPv4 first
	Addr4    netip.Addr     `json:"addr4,omitzero"`    // the node's IPv4 address on the underlay
	Addr6    netip.Addr     `json:"addr6,omitzero"`    // the node's IPv6 address on the underlay
	MAC      plan.MAC       `json:"mac,omitzero"`      // the endpoint's; of a lease, that of the VXLAN device on the IPv4 underlay
	MAC6     plan.MAC       `json:"mac6,omitzero"`     // of a lease: that of the VXLAN device on the IPv6 underlay
	Backend  string         `json:"backend,omitempty"` // of a lease: the way its holder wants to be reached: vxlan, udp, host-gw
	Revision uint64         `json:"-"`
}

// PeerDriver is a [Driver] of cluster networks.
type PeerDriver interface {
	Driver
	// Tunnel is what the network's tunnel needs to be told apart from others.
	Tunnel(Network) (TunnelRequest, error)
	// RenderPeer renders the way to one peer.
	RenderPeer(Network, Peer, Host) (plan.State, error)
}

// Uplink is the host's link to the other nodes. The zero value: none is known.
type Uplink struct {
	Link   string         // its name
	MTU    int            // bytes
	Addr4  netip.Addr     // this node's addresses on it, as the other nodes know them; either may be the zero value
	Addr6  netip.Addr     //
	OnLink []netip.Prefix // subnets that are reached on it without a router
}

// Membership holds networks in common with other nodes. Its errors are of this package's
// kinds; ErrUnavailable when the store of the cluster cannot be reached.
type Membership interface {
	// Create makes a network known to every node: it checks the name, resolves the pools, and gives
	// out the tunnel's identifiers, all of it atomically. The network returned holds what of
	// it is this node's already, in Pools.
	Create(ctx context.Context, n Network, pools []PoolRequest, tunnel TunnelRequest) (Network, error)
	// Delete removes a network that no endpoint of any node is on (ErrInUse names where they are).
	Delete(ctx context.Context, n Network) error
	// Extend gets this node more addresses of the network, those wanted if there are any, and returns
	// the network with them, after [Controller.Adopt]. What it adopts, and what is adopted after, must have all the
	// blocks that are this node's: endpoints in others are renumbered.
	Extend(ctx context.Context, n Network, want []netip.Addr) (Network, error)
	// Usable tells whether this node may give out further addresses of its share of the network, by ID, now:
	// ErrUnavailable when its lease is over by its own clock. It is asked before each attach and looks at memory only.
	Usable(network string) error
}

// PeerScope is the reconciliation scope of a peer.
func PeerScope(id string) plan.Scope { return plan.Scope("peer/" + id) }

// PeerID is the ID of a peer's record.
func PeerID(network, key string) string { return Short(network) + "/" + key }
