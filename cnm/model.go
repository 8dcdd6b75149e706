package cnm

import (
	"net/netip"
	"slices"
	"time"

	"github.com/vethloom/vethloom/plan"
)

// Phase says whether a record is in use or being deleted. Deletion is a
// phase: a deleting record renders nothing, and goes once the kernel agrees.
type Phase string

// The phases of every record.
const (
	Active   Phase = "active"
	Deleting Phase = "deleting"
)

// Scope is the reach of a driver's networks. It is no [plan.Owner], which says what a kernel object
// belongs to.
type Scope string

// The reaches: one node, or every node of the cluster.
const (
	Local   Scope = "local"
	Cluster Scope = "cluster"
)

// The drivers and networks that have a meaning of their own.
const (
	DriverBridge = "bridge" // what a network request without a driver means
	DriverHost   = "host"   // sandboxes on it are the fabric's own namespace
	DriverNull   = "null"   // sandboxes on it have no endpoint

	NetworkBridge = "bridge"
	NetworkHost   = "host"
	NetworkNone   = "none"
)

// Network is a broadcast domain or routed subnet that endpoints join.
type Network struct {
	ID       string `json:"id"` // 64 hex digits
	Name     string `json:"name"`
	Driver   string `json:"driver"`
	Scope    Scope  `json:"scope"`
	Internal bool   `json:"internal,omitempty"`
	// Attachable is kept for clients of Docker, which show it. Every container may be attached to every network.
	Attachable bool `json:"attachable,omitempty"`
	IPv4       bool `json:"ipv4"`
	IPv6       bool `json:"ipv6"`
	// in the order in which addresses are given; of a cluster's network at most one a family
	Pools   []Pool            `json:"pools,omitempty"`
	Options map[string]string `json:"options,omitempty"` // as given; decoded once by the driver
	Labels  map[string]string `json:"labels,omitempty"`
	// IPAM is the plugin that gives subnets and addresses; nil: package ipam does.
	IPAM    *NetworkIPAM    `json:"ipam,omitempty"`
	Cluster *ClusterNetwork `json:"cluster,omitempty"` // nil for a network of this node alone
	Builtin bool            `json:"builtin,omitempty"` // bridge, host, none: made at start
	// ConfigOnly is a network that only holds what others are made from: Config, Options, Labels and the families. It
	// has nothing in the kernel, and no endpoint is on it.
	ConfigOnly bool          `json:"configOnly,omitempty"`
	Config     []PoolRequest `json:"config,omitempty"`
	ConfigFrom string        `json:"configFrom,omitempty"` // name of the network that this one was made from
	Created    time.Time     `json:"created"`
	Phase      Phase         `json:"phase"`
	Revision   uint64        `json:"-"` // the store's, for compare-and-swap
}

// NetworkIPAM says who gives a network its subnets and addresses.
type NetworkIPAM struct {
	Driver  string            `json:"driver"`
	Options map[string]string `json:"options,omitempty"` // as given, the driver's to judge
}

// DefaultIPAM is the name of package ipam in requests.
const DefaultIPAM = "default"

// Pool is one subnet of a network.
type Pool struct {
	Subnet netip.Prefix `json:"subnet"`
	// addresses are given from this part; equals Subnet when not given
	Range   netip.Prefix          `json:"range"`
	Gateway netip.Addr            `json:"gateway"` // the zero value: none
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
	// Blocks are the parts of the subnet that this node gives addresses out of, of a network that
	// shares its subnet with other nodes; a node without any has none to give. Unused in networks of this node alone.
	Blocks []netip.Prefix `json:"blocks,omitempty"`
}

// Sandbox is one network stack that endpoints are attached to.
type Sandbox struct {
	ID    string     `json:"id"`
	NetNS plan.NetNS `json:"netns"` // a pinned namespace; "" with Host
	// the fabric's own namespace: nothing to make, endpoints carry no links
	Host bool `json:"host,omitempty"`
	// Engine is whose container the sandbox belongs to: one of the engines below, "" for this program's own.
	Engine    string            `json:"engine,omitempty"`
	Adopted   *Adopted          `json:"adopted,omitempty"`   // nil: the namespace is made for it
	Handed    bool              `json:"handed,omitempty"`    // its engine takes the links' inner ends away: NetNS is ""
	Container string            `json:"container,omitempty"` // ID, in its engine
	Labels    map[string]string `json:"labels,omitempty"`
	DNS       []netip.Addr      `json:"dns,omitempty"` // servers that it asks, from inside; none: the host's
	Phase     Phase             `json:"phase"`
	Revision  uint64            `json:"-"`
}

