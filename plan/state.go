package plan

// Protocol is the routing protocol number (rtm_protocol, see rtnetlink(7))
// that marks every route vethloom adds. Routes with another number are never
// touched.
const Protocol = 117

// AliasPrefix starts the alias (IFLA_IFALIAS) of every link vethloom owns; the
// rest of the alias is the link's [Owner].
const AliasPrefix = "vethloom:"

// Table is the name of the nftables tables vethloom owns, one per [Family].
const Table = "vethloom"

// Owner is the unit of reconciliation and of ownership: what is rendered,
// remembered and removed together. Examples: "fabric", "network/3f2a…",
// "endpoint/91bc…".
type Owner string

// NetNS names a network namespace. The empty name is the fabric's own
// namespace, the one netd runs in; any other is the name of a namespace pinned
// under the run directory (<run>/netns/<name>).
type NetNS string

// State is a set of kernel objects, in no particular order. The zero value is
// the empty state.
type State struct {
	Namespaces  []Namespace
	Links       []Link
	Members     []MemberLink
	Addrs       []Addr
	Routes      []Route
	Policies    []PolicyRule
	Neighs      []Neigh
	FDB         []FDBEntry
	Shapers     []Shaper
	Redirects   []Redirect
	Rules       Ruleset
	Sysctls     []Sysctl
	Ports       []PortReservation
	Accepts     []ForwardAccept
	Leftovers   []Leftover
	Tunnels     []Tunnel
	TunnelPeers []TunnelPeer
	NameServers []NameServer
	NameZones   []NameZone
	NameMembers []NameMember
	Fast        Fast
}
