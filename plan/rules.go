package plan

// Family is an nftables address family.
type Family string

// The families a ruleset can use: inet for IPv4 and IPv6, bridge for frames
// between the ports of a bridge.
const (
	Inet        Family = "inet"
	BridgeTable Family = "bridge"
)

// Ruleset is the content of the tables named [Table]. Chains and sets are owned whole; set
// elements are owned one by one, so that endpoints and networks come and go
// without a rule being touched.
type Ruleset struct {
	Chains   []Chain
	Sets     []Set
	Elements []Element
}

// Chain is an ordered list of rules. It is compared and replaced as a whole.
type Chain struct {
	Family Family
	Name   string
	Base   Base // the zero value: a regular chain, reached by a jump
	Rules  []Rule
}

// Base attaches a chain to a netfilter hook.
type Base struct {
	Type     string // filter, nat or route
	Hook     string // prerouting, input, forward, output, postrouting
	Priority int    // numeric, see nft(8) "priority"
	Policy   string // accept or drop
}

// Field is a selector of a packet's or flow's property, in nft(8) syntax.
type Field string

// The fields a rule can look at.
const (
	IIfName       Field = "iifname"
	OIfName       Field = "oifname"
	NFProto       Field = "meta nfproto"  // ipv4, ipv6
	EtherType     Field = "meta protocol" // ip, ip6, arp
	L4Proto       Field = "meta l4proto"
	IPSaddr       Field = "ip saddr"
	IPDaddr       Field = "ip daddr"
	IP6Saddr      Field = "ip6 saddr"
	IP6Daddr      Field = "ip6 daddr"
	EtherSaddr    Field = "ether saddr"
	ARPSaddrIP    Field = "arp saddr ip"
	ARPSaddrEther Field = "arp saddr ether"
	SPort         Field = "th sport"
	DPort         Field = "th dport"
	TCPFlags      Field = "tcp flags" // syn, fin, rst: any of them
	ICMPv6Type    Field = "icmpv6 type"
	ICMPv6Target  Field = "icmpv6 taddr"   // of neighbour solicitations and advertisements
	CTState       Field = "ct state"       // new, established, related, invalid
	CTStatus      Field = "ct status"      // dnat, snat
	CTDirection   Field = "ct direction"   // original, reply
	FIBDaddrType  Field = "fib daddr type" // local, broadcast, multicast
	// FIBSaddrOIf is whether the route to the source leads out by the link that the packet came by: exists, missing.
	FIBSaddrOIf Field = "fib saddr . iif oif"
	Mark        Field = "meta mark"
)

// Match holds when the concatenation of Fields is (or, with Not, is not) one
// of Values, or an element of the set named Set.
type Match struct {
	Fields []Field
	Not    bool
	Values []string // canonical nft text; more than one is an anonymous set; one field only
	Set    string   // instead of Values
}

// Verdict is what a rule does with what it matched.
type Verdict string

// The verdicts. VMap takes the verdict from a map with verdict data. ClampMSS lowers the largest segment that a TCP
// SYN announces to what fits the MTUs of both directions, and goes on with the next rule; it needs [TCPFlags].
const (
	Accept     Verdict = "accept"
	Drop       Verdict = "drop"
	Return     Verdict = "return"
	Jump       Verdict = "jump"
	VMap       Verdict = "vmap"
	Masquerade Verdict = "masquerade"
	DNAT       Verdict = "dnat"
	SNAT       Verdict = "snat"
	ClampMSS   Verdict = "tcp option maxseg size set rt mtu"
)

// Rule matches packets and decides on them.
type Rule struct {
	Match   []Match
	Counter bool
	Verdict Verdict
	Target  string  // Jump: the chain; VMap, DNAT and SNAT: the map
	Key     []Field // VMap, DNAT and SNAT: what is looked up
	Addr    string  // DNAT and SNAT: ip or ip6, the family of the map's addresses
}

// DataType is the nft type of one part of a set's key or data.
type DataType string

// The data types of sets and maps.
const (
	TypeIfName    DataType = "ifname"
	TypeIPv4      DataType = "ipv4_addr"
	TypeIPv6      DataType = "ipv6_addr"
	TypeEther     DataType = "ether_addr"
	TypeInetProto DataType = "inet_proto"
	TypePort      DataType = "inet_service"
	TypeVerdict   DataType = "verdict"
)

// Set is a set, or with Data a map. Elements are not part of it.
type Set struct {
	Family   Family
	Name     string
	KeyTypes []DataType
	Data     []DataType
	Interval bool // key parts may be prefixes or ranges
}

// Element is a member of a set, owned by a scope (kept as the element's
// comment). Keys and Data hold one canonical text a part: "10.1.0.0/16",
// "vlb-3f2a", "tcp", "8000-8010", "02:42:0a:01:00:02", "jump guard".
type Element struct {
	Family Family
	Set    string
	Keys   []string // one a key type of the set
	Data   []string // one a data type of the set
	Owner  Owner
}
