package remote

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

const (
	maxPrefix = 12 // bytes of what a link's name begins with
	maxRoutes = 64 // of one endpoint
	maxLink   = 15 // bytes of a link's name (IFNAMSIZ-1)
)

// takeInterface checks what a plugin answers to CreateEndpoint. What was decided before it must leave as it is.
func takeInterface(i plugin.Interface, e cnm.Endpoint) (plan.MAC, error) {
	for field, value := range map[string]string{"Address": i.Address, "AddressIPv6": i.AddressIPv6} {
		if value == "" {
			continue
		}
		p, err := netip.ParsePrefix(value)
		if err != nil || !slices.Contains(e.Addrs, p) {
			return plan.MAC{}, fmt.Errorf("%s is %.60q, and the endpoint has its addresses already", field, value)
		}
	}
	if i.MacAddress == "" {
		return e.MAC, nil
	}
	hw, err := net.ParseMAC(i.MacAddress)
	if err != nil || len(hw) != len(plan.MAC{}) {
		return plan.MAC{}, fmt.Errorf("MacAddress is %.60q, which is no hardware address", i.MacAddress)
	}
	m := plan.MAC(hw)
	switch {
	case m[0]&1 != 0 || m == plan.MAC{}:
		return m, fmt.Errorf("MacAddress is %s, which no interface can have", hw)
	case e.MAC != plan.MAC{} && e.MAC != m:
		return m, fmt.Errorf("MacAddress is %s, and %s was asked for", m, e.MAC)
	}
	return m, nil
}

// takeJoined checks what a plugin answers to Join, and adds it to what is known of the endpoint.
func takeJoined(j plugin.Joined, e cnm.Endpoint, g *cnm.Given) error {
	g.Link = j.InterfaceName.SrcName
	switch {
	case g.Link == "":
		return fmt.Errorf("it names no link (InterfaceName.SrcName)")
	case len(g.Link) > maxLink || strings.ContainsAny(g.Link, "/: \t\n\x00") || g.Link == "." || g.Link == "..":
		return fmt.Errorf("SrcName is %.60q, which is no link's name", g.Link)
	case g.Link == "lo" || linkname.IsOurs(g.Link):
		return fmt.Errorf("SrcName is %q, which is no link that a plugin can give", g.Link)
	case len(j.StaticRoutes) > maxRoutes:
		return fmt.Errorf("%d static routes: %d are the most", len(j.StaticRoutes), maxRoutes)
	}
	if err := takePrefix(j.InterfaceName.DstPrefix, g); err != nil {
		return err
	}
	g.Gateways, g.Routes = nil, nil
	near := func(a netip.Addr) bool {
		return slices.ContainsFunc(e.Addrs, func(p netip.Prefix) bool { return p.Contains(a) && p.Addr() != a }) ||
			slices.ContainsFunc(g.Routes, func(r cnm.GivenRoute) bool { return !r.Via.IsValid() && r.Dst.Contains(a) })
	}
	// Those on the link first: they make next hops reachable.
	routes := slices.Clone(j.StaticRoutes)
	slices.SortStableFunc(routes, func(a, b plugin.StaticRoute) int { return b.RouteType - a.RouteType })
	for _, r := range routes {
		if err := takeRoute(r, near, g); err != nil {
			return err
		}
	}
	for field, value := range map[string]string{"Gateway": j.Gateway, "GatewayIPv6": j.GatewayIPv6} {
		if err := takeGateway(field, value, near, g); err != nil {
			return err
		}
	}
	return nil
}

// takePrefix checks what the link's name in the sandbox is to begin with. A number comes behind it, so it must not end
// with one: the names of two endpoints could be the same.
func takePrefix(prefix string, g *cnm.Given) error {
	word := func(r rune) bool { return r == '-' || r == '_' || r < utf8.RuneSelf && unicode.IsLetter(r) }
	last := strings.TrimRightFunc(prefix, word) == prefix
	switch {
	case prefix == "":
		return nil
	case len(prefix) > maxPrefix || last || strings.ContainsFunc(prefix, func(r rune) bool {
		return !word(r) && (r < '0' || r > '9')
	}):
		return fmt.Errorf("DstPrefix is %.60q: want at most %d letters and digits, the last of them no digit", prefix,
			maxPrefix)
	}
	g.Prefix = prefix
	return nil
}

func takeGateway(field, value string, near func(netip.Addr) bool, g *cnm.Given) error {
	if value == "" {
		return nil
	}
	a, err := netip.ParseAddr(value)
	switch {
	case err != nil || a.Zone() != "" || a.Is4In6() || !unicast(a):
		return fmt.Errorf("%s is %.60q, which is no address of a gateway", field, value)
	case a.Is4() != (field == "Gateway"):
		return fmt.Errorf("%s is %s, which is of the other family", field, a)
	case !near(a):
		return fmt.Errorf("%s is %s, which cannot be reached from the endpoint's addresses", field, a)
	}
	if !slices.ContainsFunc(g.Gateways, func(b netip.Addr) bool { return b.Is4() == a.Is4() }) {
		g.Gateways = append(g.Gateways, a)
	}
	slices.SortFunc(g.Gateways, netip.Addr.Compare)
	return nil
}

func unicast(a netip.Addr) bool { return !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() }

// takeRoute checks a static route. A default route by a next hop is a gateway.
func takeRoute(r plugin.StaticRoute, near func(netip.Addr) bool, g *cnm.Given) error {
	dst, err := netip.ParsePrefix(r.Destination)
	bad := func(why string) error { return fmt.Errorf("the static route to %.60q %s", r.Destination, why) }
	switch {
	case err != nil || dst.Addr().Is4In6():
		return bad("has no destination")
	case dst != dst.Masked():
		return bad("has bits beyond the length of its destination")
	case dst.Bits() > 0 && !unicast(dst.Addr()):
		return bad("leads to addresses that nobody is reached at")
	case r.RouteType != plugin.ByNextHop && r.RouteType != plugin.OnLink:
		return bad(fmt.Sprintf("is of type %d", r.RouteType))
	case r.RouteType == plugin.OnLink && dst.Bits() == 0:
		return bad("would have everything on the link")
	}
	if slices.ContainsFunc(g.Routes, func(o cnm.GivenRoute) bool { return o.Dst == dst }) {
		return bad("is there twice")
	}
	if r.RouteType == plugin.OnLink {
		g.Routes = append(g.Routes, cnm.GivenRoute{Dst: dst})
		return nil
	}
	via, err := netip.ParseAddr(r.NextHop)
	if err != nil || via.Is4() != dst.Addr().Is4() || !near(via) {
		return bad(fmt.Sprintf("is by %.60q, which cannot be reached from the endpoint's addresses", r.NextHop))
	}
	if dst.Bits() == 0 {
		g.Gateways = append(g.Gateways, via)
		return nil
	}
	g.Routes = append(g.Routes, cnm.GivenRoute{Dst: dst, Via: via})
	return nil
}
