package kern

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// ownedGroup is the group (IFLA_GROUP) of all our links. A link is made with it,
// and gets its alias a moment later: should a crash come between, the
// group tells whose it is. The number is the text "vlom", which nobody picks by chance.
const ownedGroup = 0x766c6f6d

// peerMark follows the alias of a veth pair's second end, so that an
// observation knows which end is which.
const peerMark = " peer"

// Attributes and values of linux/if_link.h, linux/veth.h and linux/inetdevice.h
// that x/sys does not name.
const (
	vethInfoPeer        = 1  // VETH_INFO_PEER
	inet6AddrGenMode    = 8  // IFLA_INET6_ADDR_GEN_MODE
	addrGenModeNone     = 1  // IN6_ADDR_GEN_MODE_NONE
	inetConf            = 1  // IFLA_INET_CONF
	promoteSecondaries  = 20 // IPV4_DEVCONF_PROMOTE_SECONDARIES
	brportMode          = 4  // IFLA_BRPORT_MODE, the hairpin flag
	brportIsolated      = 33 // IFLA_BRPORT_ISOLATED
	filterSkipStats     = 1 << 3
	minIPv6MTU          = 1280
	sizeofIfInfo        = unix.SizeofIfInfomsg
	defaultEthernet     = 1500
	arphrdLoopback      = unix.ARPHRD_LOOPBACK
	maxLinkName         = unix.IFNAMSIZ - 1
	createFlags         = netlink.Create | netlink.Excl
	createOrReplaceFlag = netlink.Create | netlink.Replace
)

// linkMsg starts a message about the link of the given index, or named by an attribute.
func linkMsg(index uint32, flags, change uint32) *builder {
	a := header(sizeofIfInfo)
	binary.NativeEndian.PutUint32(a.b[4:], index)
	binary.NativeEndian.PutUint32(a.b[8:], flags)
	binary.NativeEndian.PutUint32(a.b[12:], change)
	return a
}

func checkLinkName(name string) error {
	if name == "" || name == "." || name == ".." || len(name) > maxLinkName || strings.ContainsAny(name, "/: \t\n\x00") {
		return fmt.Errorf("link name %q: want 1 to %d bytes without slash, colon or space", name, maxLinkName)
	}
	return nil
}

// getLink asks for one link by its name, and hands its index on.
func getLink(name string, reply func([]byte) error) request {
	a := linkMsg(0, 0, 0)
	a.str(unix.IFLA_IFNAME, name)
	a.u32(unix.IFLA_EXT_MASK, filterSkipStats)
	return request{kind: unix.RTM_GETLINK, data: a.b, reply: reply}
}

// newLink is the message that makes a link, and for a veth pair both its ends
// at once, each in its place: moving a link later would wait for an RCU grace
// period under the lock of all routing netlink.
func newLink(l plan.Link, master uint32, peerNS int) request {
	a := linkMsg(0, 0, 0)
	a.str(unix.IFLA_IFNAME, l.Name)
	identity(a, l.MAC, firstMTU(l))
	if master != 0 {
		a.u32(unix.IFLA_MASTER, master)
	}
	a.nest(unix.IFLA_LINKINFO, func(a *builder) {
		a.str(unix.IFLA_INFO_KIND, string(l.Kind))
		if l.Kind == plan.VXLAN {
			a.nest(unix.IFLA_INFO_DATA, func(a *builder) { vxlanData(a, l.VXLAN) })
		}
		if l.Kind != plan.Veth {
			return
		}
		a.nest(unix.IFLA_INFO_DATA, func(a *builder) {
			a.nest(vethInfoPeer, func(a *builder) {
				a.b = append(a.b, make([]byte, sizeofIfInfo)...)
				a.str(unix.IFLA_IFNAME, l.Peer.Name)
				identity(a, l.Peer.MAC, l.MTU)
				if peerNS >= 0 {
					a.u32(unix.IFLA_NET_NS_FD, uint32(peerNS))
				}
			})
		})
	})
	return request{kind: unix.RTM_NEWLINK, flags: createFlags, data: a.b}
}

// A bridge takes the MTU of its ports until somebody sets another one than it
// has. So it is made with one next to what it should have and then given that, lest
// a port changes it later; without a wish it gets the kernel's first choice.
func bridgeMTU(l plan.Link) int {
	if l.MTU == 0 {
		return defaultEthernet
	}
	return l.MTU
}

func firstMTU(l plan.Link) int {
	if l.Kind == plan.Bridge {
		return bridgeMTU(l) ^ 1
	}
	return l.MTU
}

func identity(a *builder, mac plan.MAC, mtu int) {
	if mac != (plan.MAC{}) {
		a.bytes(unix.IFLA_ADDRESS, mac[:])
	}
	if mtu != 0 {
		a.u32(unix.IFLA_MTU, uint32(mtu))
	}
	a.u32(unix.IFLA_GROUP, ownedGroup)
}

