package backend

import (
	"cmp"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Backend is one way across hosts. Its methods are pure.
type Backend interface {
	// Name is the backend's name in records and in etcd, which is flannel's.
	Name() string
	// Options are the names of the options that it knows, of those in [Options].
	Options() []string
	// Tunnel is what a new network's tunnel needs to be told apart from others.
	Tunnel(Options) cnm.TunnelRequest
	// RenderSelf renders this node's end. The host has an uplink with an address.
	RenderSelf(Network, cnm.Host) (Self, error)
	// RenderPeer renders the way to a peer. The host has an uplink with an address.
	RenderPeer(Network, cnm.Peer, cnm.Host) (plan.State, error)
	// Decode adds to a peer what its lease says of the backend. Errors name the field.
	Decode(Network, subnet.Lease, *cnm.Peer) error
}

// Options are the backends' options of a network, decoded.
type Options struct {
	VNI           uint32 // vni; 0: one is chosen
	Port          uint16 // port, UDP; 0: one is chosen
	DirectRouting bool   // direct-routing: plain routes to the peers on the same link, a tunnel to the rest
	Plain         bool   // offload=off: a userspace tunnel without offloads
}

// The names of the options.
const (
	OptionVNI           = "vni"
	OptionPort          = "port"
	OptionDirectRouting = "direct-routing"
	OptionOffload       = "offload"
)

// Network is a network of cluster scope with its options decoded. Its pools are this node's subnets.
type Network struct {
	cnm.Network
	Options Options
}

// Self is this node's end of a network.
type Self struct {
	State    plan.State   // without a subnet there is none
	Attrs    subnet.Attrs // what the node's lease tells the others
	Overhead int          // bytes that a packet gets on its way, at most
	Tunnels  []string     // links that lead to other nodes, and nowhere else
	Plain    bool         // some or all peers are reached by plain routes over the uplink
}

// Scope is the owner of the network's links.
func (n Network) Scope() plan.Owner { return cnm.NetworkOwner(n.ID) }

// LinkName is the name of a link of the network's own: the prefix and the start of the ID.
func (n Network) LinkName(prefix string) string { return linkname.Of(prefix, n.ID) }

// MTU is that of a link whose packets get so many bytes on their way over the uplink. Below 1280
// the kernel takes IPv6 off the link (RFC 8200 section 5); the host fragments what does not fit then.
func (n Network) MTU(h cnm.Host, overhead int) int {
	mtu := cmp.Or(h.Uplink.MTU, h.MTU, 1500) - overhead
	if n.IPv6 {
		return max(mtu, 1280)
	}
	return mtu
}

// Address is an address on a link for what this node itself sends into the network: that of its subnet
// as such, which no endpoint has. It is false without a subnet of the family.
func (n Network) Address(link string, is4 bool) (plan.Addr, bool) {
	for _, p := range n.Pools {
		if a := p.Subnet.Addr(); a.Is4() == is4 {
			return plan.Addr{Link: link, Prefix: netip.PrefixFrom(a, a.BitLen())}, true
		}
	}
	return plan.Addr{}, false
}

// Nowhere are routes for what no node has leased: without them it would leave by the host's default route.
func (n Network) Nowhere() []plan.Route {
	var out []plan.Route
	for _, s := range n.Cluster.Subnets {
		out = append(out, plan.Route{Type: plan.Blackhole, Dst: s, Metric: nowhereMetric})
	}
	return out
}

// nowhereMetric is greater than that of anybody's route to the same prefix.
const nowhereMetric = 1<<31 - 1

// LinkSysctls keep a tunnel's link from what no tunnel does: router advertisements, and IPv6 where
// the network has none.
func (n Network) LinkSysctls(link string, h cnm.Host) []plan.Sysctl {
	all := []plan.Sysctl{{Path: "ipv4/conf/" + link + "/forwarding", Value: "1"}}
	conf := "ipv6/conf/" + link + "/"
	switch {
	case h.NoIPv6:
	case !n.IPv6:
		all = append(all, plan.Sysctl{Path: conf + "disable_ipv6", Value: "1"})
	default:
		all = append(all, plan.Sysctl{Path: conf + "disable_ipv6", Value: "0"},
			plan.Sysctl{Path: conf + "accept_ra", Value: "0"})
	}
	return all
}

// Underlay is the peer's address of a family that both ends have; the zero value when they do not.
func Underlay(p cnm.Peer, h cnm.Host, is4 bool) netip.Addr {
	own, other := h.Uplink.Addr6, p.Addr6
	if is4 {
		own, other = h.Uplink.Addr4, p.Addr4
	}
	if !own.IsValid() {
		return netip.Addr{}
	}
	return other
}

// Who names a peer in errors.
func Who(p cnm.Peer) string {
	who := "the host"
	if p.Node != "" {
		who = "node " + p.Node
	}
	var at []string
	for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
		if a.IsValid() {
			at = append(at, a.String())
		}
	}
	if len(at) == 0 {
		return who
	}
	return who + " (" + strings.Join(at, ", ") + ")"
}

// Unreachable says that a peer's prefix cannot be reached, why not and what to do. It is a [cnm.ErrInvalid]:
// another try changes nothing.
func Unreachable(n Network, p cnm.Peer, prefix netip.Prefix, reason, remedy string) error {
	return &cnm.Error{
		Kind: cnm.ErrInvalid, Field: "peer", Value: Who(p), Remedy: remedy,
		Reason: fmt.Sprintf("network %s: its subnet %s cannot be reached: %s", n.Name, prefix, reason),
	}
}
