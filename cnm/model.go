package cnm

import (
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/internal/plan"
)

// Phase tells whether a record is in use or on its way out. Deletion is a
// phase: a deleting record renders nothing, and goes once the kernel agrees.
type Phase string

// The phases of every record.
const (
	Active   Phase = "active"
	Deleting Phase = "deleting"
)

// Scope says how far a driver's networks reach.
type Scope string

// The scopes: one node, or every node of the cluster.
const (
	Local   Scope = "local"
	Cluster Scope = "cluster"
)

// Network is a broadcast domain or routed subnet that endpoints join.
type Network struct {
	ID       string            `json:"id"` // 64 hex digits
	Name     string            `json:"name"`
	Driver   string            `json:"driver"`
	Scope    Scope             `json:"scope"`
	Internal bool              `json:"internal,omitempty"`
	IPv4     bool              `json:"ipv4"`
	IPv6     bool              `json:"ipv6"`
	Pools    []Pool            `json:"pools,omitempty"`   // at most one a family today; the driver may refuse more
	Options  map[string]string `json:"options,omitempty"` // as given; decoded once by the driver
	Labels   map[string]string `json:"labels,omitempty"`
	Cluster  *ClusterNetwork   `json:"cluster,omitempty"` // nil for a network of this node alone
	Builtin  bool              `json:"builtin,omitempty"` // bridge, host, none: made at start, never removed
	Created  time.Time         `json:"created"`
	Phase    Phase             `json:"phase"`
	Revision uint64            `json:"-"` // the store's, for compare-and-swap
}

// Pool is one subnet of a network.
type Pool struct {
	Subnet  netip.Prefix          `json:"subnet"`
	Range   netip.Prefix          `json:"range"`   // addresses are handed out of this part; equals Subnet when not given
	Gateway netip.Addr            `json:"gateway"` // the zero value: none
	Aux     map[string]netip.Addr `json:"aux,omitempty"`
	// Blocks are the parts of the subnet that this node gives addresses out of, of a network that
	// shares its subnet with other nodes; a node without any has none to give. Unused in networks of this node alone.
	Blocks []netip.Prefix `json:"blocks,omitempty"`
}

// Sandbox is one network stack that endpoints are attached to.
type Sandbox struct {
	ID        string            `json:"id"`
	NetNS     plan.NetNS        `json:"netns"`          // a pinned namespace; "" with Host
	Host      bool              `json:"host,omitempty"` // the fabric's own namespace: nothing to make, endpoints carry no links
	Container string            `json:"container,omitempty"`
	Labels    map[string]string `json:"labels,omitempty"`
	Phase     Phase             `json:"phase"`
	Revision  uint64            `json:"-"`
}

// Endpoint is a sandbox's membership of a network.
type Endpoint struct {
	ID       string         `json:"id"`
	Network  string         `json:"network"` // network ID
	Sandbox  string         `json:"sandbox"` // sandbox ID
	NetNS    plan.NetNS     `json:"netns"`   // the sandbox's, so that a render needs no second record
	Index    int            `json:"index"`   // position among the sandbox's endpoints; names the link eth<Index>
	Name     string         `json:"name,omitempty"`
	Aliases  []string       `json:"aliases,omitempty"`
	MAC      plan.MAC       `json:"mac"`
	Addrs    []netip.Prefix `json:"addrs,omitempty"` // with the subnet's length, IPv4 first
	Ports    []PortMapping  `json:"ports,omitempty"`
	Priority int            `json:"priority,omitempty"` // gateway priority, -1000…1000: the highest provides the default route
	Phase    Phase          `json:"phase"`
	Revision uint64         `json:"-"`
}

// PortMapping publishes a range of an endpoint's ports on the host.
type PortMapping struct {
	Proto    plan.L4    `json:"proto"`
	HostIP   netip.Addr `json:"hostIP"`   // the zero value: every address of both families
	HostPort uint16     `json:"hostPort"` // first of the range; chosen by the controller when Dynamic
	Port     uint16     `json:"port"`     // first of the range, in the sandbox
	Count    uint16     `json:"count"`    // length of the range, at least 1
	Dynamic  bool       `json:"dynamic,omitempty"`
}