// The engines of others.
const (
	EngineDocker   = "docker"
	EngineCNI      = "cni"
	EngineNetavark = "netavark"
)

// KnownEngine is the name of an engine as it may be shown: what others have written can be anything.
func KnownEngine(name string) string {
	switch name {
	case "", EngineDocker, EngineCNI, EngineNetavark:
		return name
	}
	return "other"
}

// Adopted is a network namespace that somebody else has made, and removes.
type Adopted struct {
	Path   string `json:"path"`   // where its engine has it
	Cookie uint64 `json:"cookie"` // SO_NETNS_COOKIE: no other namespace of the boot has it
}

// Endpoint is a place on a network: addresses, a MAC address, names and ports. Once a sandbox has it, it is
// attached: only then does it have links.
type Endpoint struct {
	ID      string         `json:"id"`
	Network string         `json:"network"`          // network ID
	Sandbox string         `json:"sandbox"`          // sandbox ID; "" while no sandbox has it
	NetNS   plan.NetNS     `json:"netns"`            // the sandbox's, so that a render needs no second record
	Handed  bool           `json:"handed,omitempty"` // the sandbox's, likewise: NetNS is ""
	Index   int            `json:"index"`            // position among the sandbox's endpoints: see LinkName
	Name    string         `json:"name,omitempty"`
	Aliases []string       `json:"aliases,omitempty"`
	MAC     plan.MAC       `json:"mac"`
	Addrs   []netip.Prefix `json:"addrs,omitempty"` // with the subnet's length, IPv4 first
	Ports   []PortMapping  `json:"ports,omitempty"`
	// ports that it serves, published or not; for name resolution
	Serves   []plan.NamePort `json:"serves,omitempty"`
	Hostname string          `json:"hostname,omitempty"` // what its container calls itself, where somebody chose that
	// gateway priority, -1000…1000: the highest provides the default route
	GwPriority int `json:"priority,omitempty"`
	// addresses of the host that what leaves it for the outside carries, at most one a family; without: the network's
	Outbound []netip.Addr `json:"outbound,omitempty"`
	// its default route has the kernel's own metric: it is that of the sandbox, for programs that change it
	Plain   bool      `json:"plain,omitempty"`
	Engine  string    `json:"engine,omitempty"` // its sandbox's
	Created time.Time `json:"created,omitzero"`
	// Origin is what the sandbox's engine calls the network, where it has a name of its own for it.
	Origin string `json:"origin,omitempty"`
	LinkOptions
	// Holds are further owners of its addresses: it had them reserved before it was made.
	Holds    []string `json:"holds,omitempty"`
	Leased   *Leased  `json:"leased,omitempty"` // nil without a DHCP server; never changed, only replaced
	Phase    Phase    `json:"phase"`
	Revision uint64   `json:"-"`
}

// Attached reports whether a sandbox has the endpoint.
func (e Endpoint) Attached() bool { return e.Sandbox != "" }

// LeadsOut reports whether the endpoint has a gateway that leads to other networks.
func LeadsOut(n Network, e Endpoint) bool {
	return !n.Internal && slices.ContainsFunc(e.Addrs, func(a netip.Prefix) bool {
		return slices.ContainsFunc(n.Pools, func(p Pool) bool {
			return p.Gateway.IsValid() && p.Subnet.Contains(a.Addr())
		})
	})
}

// PortMapping publishes a range of an endpoint's ports on the host.
type PortMapping struct {
	Proto    plan.L4    `json:"proto"`
	HostIP   netip.Addr `json:"hostIP"`   // the zero value: every address of both families
	HostPort uint16     `json:"hostPort"` // first of the range; chosen by the controller when Dynamic
	Port     uint16     `json:"port"`     // first of the range, in the sandbox
	Count    uint16     `json:"count"`    // length of the range, at least 1
	Dynamic  bool       `json:"dynamic,omitempty"`
	// From are the sources that reach the ports, none inside another; empty for all of both families.
	From []netip.Prefix `json:"from,omitempty"`
	// Cluster has every node that the network is on lead the host ports to the sandbox, and not its own node alone.
	Cluster bool `json:"cluster,omitempty"`
}
