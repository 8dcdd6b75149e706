package plan

import (
	"net/netip"
	"strconv"
)

// LinkKind is the rtnetlink kind of a link (IFLA_INFO_KIND).
type LinkKind string

// The link kinds a plan can hold. Loopback links exist in every namespace and
// are only ever modified.
const (
	Bridge  LinkKind = "bridge"
	Veth    LinkKind = "veth"
	VXLAN   LinkKind = "vxlan"
	TUN     LinkKind = "tun"
	VLAN    LinkKind = "vlan"
	Macvlan LinkKind = "macvlan"
	IPvlan  LinkKind = "ipvlan"
	// IFB is a link that what comes in by others goes through, to be held to a rate: see [Redirect].
	IFB      LinkKind = "ifb"
	Loopback LinkKind = "loopback"
	// Given is a link of any kind that somebody else has made for a sandbox, see GivenLink.
	Given LinkKind = "given"
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
	NS    NetNS
	Name  string // at most 15 bytes (IFNAMSIZ-1)
	Owner Owner  // the owner mark, kept as the link's alias
	Kind  LinkKind
	MAC   MAC
	MTU   int // bytes; 0 leaves the kernel's choice
	// GSO is how many bytes of IPv4 TCP hands to the link at once, and to the other end of a pair: more than
	// [PlainGSO], or 0, which is no more than that. A kernel that cannot is not asked again.
	GSO    int
	Up     bool
	Master string      // the bridge this link is a port of, in the same namespace
	Port   BridgePort  // meaningful with Master
	Peer   VethPeer    // meaningful for Veth
	VXLAN  VXLANDevice // meaningful for VXLAN
	Lower  Lower       // meaningful where OnLower
	// Querier has a Bridge ask who listens to which multicast group, and send frames to a group to those alone.
	// Without one a bridge sends them everywhere.
	Querier bool
	Given   GivenLink // meaningful for Given
}

// PlainGSO is the most that an IPv4 header tells the length of, and one.
const PlainGSO = 1 << 16

// DifferentGSO is the GSO of an observed pair whose ends do not have the same.
const DifferentGSO = -1

// sameGSO reports whether what a link has is what it should; 0 is what a kernel has that knows no other.
func sameGSO(want, have int) bool { return have == 0 || max(want, PlainGSO) == have }

// GivenLink is a link that somebody else makes in the fabric's namespace. To make it is to move it to where it is
// wanted, by the name it is to have there. It is never one of the host's own, or of ours: those are refused.
type GivenLink struct {
	Name string // in the fabric's namespace
	// After is the greatest index of a link there was before it was asked for: the link's is greater. It is not
	// observed.
	After uint32
}

// Lower is what a link sits on, and how. The kernel changes neither later: another value is another link.
type Lower struct {
	Link string // in the fabric's namespace, whatever the namespace of the link on it
	Tag  uint16 // of a VLAN (IEEE 802.1Q): 1 to 4094
	Mode string // of a Macvlan: one of MacvlanModes; of an IPvlan: one of IPvlanModes
	Flag string // of an IPvlan: one of IPvlanFlags
}

// OnLower reports whether links of that kind sit on another one.
func (k LinkKind) OnLower() bool { return k == VLAN || k == Macvlan || k == IPvlan }

// IPvlanModes are the layers that links on the same lower one share it at.
func IPvlanModes() []string { return []string{"l2", "l3", "l3s"} }

// IPvlanFlags are what links on the same lower one may be to each other.
func IPvlanFlags() []string { return []string{"bridge", "private", "vepa"} }

// MacvlanModes are what links on the same lower one may be to each other.
func MacvlanModes() []string { return []string{"bridge", "private", "vepa", "passthru"} }

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

// BridgePort holds the flags of a link as a port of its bridge (IFLA_BRPORT_*).
type BridgePort struct {
	Isolated bool // no frames to or from other isolated ports
	Hairpin  bool // frames may leave by the port they came in
	// NoLearning keeps the bridge from learning what is behind the port: what is there has an [FDBEntry].
	NoLearning bool
	NoFlood    bool // unicast frames to addresses that the bridge does not know do not leave by the port
	Groups     bool // all multicast frames leave by the port, whoever listens behind it
}

// VethPeer is the other end of a veth pair. It has the MTU, the scope mark and the
// administrative state of the pair's first end.
type VethPeer struct {
	NS   NetNS
	Name string
	MAC  MAC
	// Loose is an end that somebody else takes away once the pair is made, and may rename and change: it is made, with
	// all it should have, and never looked for. It is not observed.
	Loose bool
}

// Key is the name of the link, or of the first end of a veth pair, in its namespace.
func (l Link) Key() string { return in(l.NS, l.Name) }

func (l Link) String() string {
	parts := []string{"link", l.Name, string(l.Kind)}
	if l.Kind == VXLAN {
		parts = append(parts, l.VXLAN.String())
	}
	if l.Querier {
		parts = append(parts, "querier")
	}
	if l.Lower != (Lower{}) {
		parts = append(parts, l.Lower.String())
	}
	if l.Kind == Given {
		parts = append(parts, "from", l.Given.Name)
	}
	if m := l.MAC.String(); m != "" {
		parts = append(parts, "address", m)
	}
	if l.MTU != 0 {
		parts = append(parts, "mtu", strconv.Itoa(l.MTU))
	}
	if l.GSO != 0 {
		parts = append(parts, "gso_ipv4_max_size", strconv.Itoa(l.GSO))
	}
	if l.Master != "" {
		parts = append(parts, "master", l.Master)
		parts = append(parts, l.Port.words()...)
	}
	if l.Up {
		parts = append(parts, "up")
	} else {
		parts = append(parts, "down")
	}
	if l.Kind == Veth {
		parts = append(parts, "peer", l.Peer.String())
	}
	if l.Owner != "" {
		parts = append(parts, "alias", AliasPrefix+string(l.Owner))
	}
	return words(l.NS, parts...)
}

// words are the flags as a part of the port's line.
func (p BridgePort) words() (out []string) {
	for _, flag := range []struct {
		set  bool
		text string
	}{{p.Isolated, "isolated"}, {p.Hairpin, "hairpin"}, {p.NoLearning, "learning off"}, {p.NoFlood, "flood off"},
		{p.Groups, "groups all"}} {
		if flag.set {
			out = append(out, flag.text)
		}
	}
	return out
}

// String is the peer as a part of its link's line.
func (p VethPeer) String() string {
	text := in(p.NS, p.Name)
	if m := p.MAC.String(); m != "" {
		text += " address " + m
	}
	if p.Loose {
		text += " loose"
	}
	return text
}

// String is what the link sits on as a part of its line.
func (o Lower) String() string {
	text := "on " + o.Link
	if o.Tag != 0 {
		text += " id " + strconv.Itoa(int(o.Tag))
	}
	if o.Mode != "" {
		text += " mode " + o.Mode
	}
	if o.Flag != "" {
		text += " " + o.Flag
	}
	return text
}

// peerKey is the key a veth's other end would have as a link.
func (l Link) peerKey() string { return in(l.Peer.NS, l.Peer.Name) }

func (l Link) about() about { return about{kind: "link", ns: l.NS, link: l.Name, owner: l.Owner} }

// String is the device as a part of its link's line.
func (v VXLANDevice) String() string {
	text := "id " + strconv.FormatUint(uint64(v.VNI), 10)
	if v.Local.IsValid() {
		text += " local " + v.Local.String()
	}
	text += " dstport " + strconv.Itoa(int(v.Port))
	if v.Proxy {
		text += " proxy"
	}
	return text
}
