package cnm

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// Driver renders the kernel state of one kind of network. Every method is
// pure: the same input gives the same output, and nothing is touched.
type Driver interface {
	Name() string
	Scope() Scope
	// Capabilities says what the controller must do for the driver's networks.
	Capabilities() Capabilities
	// CheckNetwork refuses what the driver cannot do: an unknown or malformed
	// option by its name, a pool that does not fit.
	CheckNetwork(Network) error
	// RenderNetwork renders what a network's endpoints share.
	RenderNetwork(Network, Host) (plan.State, error)
	// RenderEndpoint renders one endpoint: host and sandbox objects in one
	// state, told apart by their namespace.
	RenderEndpoint(Network, Endpoint, Host) (plan.State, error)
}

// LinkNamer is a [Driver] whose networks have a link of a name of their own on the host.
type LinkNamer interface {
	// NetworkLink is the name of the network's link, "" when its options are
	// none the driver knows. No two networks may have the same.
	NetworkLink(Network) string
}

// LANDriver is a [Driver] whose networks may be LANs that the host is on.
type LANDriver interface {
	Driver
	// LAN is where the network is; the zero value when it is on none, or its options are none the driver knows.
	LAN(Network) LAN
}

// IsLAN reports whether a network is a LAN that the host is on: its subnets may be those that the host has, and nothing
// is translated, so no ports are published.
func IsLAN(d Driver, n Network) bool {
	l, ok := d.(LANDriver)
	return ok && l.LAN(n) != LAN{}
}

// Publishes reports whether endpoints of a network can publish ports.
func Publishes(d Driver, n Network) bool {
	return d.Capabilities().Ports && !n.Internal && !IsLAN(d, n)
}

// LAN says how a network's LAN is reached.
type LAN struct {
	Link   string // the link of the host that is on it, past all VLAN tags
	Detect bool   // the LAN is asked whether anybody has an address before an endpoint gets it
	// OwnMACs: the hardware address of an endpoint's record is the one that it has on the LAN, and nobody else's there.
	// A DHCP server can give it an address then.
	OwnMACs bool
}

// GatewayChooser is a [Driver] whose networks need not have a gateway.
type GatewayChooser interface {
	// HasGateway reports whether subnets of the family have one. It is asked before the network has subnets.
	HasGateway(n Network, ipv6 bool) bool
}

// EndpointChecker is a [Driver] with reasons of its own to refuse an endpoint.
type EndpointChecker interface {
	// CheckEndpoint refuses what RenderEndpoint would refuse. The controller asks before it
	// writes anything: the endpoint has its addresses, its MAC address and its host ports already.
	// The error is an [ErrInvalid].
	CheckEndpoint(Network, Endpoint) error
}

// Updater is a [Driver] whose networks can change while endpoints are on them. What may change is what the kernel
// takes of links that are in use, as everything else of them is rendered and compared anyway.
type Updater interface {
	// Option is the driver's own name of an option, "" for one it does not know, and whether its value may change.
	Option(name string) (own string, inPlace bool)
}

// OutboundChooser is a [Driver] whose networks may have what leaves them carry addresses of the host that are chosen.
type OutboundChooser interface {
	// Outbound are these addresses, at most one a family.
	Outbound(Network) []netip.Addr
}

// PathTeller is a [Driver] whose networks may have the fast path. Other drivers' have none.
type PathTeller interface {
	// SlowPath says why packets of an endpoint take the slow path; "": they may take the fast one.
	SlowPath(Network, Endpoint, Host) string
}

// PortBinder is a [Driver] whose networks may publish on an address of their own.
type PortBinder interface {
	// PortAddr is the host's address for ports that name none; the zero value is every address.
	PortAddr(Network) netip.Addr
}

// Capabilities describe a driver to the controller.
type Capabilities struct {
	Addresses bool // networks have pools and endpoints have addresses
	Ports     bool // endpoints can publish ports
	Singleton bool // only the builtin network of this driver exists (host, none)
	// the driver chooses the hardware addresses of endpoints that nobody has asked for
	OwnMACs bool
	Leases  bool // each node leases subnets of its own from the network's (else all nodes share them, by blocks)
}

// Host is what a render must know about the host it renders for.
type Host struct {
	MTU    int    // bytes: that of the egress route's link, 1500 when there is none
	NoIPv6 bool   // the kernel has IPv6 switched off: nothing of it can be set or bound
	Node   string // this node's ID in the cluster; "" on a node that is in none
	Uplink Uplink // the link to the other nodes
	Fast   bool   // packets of networks may take the fast path
	NoFast string // why not, where Fast is not set
	// Filters are firewall rules of others, which see nothing of what takes the fast path
	Filters Filters
	// the host's own addresses of IPv4 with their subnets, sorted; none of ours
	Addrs []netip.Prefix
}

// Filters are the firewall rules of others that may be about what networks forward.
type Filters struct {
	// Links are the names of links that rules are about, sorted; a star at the end stands for anything.
	Links []string
	// Devices are the links among them that chains are at (netdev). No packet that a program takes there, or sends
	// there, comes to these, in a tunnel or not. They are sorted.
	Devices []string
	// IPsec tells that the host has policies of IPsec. What a program sends is neither protected by them nor refused,
	// and what it takes was not to be protected.
	IPsec bool
	// Forward tells that a chain drops what is forwarded between links, unless a rule of its own accepts it: as it
	// does with the Accepted ones.
	Forward  bool
	Accepted string
}

// About reports whether rules are about a link.
func (f Filters) About(link string) bool {
	return slices.ContainsFunc(f.Links, func(l string) bool { return namesLink(l, link) })
}

// At reports whether chains are at a link.
func (f Filters) At(link string) bool { return slices.Contains(f.Devices, link) }

// Drop reports whether what is forwarded to or from a link is dropped.
func (f Filters) Drop(link string) bool { return f.Forward && !namesLink(f.Accepted, link) }

// namesLink reports whether a name, or what begins one before a star, is that of a link.
func namesLink(name, link string) bool {
	prefix, any := strings.CutSuffix(name, "*")
	return link == name || any && strings.HasPrefix(link, prefix)
}

// Equal reports whether both are the same.
func (f Filters) Equal(o Filters) bool {
	return f.IPsec == o.IPsec && f.Forward == o.Forward && f.Accepted == o.Accepted && slices.Equal(f.Links, o.Links) &&
		slices.Equal(f.Devices, o.Devices)
}

// Equal reports whether renders for both hosts are the same.
func (h Host) Equal(o Host) bool {
	a, b := h.Uplink, o.Uplink
	return h.MTU == o.MTU && h.NoIPv6 == o.NoIPv6 && h.Node == o.Node &&
		h.Fast == o.Fast && h.NoFast == o.NoFast && h.Filters.Equal(o.Filters) &&
		slices.Equal(a.OnLink, b.OnLink) &&
		slices.Equal(h.Addrs, o.Addrs) &&
		a.Link == b.Link && a.MTU == b.MTU && a.Addr4 == b.Addr4 && a.Addr6 == b.Addr6
}

// Fabric makes the kernel agree with the records.
type Fabric interface {
	// Converge runs a pass over the owners and returns once the kernel agrees
	// with their records, or with the first error that kept it from doing so.
	Converge(context.Context, ...plan.Owner) error
}
