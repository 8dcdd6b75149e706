package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// OwnedGroup is the group (IFLA_GROUP) of all our links. A link is made with it,
// and gets its alias a moment later: should a crash come between, the
// group tells whose it is. The number is the text "vlom", which nobody picks by chance.
const OwnedGroup = 0x766c6f6d

// PeerMark follows the alias of a veth pair's second end, so that an
// observation knows which end is which.
const PeerMark = " peer"

// GivenMark follows the alias of a link that somebody else has made, and the name that it had comes after it.
const GivenMark = " given "

// Attributes and values of linux/if_link.h, linux/veth.h and linux/inetdevice.h
// that x/sys does not name.
const (
	vethInfoPeer        = 1  // VETH_INFO_PEER
	inet6AddrGenMode    = 8  // IFLA_INET6_ADDR_GEN_MODE
	addrGenModeNone     = 1  // IN6_ADDR_GEN_MODE_NONE
	inetConf            = 1  // IFLA_INET_CONF
	promoteSecondaries  = 20 // IPV4_DEVCONF_PROMOTE_SECONDARIES
	brportCost          = 3  // IFLA_BRPORT_COST
	brportMode          = 4  // IFLA_BRPORT_MODE, the hairpin flag
	brportLearning      = 8  // IFLA_BRPORT_LEARNING
	brportFlood         = 9  // IFLA_BRPORT_UNICAST_FLOOD
	brportRouter        = 25 // IFLA_BRPORT_MULTICAST_ROUTER
	brportIsolated      = 33 // IFLA_BRPORT_ISOLATED
	routerLearned       = 1  // MDB_RTR_TYPE_TEMP_QUERY: groups go to a port that a router was heard by
	routerAlways        = 2  // MDB_RTR_TYPE_PERM
	filterSkipStats     = 1 << 3
	MinIPv6MTU          = 1280
	sizeofIfInfo        = unix.SizeofIfInfomsg
	DefaultEthernet     = 1500
	arphrdLoopback      = unix.ARPHRD_LOOPBACK
	maxLinkName         = unix.IFNAMSIZ - 1
	createFlags         = netlink.Create | netlink.Excl
	createOrReplaceFlag = netlink.Create | netlink.Replace
)

// LinkMsg starts a message about the link of the given index, or named by an attribute.
func LinkMsg(index uint32, flags, change uint32) *attr.Builder {
	a := attr.After(sizeofIfInfo)
	binary.NativeEndian.PutUint32(a.B[4:], index)
	binary.NativeEndian.PutUint32(a.B[8:], flags)
	binary.NativeEndian.PutUint32(a.B[12:], change)
	return a
}

func CheckLinkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxLinkName ||
		strings.ContainsAny(name, "/: \t\n\x00") {
		return fmt.Errorf("link name %q: want 1 to %d bytes without slash, colon or space", name, maxLinkName)
	}
	return nil
}

// GetLink asks for one link by its name, and hands its index on.
func GetLink(name string, reply func([]byte) error) Request {
	a := LinkMsg(0, 0, 0)
	a.Str(unix.IFLA_IFNAME, name)
	a.U32(unix.IFLA_EXT_MASK, filterSkipStats)
	return Request{Kind: unix.RTM_GETLINK, Data: a.B, Reply: reply}
}

// peerData describes the other end of a veth pair.
func peerData(a *attr.Builder, l plan.Link, ns int) {
	a.Nest(vethInfoPeer, func(a *attr.Builder) {
		a.B = append(a.B, make([]byte, sizeofIfInfo)...)
		a.Str(unix.IFLA_IFNAME, l.Peer.Name)
		Identity(a, l.Peer.MAC, l.MTU)
		if ns >= 0 {
			a.U32(unix.IFLA_NET_NS_FD, uint32(ns))
		}
	})
}

