package cnm

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ClusterNetwork is the part of a network's record that all nodes share.
type ClusterNetwork struct {
	Subnets []netip.Prefix `json:"subnets,omitempty"` // of all nodes together, at most one a family, IPv4 first
	// VXLAN network identifier (RFC 7348), unique among the cluster's networks
	VNI  uint32 `json:"vni,omitempty"`
	Port uint16 `json:"port,omitempty"` // UDP port of the tunnel
	// directory of the nodes' subnet leases in etcd, of networks whose nodes have subnets of their own
	Leases string `json:"leases,omitempty"`
	// Gone is set when the network has been removed from the cluster while endpoints of this node are
	// still on it. It renders no tunnel then: another network may have its identifiers.
	Gone bool `json:"gone,omitempty"`
	// Left is set while this node takes no part in the network, as somebody here has decided. It renders nothing
	// then; the cluster and the other nodes have it as before.
	Left bool `json:"left,omitempty"`
}

// Gone reports whether the network has been removed from the cluster.
func (n Network) Gone() bool { return n.Cluster != nil && n.Cluster.Gone }

// Left reports whether this node has left the network.
func (n Network) Left() bool { return n.Cluster != nil && n.Cluster.Left }

// ConfigOnlyError is why nothing is on a network that only holds what others are made from.
func ConfigOnlyError(name string) error {
	return &Error{Kind: ErrForbidden, Field: "network", Value: name,
		Reason: "it only holds the configuration of others",
		Remedy: fmt.Sprintf("make a network with --config-from %.64s", name)}
}

