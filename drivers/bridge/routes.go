package bridge

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// maxRoutes bounds the static routes of a network: each is one in every sandbox on it.
const maxRoutes = 64

// Route is a static route that the sandboxes on a network have.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // the zero value: whoever has an address of Dst is on the network itself
}

// Routes are a network's static routes.
type Routes []Route

// Set reads them as the option routes has them: DST[,via=ADDRESS], several with spaces between.
func (r *Routes) Set(value string) error {
	*r = nil
	for _, text := range strings.Fields(value) {
		dst, via, given := strings.Cut(text, ",")
		var route Route
		var err error
		if route.Dst, err = netip.ParsePrefix(dst); err != nil {
			return errors.New("want SUBNET[,via=ADDRESS], such as 10.9.0.0/16,via=10.7.0.5, several with spaces " +
				"between")
		}
		if given {
			addr, ok := strings.CutPrefix(via, "via=")
			if route.Via, err = netip.ParseAddr(addr); !ok || err != nil || route.Via.Zone() != "" {
				return fmt.Errorf("%q: want via=ADDRESS behind the comma", text)
			}
		}
		if err := route.check(); err != nil {
			return err
		}
		if slices.ContainsFunc(*r, func(o Route) bool { return o.Dst == route.Dst }) {
			return fmt.Errorf("two routes to %s", route.Dst)
		}
		*r = append(*r, route)
	}
	if len(*r) > maxRoutes {
		return fmt.Errorf("%d routes: want %d at most", len(*r), maxRoutes)
	}
	return nil
}

// check refuses what is wrong by itself.
func (r Route) check() error {
	a := r.Dst.Addr()
	switch {
	case a.Is4In6() || r.Dst != r.Dst.Masked():
		return fmt.Errorf("%s has bits beyond its length: did you mean %s?", r.Dst, r.Dst.Masked())
	case r.Dst.Bits() == 0:
		return fmt.Errorf("%s: the default route leads by the gateway of the network (--gateway)", r.Dst)
	case a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() || a.IsUnspecified():
		return fmt.Errorf("%s is not one of unicast addresses to lead to", r.Dst)
	case r.Via.IsValid() && r.Via.Is4() != a.Is4():
		return fmt.Errorf("%s via %s: want both of one family", r.Dst, r.Via)
	}
	return nil
}

// Check refuses routes that do not fit the network. The error is a [cnm.ErrInvalid].
func (r Routes) Check(n cnm.Network) error {
	for _, route := range r {
		if err := checkRoute(n, route); err != nil {
			return invalid(fmt.Errorf("option routes: %w", err))
		}
	}
	return nil
}

func checkRoute(n cnm.Network, r Route) error {
	if r.Dst.Addr().Is4() && !n.IPv4 || r.Dst.Addr().Is6() && !n.IPv6 {
		return fmt.Errorf("%s: its family is switched off for this network", r.Dst)
	}
	for _, p := range n.Pools {
		if p.Subnet.Contains(r.Dst.Addr()) && p.Subnet.Bits() <= r.Dst.Bits() {
			return fmt.Errorf("%s is in %s, a subnet of the network itself", r.Dst, p.Subnet)
		}
	}
	if !r.Via.IsValid() {
		return nil
	}
	p := poolOf(n, r.Via)
	switch {
	case !p.Subnet.IsValid():
		return fmt.Errorf("%s via %s: the router is in no subnet of the network", r.Dst, r.Via)
	case p.Subnet.Addr().BitLen()-p.Subnet.Bits() > 1 && r.Via == p.Subnet.Addr():
		return fmt.Errorf("%s via %s: that is the address of the subnet itself", r.Dst, r.Via)
	}
	return nil
}

// For are the routes in the sandbox of an endpoint that has s already.
func (r Routes) For(e cnm.Endpoint, s plan.State) []plan.Route {
	var out []plan.Route
	for _, route := range r {
		of := func(a netip.Prefix) bool {
			return a.Addr().Is4() == route.Dst.Addr().Is4() && a.Addr() != route.Via // a router needs no way to itself
		}
		if !slices.ContainsFunc(e.Addrs, of) {
			continue
		}
		way := plan.Route{NS: e.NetNS, Dst: route.Dst, Via: route.Via, Link: e.LinkName(), Metric: Metric(e),
			OnLink: route.Via.IsValid()}
		out = append(out, way)
		// What has the endpoint's address goes by the endpoint's own table where another one provides the default
		// route.
		own := func(p plan.PolicyRule) bool { return p.From.Addr().Is4() == route.Dst.Addr().Is4() }
		if slices.ContainsFunc(s.Policies, own) {
			way.Table, way.Metric = Table(e), 0
			out = append(out, way)
		}
	}
	return out
}

// siblings lead to the network's other subnets, which are on the same bridge.
func siblings(n cnm.Network, e cnm.Endpoint) Routes {
	var out Routes
	for _, p := range n.Pools {
		if !slices.ContainsFunc(e.Addrs, func(a netip.Prefix) bool { return p.Subnet.Contains(a.Addr()) }) {
			out = append(out, Route{Dst: p.Subnet})
		}
	}
	return out
}