// NewLink is the message that makes a link, and for a veth pair both its ends
// at once, each in its place: moving a link later would wait for an RCU grace
// period under the lock of all routing netlink. master and lower are the indexes of the links that it belongs to,
// 0 for none. ns is where the other end of a pair goes, or the link that sits on another; negative: where the message
// is sent.
func NewLink(l plan.Link, master, lower uint32, ns int) Request {
	a := LinkMsg(0, 0, 0)
	a.Str(unix.IFLA_IFNAME, l.Name)
	Identity(a, l.MAC, firstMTU(l))
	if master != 0 {
		a.U32(unix.IFLA_MASTER, master)
	}
	if lower != 0 {
		a.U32(unix.IFLA_LINK, lower)
		if ns >= 0 {
			a.U32(unix.IFLA_NET_NS_FD, uint32(ns))
		}
	}
	a.Nest(unix.IFLA_LINKINFO, func(a *attr.Builder) {
		a.Str(unix.IFLA_INFO_KIND, string(l.Kind))
		if l.Kind == plan.VXLAN {
			a.Nest(unix.IFLA_INFO_DATA, func(a *attr.Builder) { vxlanData(a, l.VXLAN) })
		}
		switch l.Kind {
		case plan.Bridge:
			a.Nest(unix.IFLA_INFO_DATA, func(a *attr.Builder) { bridgeData(a, l) })
		case plan.VLAN, plan.Macvlan, plan.IPvlan:
			a.Nest(unix.IFLA_INFO_DATA, func(a *attr.Builder) { lowerData(a, l) })
		case plan.Veth:
			a.Nest(unix.IFLA_INFO_DATA, func(a *attr.Builder) { peerData(a, l, ns) })
		}
	})
	return Request{Kind: unix.RTM_NEWLINK, flags: createFlags, Data: a.B}
}

// maxLearned is how many addresses a bridge learns from its ports, where it learns at all: what is behind them may send
// from any number. Kernels before 6.7 know no limit and ignore it.
const maxLearned = 8192

// answerTime is how long those asked for their groups may take, in hundredths of a second. The kernel's own choice is
// ten seconds, in which a port that has just joined a bridge gets no neighbour solicitations.
const answerTime = 100

func bridgeData(a *attr.Builder, l plan.Link) {
	a.U32(unix.IFLA_BR_FDB_MAX_LEARNED, maxLearned)
	querier(a, l)
}

// querier has a bridge ask for groups, or not.
func querier(a *attr.Builder, l plan.Link) {
	a.U8(unix.IFLA_BR_MCAST_QUERIER, bit(l.Querier))
	if l.Querier {
		a.Bytes(unix.IFLA_BR_MCAST_QUERY_RESPONSE_INTVL, binary.NativeEndian.AppendUint64(nil, answerTime))
	}
}

// ChangeBridge sets what a bridge was made with and can change.
func ChangeBridge(l plan.Link) Request {
	return ChangeLink(l.Name, 0, 0, func(a *attr.Builder) {
		a.Nest(unix.IFLA_LINKINFO, func(a *attr.Builder) {
			a.Str(unix.IFLA_INFO_KIND, string(plan.Bridge))
			a.Nest(unix.IFLA_INFO_DATA, func(a *attr.Builder) { querier(a, l) })
		})
	})
}

// A bridge takes the MTU of its ports until somebody sets another one than it
// has. So it is made with one next to what it should have and then given that, lest
// a port changes it later; without a wish it gets the kernel's first choice.
func BridgeMTU(l plan.Link) int {
	if l.MTU == 0 {
		return DefaultEthernet
	}
	return l.MTU
}

func firstMTU(l plan.Link) int {
	if l.Kind == plan.Bridge {
		return BridgeMTU(l) ^ 1
	}
	return l.MTU
}

func Identity(a *attr.Builder, mac plan.MAC, mtu int) {
	if mac != (plan.MAC{}) {
		a.Bytes(unix.IFLA_ADDRESS, mac[:])
	}
	if mtu != 0 {
		a.U32(unix.IFLA_MTU, uint32(mtu))
	}
	a.U32(unix.IFLA_GROUP, OwnedGroup)
}

