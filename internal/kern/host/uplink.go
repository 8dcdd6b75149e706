package host

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// UplinkConfig says how to find the host's link to the other nodes. The zero value leaves it
// to the default route. What is set has to agree.
type UplinkConfig struct {
	Link     string     // its name (--iface)
	Addr     netip.Addr // an address it has (--node-ip)
	CanReach netip.Addr // a destination that is reached by it (--iface-can-reach)
	// Last is what was chosen before: where nothing is asked for it stays while it has an address that it had,
	// whatever the default route does, and its addresses stay while they are there.
	Last Uplink
}

// Uplink is the host's link to the other nodes. The zero value: there is none.
type Uplink struct {
	Link   string
	MTU    int            // bytes
	Addr4  netip.Addr     // this node's addresses on it; either may be the zero value
	Addr6  netip.Addr     //
	OnLink []netip.Prefix // subnets that are reached on it without a router, sorted
}

// Uplink finds the link: the one that was asked for, or that of the default route, of IPv4
// or else of IPv6. A host without a default route has none, which is no error when nothing was asked
// for. Its addresses are the one asked for, or the one that the route prefers, or the first
// global one of each family. A link of ours is never the uplink.
func (k *Host) Uplink(ctx context.Context, want UplinkConfig) (Uplink, error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return Uplink{}, fmt.Errorf("find the uplink: %w", err)
	}
	f := uplinkFinder{host: h}
	steps := []func() error{
		func() error { return f.byName(want.Link) },
		func() error { return f.byAddr(want.Addr) },
		func() error { return f.byReach(k, want.CanReach) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return Uplink{}, fmt.Errorf("find the uplink: %w", err)
		}
	}
	if f.index == 0 && !f.byLast(want.Last) && !f.byDefault() {
		return Uplink{}, nil
	}
	f.keep(want.Last)
	return f.result(), nil
}

// uplinkFinder narrows the choice down.
type uplinkFinder struct {
	host  *state
	index uint32        // the link found; 0: none yet
	by    string        // what it was found by, for the error when something else says another
	addrs [2]netip.Addr // the preferred ones
	mtu   int           // of the route it was found by; 0: none
}

// chosen notes a link, which has to be the one found before.
func (f *uplinkFinder) chosen(index uint32, by string) error {
	if f.index != 0 && f.index != index {
		return fmt.Errorf("%s is link %s, but %s is link %s: they have to be the same, or leave one out",
			f.by, f.host.links[f.index].Name, by, f.host.links[index].Name)
	}
	if f.host.ours(index) {
		return fmt.Errorf("%s is link %s of the fabric itself; %s", by, f.host.links[index].Name, f.choices())
	}
	f.index, f.by = index, by
	return nil
}

func (f *uplinkFinder) byName(name string) error {
	if name == "" {
		return nil
	}
	by := "--iface " + name
	for index, l := range f.host.links {
		if l.Name != name {
			continue
		}
		if !f.host.ours(index) && len(f.global(index)) == 0 {
			return fmt.Errorf("%s: the link has no global address; %s", by, f.choices())
		}
		return f.chosen(index, by)
	}
	return fmt.Errorf("%s: there is no such link; %s", by, f.choices())
}

func (f *uplinkFinder) byAddr(a netip.Addr) error {
	if !a.IsValid() {
		return nil
	}
	a = a.Unmap()
	by := "--node-ip " + a.String()
	var found []uint32
	for _, x := range f.host.addrs {
		if x.Prefix.Addr() == a {
			found = append(found, x.Index)
		}
	}
	switch i := slices.Index(found, f.index); {
	case len(found) == 0:
		return fmt.Errorf("%s: no link of this host has that address; %s", by, f.choices())
	case i < 0:
		i = 0
		fallthrough
	default:
		f.prefer(a)
		return f.chosen(found[i], by)
	}
}

func (f *uplinkFinder) byReach(k *Host, to netip.Addr) error {
	if !to.IsValid() {
		return nil
	}
	to = to.Unmap()
	by := "--iface-can-reach " + to.String()
	r, err := k.routeTo(to)
	switch {
	case rtnetlink.ErrnoIs(err, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES, unix.EINVAL):
		return fmt.Errorf("%s: this host has no route to it; %s: %w", by, f.choices(), err)
	case err != nil:
		return fmt.Errorf("%s: look the route up: %w", by, err)
	case r.Kind == unix.RTN_LOCAL:
		return fmt.Errorf("%s: that is an address of this host itself; name another node's, or a router's", by)
	case r.Kind != unix.RTN_UNICAST:
		return fmt.Errorf("%s: the route to it leads nowhere; %s", by, f.choices())
	}
	if err := f.chosen(r.Index, by); err != nil {
		return err
	}
	f.preferRoute(r)
	return nil
}

// routeTo asks the kernel for the route to an address.
func (k *Host) routeTo(to netip.Addr) (r rtnetlink.Route, err error) {
	c, err := rtnetlink.Dial(k.fd)
	if err != nil {
		return r, err
	}
	defer c.Close()
	a := attr.After(unix.SizeofRtMsg)
	a.B[0], a.B[1] = rtnetlink.Family(to), byte(to.BitLen())
	a.Bytes(unix.RTA_DST, to.AsSlice())
	_, err = c.Batch([]rtnetlink.Request{{Kind: unix.RTM_GETROUTE, Data: a.B, Reply: func(b []byte) (err error) {
		r, err = rtnetlink.ParseRoute(b)
		return err
	}}})
	return r, err
}