// LeftError is why nothing is on a network that this node has left.
func LeftError(name string) error {
	return &Error{Kind: ErrForbidden, Field: "network", Value: name,
		Reason: fmt.Sprintf("this node has left network %.64s", name),
		Remedy: fmt.Sprintf("net network join %.64s", name)}
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
// way to: its subnet lease, its blocks of a subnet that nodes share, or one of its endpoints.
type Peer struct {
	// <Short of the network's ID>/<lease or endpoint>: unique, and the end of its owner's name
	ID       string `json:"id"`
	Network  string `json:"network"`
	Node     string `json:"node,omitempty"` // ID of the node; "" when the lease's holder is no vethloom node
	Endpoint bool   `json:"endpoint,omitempty"`
	Blocks   bool   `json:"blocks,omitempty"` // it is the node's blocks, all of them
	// leased subnets, blocks, or the endpoint's addresses with all their bits; IPv4 first
	Prefixes []netip.Prefix `json:"prefixes"`
	Addr4    netip.Addr     `json:"addr4,omitzero"` // the node's IPv4 address on the underlay
	Addr6    netip.Addr     `json:"addr6,omitzero"` // the node's IPv6 address on the underlay
	// the endpoint's; of a lease, that of the VXLAN device on the IPv4 underlay
	MAC  plan.MAC `json:"mac,omitzero"`
	MAC6 plan.MAC `json:"mac6,omitzero"` // of a lease: that of the VXLAN device on the IPv6 underlay
	// of a lease: the way its holder wants to be reached: vxlan, udp, host-gw
	Backend string `json:"backend,omitempty"`
	// of a lease: its holder takes what the fast path sends in UDP; of blocks: their addresses lead to the node
	Fast bool `json:"fast,omitempty"`
	// of an endpoint: blocks of its node have all of its addresses, and these lead to the node
	InBlock bool `json:"inBlock,omitempty"`
	// of an endpoint: what it is called on the network, in lower case, and what it serves
	Names    []string        `json:"names,omitempty"`
	Ports    []plan.NamePort `json:"ports,omitempty"`
	Ingress  []Ingress       `json:"ingress,omitempty"` // of an endpoint: ports of its node that all nodes lead there
	Engine   string          `json:"engine,omitempty"`  // of an endpoint: whose container it is
	Since    int64           `json:"since,omitempty"`   // of an endpoint: when it was made, in seconds of Unix time
	Revision uint64          `json:"-"`
}

// Owners are those of what this host has for the peer.
func (p Peer) Owners() []plan.Owner {
	if len(p.Ingress) == 0 {
		return []plan.Owner{PeerOwner(p.ID)}
	}
	return []plan.Owner{PeerOwner(p.ID), IngressOwner(p.ID)}
}

// PeerDriver is a [Driver] of cluster networks.
type PeerDriver interface {
	Driver
	// Tunnel is what the network's tunnel needs to be told apart from others.
	Tunnel(Network) (TunnelRequest, error)
	// RenderPeer renders the way to one peer.
	RenderPeer(Network, Peer, Host) (plan.State, error)
}

// Flooder is a [PeerDriver] whose networks send what is for many endpoints to each node that has some.
type Flooder interface {
	PeerDriver
	// RenderNode renders the way to all endpoints of a network that are on a node, by one of its addresses on the
	// underlay.
	RenderNode(n Network, node netip.Addr, h Host) (plan.State, error)
}

// Path is how packets of a network get to a peer.
type Path struct {
	Addr  netip.Addr     // what answers at its far end; the zero value: nothing that this node could ask
	MTU   int            // bytes, IP header included: the largest packet that the network sends
	Outer netip.AddrPort // of a tunnel over UDP: where its packets go on the underlay; the zero value: there is none
}

// PathDescriber is a [PeerDriver] that tells how its networks' packets get to other nodes.
type PathDescriber interface {
	PeerDriver
	// Sizes are the MTU of the network's links on this node, and how many bytes its tunnel puts around a
	// packet at most.
	Sizes(Network, Host) (mtu, overhead int, err error)
	// Path describes the path to a peer's first subnet, or to its node where peers are endpoints.
	Path(Network, Peer, Host) (Path, error)
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
	// Update changes the record that all nodes have of a network: edit is given what it is now, perhaps several times.
	// It returns the record as it became.
	Update(ctx context.Context, n Network, edit func(Network) (Network, error)) (Network, error)
	// Delete removes a network that no endpoint of any node is on (ErrInUse names where they are).
	Delete(ctx context.Context, n Network) error
	// Extend gets this node more addresses of the network, those wanted if there are any, and returns
	// the network with them, after the controller has adopted it. What it adopts, and what is adopted after,
	// must have all the blocks that are this node's: endpoints in others are renumbered.
	Extend(ctx context.Context, n Network, want []netip.Addr) (Network, error)
	// Usable reports whether this node may give out further addresses of its share of the network, by ID, now:
	// ErrUnavailable when its lease is over by its own clock. It is asked before each attach and looks at memory only.
	Usable(network string) error
	// Admit refuses a network that this host cannot take part in, for what the host itself needs (ErrForbidden). It
	// works without the store.
	Admit(ctx context.Context, n Network) error
	// Review is told that this node has left a network, or joins it again: what it holds of it is given back, or got,
	// once the store can be reached.
	Review(network string)
}

// Ingress is a range of host ports that every node of a network leads to the node that publishes them.
type Ingress struct {
	Proto plan.L4 `json:"proto"`
	Port  uint16  `json:"port"`  // first of the range, on all nodes
	Count uint16  `json:"count"` // length of the range, at least 1
}

// Check refuses what cannot be published.
func (i Ingress) Check() error {
	m, err := NewPortMapping(i.Proto, netip.Addr{}, uint32(i.Port), uint32(i.Port), uint32(i.Count))
	if err == nil {
		_, err = m.OnEveryNode()
	}
	return err
}

// Ingresses are those of an endpoint's ports.
func Ingresses(e Endpoint) []Ingress {
	var out []Ingress
	for _, m := range e.Ports {
		if m.Cluster {
			out = append(out, Ingress{Proto: m.Proto, Port: m.HostPort, Count: m.Count})
		}
	}
	return out
}

// IngressOwner is the owner of the host ports that lead to a peer. They are not the way to the peer itself: where
// somebody else has such a port, the peer is as good as without.
func IngressOwner(peer string) plan.Owner { return plan.Owner("ingress/" + peer) }

// PeerOwner is the owner of what leads to a peer.
func PeerOwner(id string) plan.Owner { return plan.Owner("peer/" + id) }

// NodeOwner is the owner of what concerns a node that peers are on, by its [NodeID].
func NodeOwner(id string) plan.Owner { return plan.Owner("node/" + id) }

// NodeID is the ID of the record of a node by its address on the underlay: of one that endpoints of a network are on,
// or, without a network, of one that any peers are on.
func NodeID(network string, a netip.Addr) string {
	if network == "" {
		return a.String()
	}
	return PeerID(network, a.String())
}

// ParseNodeID is the short ID of the network, if there is one, and the node's address.
func ParseNodeID(id string) (network string, a netip.Addr, err error) {
	addr := id
	if i := strings.IndexByte(id, '/'); i >= 0 {
		network, addr = id[:i], id[i+1:]
	}
	if a, err = netip.ParseAddr(addr); err != nil {
		return "", netip.Addr{}, fmt.Errorf("the record of node %q: %w", id, err)
	}
	return network, a, nil
}

// PeerID is the ID of a peer's record.
func PeerID(network, key string) string { return Short(network) + "/" + key }