// MarkLink sets the owner's mark, and what the kernel takes from an existing
// link only: no link-local addresses of its own making where the link can have IPv6 ones, and IPv4
// addresses that stay when another one of their subnet goes.
func MarkLink(a *attr.Builder, owner plan.Owner, suffix string, ipv6 bool) {
	a.Bytes(unix.IFLA_IFALIAS, []byte(plan.AliasPrefix+string(owner)+suffix))
	a.Nest(unix.IFLA_AF_SPEC, func(a *attr.Builder) {
		a.Nest(unix.AF_INET, func(a *attr.Builder) {
			a.Nest(inetConf, func(a *attr.Builder) { a.U32(promoteSecondaries, 1) })
		})
		if ipv6 {
			a.Nest(unix.AF_INET6, func(a *attr.Builder) { a.U8(inet6AddrGenMode, addrGenModeNone) })
		}
	})
}

// PortFlags sets the flags of a link as a bridge port.
func PortFlags(a *attr.Builder, p plan.BridgePort) {
	a.Nest(unix.IFLA_LINKINFO, func(a *attr.Builder) {
		a.Str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		a.Nest(unix.IFLA_INFO_SLAVE_DATA, func(a *attr.Builder) {
			a.U8(brportMode, bit(p.Hairpin))
			a.U8(brportLearning, bit(!p.NoLearning))
			a.U8(brportFlood, bit(!p.NoFlood))
			a.U8(brportRouter, routerLearned+bit(p.Groups))
			a.U8(brportIsolated, bit(p.Isolated))
		})
	})
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// ChangeLink is a message about an existing link, by name.
func ChangeLink(name string, flags, change uint32, f func(*attr.Builder)) Request {
	a := LinkMsg(0, flags, change)
	a.Str(unix.IFLA_IFNAME, name)
	if f != nil {
		f(a)
	}
	return Request{Kind: unix.RTM_NEWLINK, Data: a.B}
}

// SetGSO has TCP hand more to a link at once, or as much as ever. Kernels before 6.3 ignore it.
func SetGSO(name string, size int) Request {
	r := ChangeLink(name, 0, 0, func(a *attr.Builder) {
		a.U32(unix.IFLA_GSO_IPV4_MAX_SIZE, uint32(max(size, plan.PlainGSO)))
	})
	r.Settled = []unix.Errno{unix.EINVAL} // more than the device takes
	return r
}

// MoveLink is the message that moves a link into another namespace, by the name of l and with its mark.
func MoveLink(index uint32, ns int, l plan.Link, suffix string) Request {
	a := LinkMsg(index, 0, unix.IFF_UP)
	a.U32(unix.IFLA_NET_NS_FD, uint32(ns))
	a.Str(unix.IFLA_IFNAME, l.Name)
	a.U32(unix.IFLA_GROUP, OwnedGroup)
	a.Bytes(unix.IFLA_IFALIAS, []byte(plan.AliasPrefix+string(l.Owner)+suffix))
	return Request{Kind: unix.RTM_NEWLINK, Data: a.B}
}

func UpFlag(up bool) uint32 {
	if up {
		return unix.IFF_UP
	}
	return 0
}

// Link is an observed end of a link.
type Link struct {
	Index, PeerIndex uint32
	NSID             int32 // of the peer's namespace, -1 when it is this one
	MasterIndex      uint32
	group            uint32
	Name, Alias      string
	Kind             plan.LinkKind
	MAC              plan.MAC
	MTU              int
	GSO              int // as of [plan.Link], never less than [plan.PlainGSO]; 0 where the kernel has no more
	limit            int // of GSO
	Up               bool
	Port             plan.BridgePort
	member           bool // a port that we have made of somebody else's link
	VXLAN            plan.VXLANDevice
	odd              bool // a VXLAN device that is not as we make them
	NS               plan.NetNS
	Lower            plan.Lower // without the link, whose index is PeerIndex
	Querier          bool
}

// Owner is the scope the alias names. A link of ours that has no alias yet has
// no scope either.
func (l *Link) Owner() (scope plan.Owner, peer, ok bool) {
	if l.Alias == "" {
		return "", false, l.group == OwnedGroup
	}
	s, ok := strings.CutPrefix(l.Alias, plan.AliasPrefix)
	s, _, _ = strings.Cut(s, GivenMark)
	s, peer = strings.CutSuffix(s, PeerMark)
	return plan.Owner(s), peer, ok
}

// Given is the name that a link of ours had which somebody else has made, "" for others.
func (l *Link) Given() string {
	_, name, _ := strings.Cut(l.Alias, GivenMark)
	if !strings.HasPrefix(l.Alias, plan.AliasPrefix) {
		return ""
	}
	return name
}

var ErrShort = errors.New("netlink message is too short")

func ParseLink(b []byte) (Link, error) {
	if len(b) < sizeofIfInfo {
		return Link{}, ErrShort
	}
	l := Link{
		NSID:  -1,
		Index: attr.U32(b[4:]),
		Up:    attr.U32(b[8:])&unix.IFF_UP != 0,
	}
	if binary.NativeEndian.Uint16(b[2:]) == arphrdLoopback {
		l.Kind = plan.Loopback
	}
	err := attr.Each(b[sizeofIfInfo:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.Name = attr.Text(v)
		case unix.IFLA_IFALIAS:
			l.Alias = attr.Text(v)
		case unix.IFLA_MTU:
			l.MTU = int(attr.U32(v))
		case unix.IFLA_GSO_IPV4_MAX_SIZE:
			l.GSO = max(int(attr.U32(v)), plan.PlainGSO)
		case unix.IFLA_TSO_MAX_SIZE:
			l.limit = int(attr.U32(v))
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.MAC) {
				l.MAC = plan.MAC(v)
			}
		case unix.IFLA_MASTER:
			l.MasterIndex = attr.U32(v)
		case unix.IFLA_GROUP:
			l.group = attr.U32(v)
		case unix.IFLA_LINK:
			l.PeerIndex = attr.U32(v)
		case unix.IFLA_LINK_NETNSID:
			l.NSID = int32(attr.U32(v))
		case unix.IFLA_LINKINFO:
			return l.parseInfo(v)
		}
		return nil
	})
	if l.limit <= plan.PlainGSO {
		l.GSO = 0
	}
	return l, err
}

