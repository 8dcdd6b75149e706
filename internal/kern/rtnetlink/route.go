package rtnetlink

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

func putIndex(b []byte, index uint32) { binary.NativeEndian.PutUint32(b, index) }

const (
	rtnhOnLink = unix.RTNH_F_ONLINK
	rtmCloned  = unix.RTM_F_CLONED

	sizeofNextHop = unix.SizeofRtNexthop
)

// rtMsg is the part of a route message that says which route it is.
func rtMsg(r plan.Route, index uint32) (*attr.Builder, error) {
	r = r.Normal()
	a := attr.After(unix.SizeofRtMsg)
	a.B[0] = Family(r.Dst.Addr())
	a.B[1] = byte(r.Dst.Bits())
	if r.Table < 256 {
		a.B[4] = byte(r.Table)
	}
	a.B[5] = plan.Protocol
	switch r.Type {
	case plan.Unicast:
		a.B[7] = unix.RTN_UNICAST
	case plan.Local:
		a.B[7] = unix.RTN_LOCAL
	case plan.Blackhole:
		a.B[7] = unix.RTN_BLACKHOLE
	default:
		return nil, fmt.Errorf("route type %q: want local, blackhole or none", r.Type)
	}
	a.U32(unix.RTA_TABLE, r.Table)
	a.Bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	if r.Metric != 0 {
		a.U32(unix.RTA_PRIORITY, r.Metric)
	}
	if index != 0 {
		a.U32(unix.RTA_OIF, index)
	}
	return a, nil
}

// NewRoute adds a route, or with replace puts it in the place of the one with its key.
func NewRoute(r plan.Route, index uint32, replace bool) (Request, error) {
	a, err := rtMsg(r, index)
	if err != nil {
		return Request{}, err
	}
	switch {
	case r.Type == plan.Local:
		a.B[6] = unix.RT_SCOPE_HOST
	case r.Type == plan.Unicast && !r.Via.IsValid():
		a.B[6] = unix.RT_SCOPE_LINK
	}
	if r.OnLink {
		putIndex(a.B[8:], rtnhOnLink)
	}
	if r.Via.IsValid() {
		gateway(a, r)
	}
	if r.Src.IsValid() {
		a.Bytes(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.MTU != 0 {
		a.Nest(unix.RTA_METRICS, func(a *attr.Builder) { a.U32(unix.RTAX_MTU, uint32(r.MTU)) })
	}
	flags := createFlags
	if replace {
		flags = createOrReplaceFlag
	}
	return Request{Kind: unix.RTM_NEWROUTE, flags: flags, Data: a.B}, nil
}

// NewDirect adds the route to the subnet of an address as the kernel does with the address, for one that was there
// without it. It comes beside routes of others to the same subnet, as the kernel's does.
func NewDirect(p netip.Prefix, index uint32) Request {
	a := attr.After(unix.SizeofRtMsg)
	a.B[0], a.B[1] = Family(p.Addr()), byte(p.Bits())
	a.B[4], a.B[5], a.B[6], a.B[7] = unix.RT_TABLE_MAIN, unix.RTPROT_KERNEL, unix.RT_SCOPE_LINK, unix.RTN_UNICAST
	a.Bytes(unix.RTA_DST, p.Masked().Addr().AsSlice())
	if p.Addr().Is4() {
		a.Bytes(unix.RTA_PREFSRC, p.Addr().AsSlice())
	} else {
		a.U32(unix.RTA_PRIORITY, addrconfMetric)
	}
	a.U32(unix.RTA_OIF, index)
	return Request{Kind: unix.RTM_NEWROUTE, flags: netlink.Create | netlink.Append, Data: a.B,
		Settled: []unix.Errno{unix.EEXIST, unix.ENETDOWN}}
}

// addrconfMetric is IP6_RT_PRIO_ADDRCONF, of the routes that the kernel makes for IPv6 addresses.
const addrconfMetric = 256

// gateway adds the next hop. One of the other family goes in another attribute
// (RFC 8950: IPv4 by way of IPv6).
func gateway(a *attr.Builder, r plan.Route) {
	via := r.Via.AsSlice()
	if r.Via.Is4() == r.Dst.Addr().Is4() {
		a.Bytes(unix.RTA_GATEWAY, via)
		return
	}
	a.Bytes(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, uint16(Family(r.Via))), via...))
}

func DelRoute(r plan.Route, index uint32) (Request, error) {
	a, err := rtMsg(r, index)
	if err != nil {
		return Request{}, err
	}
	a.B[6] = unix.RT_SCOPE_NOWHERE // of any scope
	return Request{Kind: unix.RTM_DELROUTE, Data: a.B, Settled: []unix.Errno{unix.ESRCH, unix.ENODEV, unix.ENOENT}}, nil
}

// DumpRoutes reads the routes of one protocol, or of all with 0. Kernels
// before 4.20 ignore the filter, so the caller filters again.
func (c *Conn) DumpRoutes(proto byte, each func(Route) error) error {
	h := attr.After(unix.SizeofRtMsg)
	h.B[5] = proto
	return c.Dump(unix.RTM_GETROUTE, h.B, func(b []byte) error {
		r, err := ParseRoute(b)
		if err != nil || r.Cloned || proto != 0 && r.Proto != proto {
			return err
		}
		return each(r)
	})
}

// Route is an observed route; its link is known by index.
type Route struct {
	plan.Route
	Index  uint32
	Proto  uint8
	Kind   uint8 // rtm_type
	Cloned bool
}

func ParseRoute(b []byte) (Route, error) {
	if len(b) < unix.SizeofRtMsg {
		return Route{}, ErrShort
	}
	flags := attr.U32(b[8:])
	r := Route{Proto: b[5], Kind: b[7], Cloned: flags&rtmCloned != 0}
	r.Table = uint32(b[4])
	r.OnLink = flags&rtnhOnLink != 0
	switch b[7] {
	case unix.RTN_LOCAL:
		r.Type = plan.Local
	case unix.RTN_BLACKHOLE:
		r.Type = plan.Blackhole
	}
	dst := netip.IPv6Unspecified()
	if b[0] == unix.AF_INET {
		dst = netip.IPv4Unspecified()
	}
	err := attr.Each(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.RTA_TABLE:
			r.Table = attr.U32(v)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(v)
		case unix.RTA_VIA:
			if len(v) > 2 {
				r.Via, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_OIF:
			r.Index = attr.U32(v)
		case unix.RTA_MULTIPATH:
			if len(v) >= sizeofNextHop { // the first of several next hops
				r.Index = attr.U32(v[4:])
			}
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(v)
		case unix.RTA_PRIORITY:
			r.Metric = attr.U32(v)
		case unix.RTA_METRICS:
			return attr.Each(v, func(kind uint16, v []byte) error {
				if kind == unix.RTAX_MTU {
					r.MTU = int(attr.U32(v))
				}
				return nil
			})
		}
		return nil
	})
	if r.Table == unix.RT_TABLE_MAIN {
		r.Table = 0
	}
	r.Dst = netip.PrefixFrom(dst, int(b[1]))
	return r, err
}
