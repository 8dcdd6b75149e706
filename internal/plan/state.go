package plan

import "net/netip"

// Protocol is the routing protocol number (rtm_protocol, see rtnetlink(7))
// that marks every route vethloom adds. Routes with another number are never
// touched.
const Protocol = 117

// AliasPrefix starts the alias (IFLA_IFALIAS) of every link vethloom owns; the
// rest of the alias is the link's [Scope].
const AliasPrefix = "vethloom:"

// Table is the name of the nftables tables vethloom owns, one per [Family].
const Table = "vethloom"

// Scope is the unit of reconciliation and of ownership: what is rendered,
// remembered and removed together. Examples: "fabric", "network/3f2a…",
// "endpoint/91bc…".
type Scope string

// NetNS names a network namespace. The empty name is the fabric's own
// namespace, the one netd runs in; any other is the name of a namespace pinned
// under the run directory (<run>/netns/<name>).
type NetNS string

// State is a set of kernel objects, in no particular order. The zero value is
// the empty state.
type State struct {
	Namespaces []Namespace
	Links      []Link
	Addrs      []Addr
	Routes     []Route
	Neighs     []Neigh
	FDB        []FDBEntry
	Rules      Ruleset
	Sysctls    []Sysctl
	Ports      []PortHold
	Accepts    []ForeignAccept
	Tunnels    []Tunnel
	Remotes    []Remote
}

// Namespace is a pinned network namespace. Its loopback link is brought up
// when it is created.
type Namespace struct {
	Name NetNS
}

// LinkKind is the rtnetlink kind of a link (IFLA_INFO_KIND).
type LinkKind string

// The link kinds a plan can hold. Loopback links exist in every namespace and
// are only ever modified.
const (
	Bridge   LinkKind = "bridge"
	Veth     LinkKind = "veth"
	VXLAN    LinkKind = "vxlan"
	TUN      LinkKind = "tun"
	Loopback LinkKind = "loopback"
)

// MAC is an EUI-48 hardware address; the zero value leaves the choice to the
// kernel and never differs from what is observed.
type MAC [6]byte

// String renders the colon-separated form, or "" for the zero value.
func (m MAC) String() string {
	if m == (MAC{}) {
		return ""
	}
	const digits = "0123456789abcdef"
	out := make([]byte, 0, 3*len(m))
	for _, b := range m {
		out = append(out, digits[b>>4], digits[b&0xf], ':')
	}
	return string(out[:len(out)-1])
}

// Link is a network device. A veth pair is one Link: the end named by NS and
// Name, with the other end in Peer.
type Link struct {
	NS     NetNS
	Name   string // at most 15 bytes (IFNAMSIZ-1)
	Scope  Scope  // the owner mark, kept as the link's alias
	Kind   LinkKind
	MAC    MAC
	MTU    int // bytes; 0 leaves the kernel's choice
	Up     bool
	Master string      // the bridge this link is a port of, in the same namespace
	Port   BridgePort  // meaningful with Master
	Peer   VethPeer    // meaningful for Veth
	VXLAN  VXLANDevice // meaningful for VXLAN
}

// VXLANDevice is what a VXLAN link (RFC 7348) is made with. The kernel changes none of
// it later: another value is another link, whose entries start anew. Learning is
// always off. UDP checksums are off on IPv4, as RFC 7348 section 5 asks, and on on IPv6.
type VXLANDevice struct {
	VNI   uint32
	Port  uint16     // UDP
	Local netip.Addr // the outer source address; its family is that of every FDBEntry's Dst
	// Proxy answers ARP and neighbour solicitations from the link's own neighbour entries,
	// and lets none of them through (IFLA_VXLAN_PROXY).
	Proxy bool
}

// Tunnel carries a [TUN] link's packets over UDP, each packet a datagram. Like the sockets of
// a [PortHold] it goes with this process, while the link stays; the next pass makes it again.
type Tunnel struct {
	Link   string         // the TUN link, in the fabric's namespace
	Local  netip.Addr     // what the socket is bound to
	Port   uint16         // UDP, here and on every remote
	Inside []netip.Prefix // the sources that this end may send, and the destinations it takes in
	Plain  bool           // without offloads
}

// Remote is the far end of a [Tunnel] that a prefix is reached by. Packets from Dst must
// have their source in one of its prefixes.
type Remote struct {
	Link   string
	Prefix netip.Prefix // masked
	Dst    netip.Addr
}

// BridgePort holds the flags of a link as a port of its bridge (IFLA_BRPORT_*).
type BridgePort struct {
	Isolated bool // no frames to or from other isolated ports
	Hairpin  bool // frames may leave by the port they came in
}

// VethPeer is the other end of a veth pair. It has the MTU, the scope mark and the
// administrative state of the pair's first end.
type VethPeer struct {
	NS   NetNS
	Name string
	MAC  MAC
}

// Addr is an address on an owned link. IPv6 addresses are added without
// duplicate address detection (IFA_F_NODAD, RFC 4862 section 5.4): the
// fabric's own allocator is what makes them unique.
type Addr struct {
	NS     NetNS
	Link   string
	Prefix netip.Prefix // host bits kept: 10.1.0.5/16
}

// RouteType is the rtnetlink route type (rtm_type).
type RouteType string

// The route types a plan can hold. The zero value is unicast.
const (
	Unicast   RouteType = ""
	Local     RouteType = "local"
	Blackhole RouteType = "blackhole"
)

// Route is a route with protocol number [Protocol].
type Route struct {
	NS     NetNS
	Table  uint32 // 0 is the main table, 255 the local one
	Type   RouteType
	Dst    netip.Prefix // masked; 0.0.0.0/0 and ::/0 are the default routes
	Via    netip.Addr   // the zero value: directly connected
	Link   string
	Src    netip.Addr // preferred source, optional
	Metric uint32     // 0: 0 for IPv4, 1024 for IPv6, as the kernel has it
	OnLink bool       // the next hop is on the link whatever the addresses say
	MTU    int        // bytes; 0: none
}

// Neigh is a permanent neighbour entry.
type Neigh struct {
	NS   NetNS
	Link string
	IP   netip.Addr
	MAC  MAC
}

// FDBEntry is a permanent forwarding entry of a VXLAN device.
type FDBEntry struct {
	NS   NetNS
	Link string
	MAC  MAC
	Dst  netip.Addr // the remote tunnel endpoint
}

// Sysctl is a value under /proc/sys/net of one namespace. It has no owner
// mark: it is set when wanted and left as it is when no longer wanted.
type Sysctl struct {
	NS    NetNS
	Path  string // slash-separated below net/: "ipv4/ip_forward"
	Value string
}

// L4 is a transport protocol.
type L4 string

// The transports a port can be published for.
const (
	TCP  L4 = "tcp"
	UDP  L4 = "udp"
	SCTP L4 = "sctp"
)

// PortHold is a range of host ports held by bound sockets of this process, so
// that no other process can take them and a conflict is an error at once. The
// sockets go with the process; the next pass binds them again.
type PortHold struct {
	Scope Scope // the owner; another owner's hold of the same port is a conflict
	NS    NetNS
	Addr  netip.Addr // 0.0.0.0 and :: are every address of their family
	Proto L4
	From  uint16
	To    uint16 // inclusive, at least From
}