func (l *Link) parseInfo(b []byte) error {
	return attr.Each(b, func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.Kind = plan.LinkKind(attr.Text(v))
		case unix.IFLA_INFO_DATA:
			switch l.Kind {
			case plan.Bridge:
				return l.parseBridge(v)
			case plan.VXLAN:
				return l.parseVXLAN(v)
			case plan.TUN:
				return l.parseTUN(v)
			case plan.VLAN, plan.Macvlan, plan.IPvlan:
				return l.parseLower(v)
			}
		case unix.IFLA_INFO_SLAVE_DATA:
			return attr.Each(v, func(kind uint16, v []byte) error {
				switch kind {
				case brportCost:
					l.member = attr.U32(v) == memberCost
				case brportMode:
					l.Port.Hairpin = attr.U8(v) != 0
				case brportLearning:
					l.Port.NoLearning = attr.U8(v) == 0
				case brportFlood:
					l.Port.NoFlood = attr.U8(v) == 0
				case brportRouter:
					l.Port.Groups = attr.U8(v) == routerAlways
				case brportIsolated:
					l.Port.Isolated = attr.U8(v) != 0
				}
				return nil
			})
		}
		return nil
	})
}

func (l *Link) parseBridge(b []byte) error {
	return attr.Each(b, func(kind uint16, v []byte) error {
		if kind == unix.IFLA_BR_MCAST_QUERIER {
			l.Querier = attr.U8(v) != 0
		}
		return nil
	})
}

// DumpLinks reads every link of the namespace.
func (c *Conn) DumpLinks(each func(Link)) error {
	h := LinkMsg(0, 0, 0)
	h.U32(unix.IFLA_EXT_MASK, filterSkipStats)
	return c.Dump(unix.RTM_GETLINK, h.B, func(b []byte) error {
		l, err := ParseLink(b)
		if err == nil {
			each(l)
		}
		return err
	})
}

// tunTypeTUN is the value of IFLA_TUN_TYPE of a TUN link; TAP has another.
const tunTypeTUN = unix.IFF_TUN

// kindTAP is no kind of ours: a link of that kind is not what is wanted.
const kindTAP plan.LinkKind = "tap"

func (l *Link) parseTUN(b []byte) error {
	return attr.Each(b, func(kind uint16, value []byte) error {
		if kind == unix.IFLA_TUN_TYPE && attr.U8(value) != tunTypeTUN {
			l.Kind = kindTAP
		}
		return nil
	})
}
