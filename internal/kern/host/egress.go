package host

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// state is what the fabric's namespace has that is not ours.
type state struct {
	links  map[uint32]rtnetlink.Link
	routes []rtnetlink.Route
	addrs  []rtnetlink.Address
}

// ours reports whether a link carries our mark.
func (h *state) ours(index uint32) bool {
	l, ok := h.links[index]
	if !ok {
		return false
	}
	_, _, owned := l.Owner()
	return owned
}

func (k *Host) readHost(ctx context.Context, withAddrs bool) (*state, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := rtnetlink.Dial(k.fd)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	h := &state{links: map[uint32]rtnetlink.Link{}}
	if err := c.DumpLinks(func(l rtnetlink.Link) { h.links[l.Index] = l }); err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	err = c.DumpRoutes(0, func(r rtnetlink.Route) error {
		if r.Proto != plan.Protocol && !h.ours(r.Index) {
			h.routes = append(h.routes, r)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the routes: %w", err)
	}
	if !withAddrs {
		return h, nil
	}
	err = c.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := rtnetlink.ParseAddr(b)
		if err == nil && a.Proto != plan.Protocol && !h.ours(a.Index) {
			h.addrs = append(h.addrs, a)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list the addresses: %w", err)
	}
	return h, nil
}

// EgressMTU is the MTU in bytes of the link that the host's default route
// leaves by: that of IPv4, or else of IPv6; the one with the lowest metric where there are
// several. It is 1500 on a host that has none.
func (k *Host) EgressMTU(ctx context.Context) (int, error) {
	h, err := k.readHost(ctx, false)
	if err != nil {
		return 0, fmt.Errorf("find the egress route: %w", err)
	}
	best, ok := h.defaultRoute()
	if !ok {
		return rtnetlink.DefaultEthernet, nil
	}
	if best.MTU != 0 {
		return best.MTU, nil
	}
	return h.links[best.Index].MTU, nil
}

// Networks are what the host itself uses: the subnets of its addresses with its gateways, and what it has
// routes to. Routes to so much that they stand for a default route (a VPN's 0.0.0.0/1), those that lead nowhere, and
// what is ours are not among them.
func (k *Host) Networks(ctx context.Context) (links, routes []netip.Prefix, err error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return nil, nil, fmt.Errorf("find the host's networks: %w", err)
	}
	for _, r := range h.routes {
		if r.Via.IsValid() {
			links = append(links, netip.PrefixFrom(r.Via, r.Via.BitLen()))
		}
		switch {
		case isDefault(r.Dst) || r.Dst.Addr().IsMulticast():
		case r.Kind == unix.RTN_LOCAL:
			links = append(links, r.Dst.Masked())
		case r.Kind == unix.RTN_UNICAST:
			routes = append(routes, r.Dst.Masked())
		}
	}
	for _, a := range h.addrs {
		links = append(links, a.Prefix.Masked())
	}
	return sorted(links), sorted(routes), nil
}

// Addresses are the host's own, none of ours.
func (k *Host) Addresses(ctx context.Context) ([]netip.Addr, error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("find the host's addresses: %w", err)
	}
	out := make([]netip.Addr, 0, len(h.addrs))
	for _, a := range h.addrs {
		out = append(out, a.Prefix.Addr())
	}
	return out, nil
}

// Addresses4 are the host's own addresses of IPv4, none of ours and none of loopback, with their subnets.
func (k *Host) Addresses4(ctx context.Context) ([]netip.Prefix, error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range h.addrs {
		if a.Prefix.Addr().Is4() && a.Prefix.Addr().IsGlobalUnicast() {
			out = append(out, a.Prefix)
		}
	}
	return sorted(out), nil
}

func sorted(prefixes []netip.Prefix) []netip.Prefix {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(prefixes)
}

// isDefault reports whether a route leads to more than any site has, as a default route does, or a VPN's halves of one
// (0.0.0.0/1 and 128.0.0.0/1): it hides no network and is none. The largest private block of IPv4 is 10.0.0.0/8.
func isDefault(dst netip.Prefix) bool { return dst.Bits() < 8 }

// HostPrefixes are the destinations of all routes of the host, in whatever
// table, and the subnets of its addresses, sorted: what an address pool that
// nobody has chosen must stay clear of. Default routes, those that stand for one, and what is ours are not among them.
func (k *Host) HostPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("find the host's networks: %w", err)
	}
	var out []netip.Prefix
	for _, r := range h.routes {
		if !isDefault(r.Dst) && !r.Dst.Addr().IsMulticast() {
			out = append(out, r.Dst.Masked())
		}
	}
	for _, a := range h.addrs {
		out = append(out, a.Prefix.Masked())
	}
	return sorted(out), nil
}