// markLink sets the owner's mark, and what the kernel takes from an existing
// link only: no link-local addresses of its own making, and IPv4
// addresses that stay when another one of their subnet goes.
func (k *Kernel) markLink(a *builder, scope plan.Scope, suffix string, mtu int) {
	a.bytes(unix.IFLA_IFALIAS, []byte(plan.AliasPrefix+string(scope)+suffix))
	a.nest(unix.IFLA_AF_SPEC, func(a *builder) {
		a.nest(unix.AF_INET, func(a *builder) {
			a.nest(inetConf, func(a *builder) { a.u32(promoteSecondaries, 1) })
		})
		if k.ipv6 && (mtu == 0 || mtu >= minIPv6MTU) {
			a.nest(unix.AF_INET6, func(a *builder) { a.u8(inet6AddrGenMode, addrGenModeNone) })
		}
	})
}

// portFlags sets the flags of a link as a bridge port.
func portFlags(a *builder, p plan.BridgePort) {
	a.nest(unix.IFLA_LINKINFO, func(a *builder) {
		a.str(unix.IFLA_INFO_SLAVE_KIND, "bridge")
		a.nest(unix.IFLA_INFO_SLAVE_DATA, func(a *builder) {
			a.u8(brportMode, bit(p.Hairpin))
			a.u8(brportIsolated, bit(p.Isolated))
		})
	})
}

func bit(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// changeLink is a message about an existing link, by name.
func changeLink(name string, flags, change uint32, f func(*builder)) request {
	a := linkMsg(0, flags, change)
	a.str(unix.IFLA_IFNAME, name)
	if f != nil {
		f(a)
	}
	return request{kind: unix.RTM_NEWLINK, data: a.b}
}

func upFlag(up bool) uint32 {
	if up {
		return unix.IFF_UP
	}
	return 0
}

// link is an observed end of a link.
type link struct {
	index, peerIndex uint32
	nsid             int32 // of the peer's namespace, -1 when it is this one
	masterIndex      uint32
	group            uint32
	name, alias      string
	kind             plan.LinkKind
	mac              plan.MAC
	mtu              int
	up               bool
	port             plan.BridgePort
	vxlan            plan.VXLANDevice
	odd              bool // a VXLAN device that is not as we make them
	ns               plan.NetNS
}

// owner is the scope the alias names. A link of ours that has no alias yet has
// no scope either.
func (l *link) owner() (scope plan.Scope, peer, ok bool) {
	if l.alias == "" {
		return "", false, l.group == ownedGroup
	}
	s, ok := strings.CutPrefix(l.alias, plan.AliasPrefix)
	s, peer = strings.CutSuffix(s, peerMark)
	return plan.Scope(s), peer, ok
}

var errShort = errors.New("netlink message is too short")

func parseLink(b []byte) (link, error) {
	if len(b) < sizeofIfInfo {
		return link{}, errShort
	}
	l := link{
		nsid:  -1,
		index: u32(b[4:]),
		up:    u32(b[8:])&unix.IFF_UP != 0,
	}
	if binary.NativeEndian.Uint16(b[2:]) == arphrdLoopback {
		l.kind = plan.Loopback
	}
	err := eachAttr(b[sizeofIfInfo:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_IFNAME:
			l.name = text(v)
		case unix.IFLA_IFALIAS:
			l.alias = text(v)
		case unix.IFLA_MTU:
			l.mtu = int(u32(v))
		case unix.IFLA_ADDRESS:
			if len(v) == len(l.mac) {
				l.mac = plan.MAC(v)
			}
		case unix.IFLA_MASTER:
			l.masterIndex = u32(v)
		case unix.IFLA_GROUP:
			l.group = u32(v)
		case unix.IFLA_LINK:
			l.peerIndex = u32(v)
		case unix.IFLA_LINK_NETNSID:
			l.nsid = int32(u32(v))
		case unix.IFLA_LINKINFO:
			return l.parseInfo(v)
		}
		return nil
	})
	return l, err
}

func (l *link) parseInfo(b []byte) error {
	return eachAttr(b, func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFLA_INFO_KIND:
			l.kind = plan.LinkKind(text(v))
		case unix.IFLA_INFO_DATA:
			switch l.kind {
			case plan.VXLAN:
				return l.parseVXLAN(v)
			case plan.TUN:
				return l.parseTUN(v)
			}
		case unix.IFLA_INFO_SLAVE_DATA:
			return eachAttr(v, func(kind uint16, v []byte) error {
				switch kind {
				case brportMode:
					l.port.Hairpin = u8(v) != 0
				case brportIsolated:
					l.port.Isolated = u8(v) != 0
				}
				return nil
			})
		}
		return nil
	})
}