// Way is the index of the link that packets for an address leave by, and the router that they go to, if there is one.
func (k *Host) Way(to netip.Addr) (index uint32, via netip.Addr, err error) {
	r, err := k.routeTo(to)
	if err == nil && r.Kind != unix.RTN_UNICAST {
		err = fmt.Errorf("the route to %s leads to no other host", to)
	}
	return r.Index, r.Via, err
}

// byLast takes the link that was chosen before, if it has one of its addresses still.
func (f *uplinkFinder) byLast(last Uplink) bool {
	for index, l := range f.host.links {
		if l.Name != last.Link || f.host.ours(index) {
			continue
		}
		for _, a := range f.global(index) {
			if a == last.Addr4 || a == last.Addr6 {
				f.index = index
			}
		}
	}
	if best, ok := f.host.defaultRoute(); ok && best.Index == f.index {
		f.mtu = best.MTU
	}
	return f.index != 0
}

// keep prefers the addresses that were chosen before to others of the link, which may be somebody's who moves them from
// host to host.
func (f *uplinkFinder) keep(last Uplink) {
	if f.host.links[f.index].Name != last.Link {
		return
	}
	for _, a := range f.global(f.index) {
		if (a == last.Addr4 || a == last.Addr6) && !f.addrs[slot(a)].IsValid() {
			f.prefer(a)
		}
	}
}

// byDefault takes the best default route by a link that is not ours.
func (f *uplinkFinder) byDefault() bool {
	best, ok := f.host.defaultRoute()
	if ok {
		f.index, f.mtu = best.Index, best.MTU
		f.preferRoute(best)
	}
	return ok
}

// defaultRoute is the best default route of the main table: that of IPv4, or else of IPv6;
// the one with the lowest metric where there are several.
func (h *state) defaultRoute() (rtnetlink.Route, bool) {
	routes := slices.DeleteFunc(slices.Clone(h.routes), func(r rtnetlink.Route) bool {
		_, known := h.links[r.Index]
		return r.Table != 0 || r.Type != plan.Unicast || r.Kind != unix.RTN_UNICAST || r.Dst.Bits() != 0 || !known
	})
	if len(routes) == 0 {
		return rtnetlink.Route{}, false
	}
	return slices.MinFunc(routes, func(a, b rtnetlink.Route) int {
		return cmp.Or(cmp.Compare(a.Dst.Addr().BitLen(), b.Dst.Addr().BitLen()), cmp.Compare(a.Metric, b.Metric))
	}), true
}

// preferRoute takes the source that a route prefers, unless one was asked for.
func (f *uplinkFinder) preferRoute(r rtnetlink.Route) {
	if slices.Contains(f.global(f.index), r.Src) && !f.addrs[slot(r.Src)].IsValid() {
		f.prefer(r.Src)
	}
}

func (f *uplinkFinder) prefer(a netip.Addr) { f.addrs[slot(a)] = a }

func slot(a netip.Addr) int {
	if a.Is4() {
		return 0
	}
	return 1
}

// global lists the addresses of a link that other nodes can know this one by. Temporary
// ones (RFC 8981) change too often, and deprecated ones are about to go.
func (f *uplinkFinder) global(index uint32) []netip.Addr {
	var out []netip.Addr
	for _, a := range f.host.addrs {
		if a.Index == index && a.Usable() {
			out = append(out, a.Prefix.Addr())
		}
	}
	return out
}

func (f *uplinkFinder) result() Uplink {
	l := f.host.links[f.index]
	u := Uplink{Link: l.Name, MTU: l.MTU}
	if f.mtu != 0 && f.mtu < u.MTU {
		u.MTU = f.mtu
	}
	for _, a := range f.global(f.index) {
		if !f.addrs[slot(a)].IsValid() {
			f.prefer(a)
		}
	}
	u.Addr4, u.Addr6 = f.addrs[0], f.addrs[1]
	for _, a := range f.host.addrs {
		if p := a.Prefix.Masked(); a.Index == f.index && a.Usable() && !p.IsSingleIP() {
			u.OnLink = append(u.OnLink, p)
		}
	}
	for _, r := range f.host.routes {
		local := r.Dst.Addr().IsLinkLocalUnicast() || r.Dst.Addr().IsMulticast()
		if r.Index == f.index && r.Table == 0 && r.Kind == unix.RTN_UNICAST && !r.Via.IsValid() && r.Dst.Bits() > 0 &&
			!local {
			u.OnLink = append(u.OnLink, r.Dst.Masked())
		}
	}
	slices.SortFunc(u.OnLink, netip.Prefix.Compare)
	u.OnLink = slices.Compact(u.OnLink)
	return u
}

// choices lists the links that could be the uplink, with their addresses.
func (f *uplinkFinder) choices() string {
	var all []string
	byName := func(a, b uint32) int { return cmp.Compare(f.host.links[a].Name, f.host.links[b].Name) }
	for _, index := range slices.SortedFunc(maps.Keys(f.host.links), byName) {
		addrs := f.global(index)
		if l := f.host.links[index]; len(addrs) > 0 && l.Kind != plan.Loopback && !f.host.ours(index) {
			all = append(all, fmt.Sprintf("%s %v", l.Name, addrs))
		}
	}
	if len(all) == 0 {
		return "no link of this host has a global address"
	}
	return "links with global addresses: " + strings.Join(all, ", ")
}
