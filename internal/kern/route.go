package kern

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

func putIndex(b []byte, index uint32) { binary.NativeEndian.PutUint32(b, index) }

const (
	rtnhOnLink = unix.RTNH_F_ONLINK
	rtmCloned  = unix.RTM_F_CLONED

	sizeofNextHop = unix.SizeofRtNexthop
)

// rtMsg is the part of a route message that says which route it is.
func rtMsg(r plan.Route, index uint32) (*builder, error) {
	r = r.Normal()
	a := header(unix.SizeofRtMsg)
	a.b[0] = family(r.Dst.Addr())
	a.b[1] = byte(r.Dst.Bits())
	if r.Table < 256 {
		a.b[4] = byte(r.Table)
	}
	a.b[5] = plan.Protocol
	switch r.Type {
	case plan.Unicast:
		a.b[7] = unix.RTN_UNICAST
	case plan.Local:
		a.b[7] = unix.RTN_LOCAL
	case plan.Blackhole:
		a.b[7] = unix.RTN_BLACKHOLE
	default:
		return nil, fmt.Errorf("route type %q: want local, blackhole or none", r.Type)
	}
	a.u32(unix.RTA_TABLE, r.Table)
	a.bytes(unix.RTA_DST, r.Dst.Addr().AsSlice())
	if r.Metric != 0 {
		a.u32(unix.RTA_PRIORITY, r.Metric)
	}
	if index != 0 {
		a.u32(unix.RTA_OIF, index)
	}
	return a, nil
}

// newRoute adds a route, or with replace puts it in the place of the one with its key.
func newRoute(r plan.Route, index uint32, replace bool) (request, error) {
	a, err := rtMsg(r, index)
	if err != nil {
		return request{}, err
	}
	switch {
	case r.Type == plan.Local:
		a.b[6] = unix.RT_SCOPE_HOST
	case r.Type == plan.Unicast && !r.Via.IsValid():
		a.b[6] = unix.RT_SCOPE_LINK
	}
	if r.OnLink {
		putIndex(a.b[8:], rtnhOnLink)
	}
	if r.Via.IsValid() {
		gateway(a, r)
	}
	if r.Src.IsValid() {
		a.bytes(unix.RTA_PREFSRC, r.Src.AsSlice())
	}
	if r.MTU != 0 {
		a.nest(unix.RTA_METRICS, func(a *builder) { a.u32(unix.RTAX_MTU, uint32(r.MTU)) })
	}
	flags := createFlags
	if replace {
		flags = createOrReplaceFlag
	}
	return request{kind: unix.RTM_NEWROUTE, flags: flags, data: a.b}, nil
}

// gateway adds the next hop. One of the other family goes in another attribute
// (RFC 8950: IPv4 by way of IPv6).
func gateway(a *builder, r plan.Route) {
	via := r.Via.AsSlice()
	if r.Via.Is4() == r.Dst.Addr().Is4() {
		a.bytes(unix.RTA_GATEWAY, via)
		return
	}
	a.bytes(unix.RTA_VIA, append(binary.NativeEndian.AppendUint16(nil, uint16(family(r.Via))), via...))
}

func delRoute(r plan.Route, index uint32) (request, error) {
	a, err := rtMsg(r, index)
	if err != nil {
		return request{}, err
	}
	a.b[6] = unix.RT_SCOPE_NOWHERE // of any scope
	return request{kind: unix.RTM_DELROUTE, data: a.b, settled: []unix.Errno{unix.ESRCH, unix.ENODEV, unix.ENOENT}}, nil
}

// dumpRoutes reads the routes of one protocol, or of all with 0. Kernels
// before 4.20 ignore the filter, so the caller filters again.
func (c *conn) dumpRoutes(proto byte, each func(route) error) error {
	h := header(unix.SizeofRtMsg)
	h.b[5] = proto
	return c.dump(unix.RTM_GETROUTE, h.b, func(b []byte) error {
		r, err := parseRoute(b)
		if err != nil || r.cloned || proto != 0 && r.proto != proto {
			return err
		}
		return each(r)
	})
}

// route is an observed route; its link is known by index.
type route struct {
	plan.Route
	index  uint32
	proto  uint8
	kind   uint8 // rtm_type
	cloned bool
}

func parseRoute(b []byte) (route, error) {
	if len(b) < unix.SizeofRtMsg {
		return route{}, errShort
	}
	flags := u32(b[8:])
	r := route{proto: b[5], kind: b[7], cloned: flags&rtmCloned != 0}
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
	err := eachAttr(b[unix.SizeofRtMsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.RTA_TABLE:
			r.Table = u32(v)
		case unix.RTA_DST:
			dst, _ = netip.AddrFromSlice(v)
		case unix.RTA_GATEWAY:
			r.Via, _ = netip.AddrFromSlice(v)
		case unix.RTA_VIA:
			if len(v) > 2 {
				r.Via, _ = netip.AddrFromSlice(v[2:])
			}
		case unix.RTA_OIF:
			r.index = u32(v)
		case unix.RTA_MULTIPATH:
			if len(v) >= sizeofNextHop { // the first of several next hops
				r.index = u32(v[4:])
			}
		case unix.RTA_PREFSRC:
			r.Src, _ = netip.AddrFromSlice(v)
		case unix.RTA_PRIORITY:
			r.Metric = u32(v)
		case unix.RTA_METRICS:
			return eachAttr(v, func(kind uint16, v []byte) error {
				if kind == unix.RTAX_MTU {
					r.MTU = int(u32(v))
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

// explainRoute names the route of somebody else that a new one would replace. It is left alone: whoever
// made it may need it.
func (s *session) explainRoute(want plan.Route, err error) error {
	c, dialErr := s.conn(want.NS)
	if dialErr != nil {
		return err
	}
	want = want.Normal()
	remedy, by := "", ""
	dumpErr := c.dumpRoutes(0, func(r route) error {
		n := r.Route.Normal()
		if r.proto != plan.Protocol && n.Dst == want.Dst && n.Table == want.Table && n.Metric == want.Metric {
			by, remedy = fmt.Sprintf("protocol %d", r.proto), "ip route del "+r.Dst.String()
			if r.Via.IsValid() {
				by, remedy = "by "+r.Via.String()+", "+by, remedy+" via "+r.Via.String()
			}
		}
		return nil
	})
	if dumpErr != nil {
		return errors.Join(err, dumpErr)
	}
	if remedy == "" {
		return err
	}
	return fmt.Errorf("somebody else, such as flanneld, made a route to %s (%s): stop them and `%s`: %w", want.Dst, by, remedy, err)
}
