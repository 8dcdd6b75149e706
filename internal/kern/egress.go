package kern

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// host is what the fabric's namespace has that is not ours.
type host struct {
	links  map[uint32]link
	routes []route
	addrs  []address
}

// ours tells whether a link carries our mark.
func (h *host) ours(index uint32) bool {
	l, ok := h.links[index]
	if !ok {
		return false
	}
	_, _, owned := l.owner()
	return owned
}

func (k *Kernel) readHost(ctx context.Context, withAddrs bool) (*host, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c, err := k.borrow()
	if err != nil {
		return nil, err
	}
	defer k.giveBack(c)
	h := &host{links: map[uint32]link{}}
	if err := c.dumpLinks(func(l link) { h.links[l.index] = l }); err != nil {
		return nil, fmt.Errorf("list the links: %w", err)
	}
	err = c.dumpRoutes(0, func(r route) error {
		if r.proto != plan.Protocol && !h.ours(r.index) {
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
	err = c.dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(b []byte) error {
		a, err := parseAddr(b)
		if err == nil && a.proto != plan.Protocol && !h.ours(a.index) {
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
func (k *Kernel) EgressMTU(ctx context.Context) (int, error) {
	h, err := k.readHost(ctx, false)
	if err != nil {
		return 0, fmt.Errorf("find the egress route: %w", err)
	}
	best, ok := h.defaultRoute()
	if !ok {
		return defaultEthernet, nil
	}
	if best.MTU != 0 {
		return best.MTU, nil
	}
	return h.links[best.index].mtu, nil
}

// HostPrefixes are the destinations of all routes of the host, in whatever
// table, and the subnets of its addresses, sorted: what an address pool that
// nobody has chosen must stay clear of. Default routes and what is ours are not among them.
func (k *Kernel) HostPrefixes(ctx context.Context) ([]netip.Prefix, error) {
	h, err := k.readHost(ctx, true)
	if err != nil {
		return nil, fmt.Errorf("find the host's networks: %w", err)
	}
	var out []netip.Prefix
	for _, r := range h.routes {
		if r.Dst.Bits() > 0 && !r.Dst.Addr().IsMulticast() {
			out = append(out, r.Dst.Masked())
		}
	}
	for _, a := range h.addrs {
		out = append(out, a.prefix.Masked())
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.Compact(out), nil
}
