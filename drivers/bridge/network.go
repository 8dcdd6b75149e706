package bridge

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
)

// tableLocal is RT_TABLE_LOCAL, which the kernel looks at first.
const tableLocal = 255

// loopbackMetric is greater than that of the kernel's own route to ::1, which
// stays the one in use for the host itself, and differs from bridge to bridge: a table
// has one local route to a destination for each metric.
func loopbackMetric(networkID string) uint32 {
	sum := sha256.Sum256([]byte(networkID))
	return 4096 + binary.BigEndian.Uint32(sum[:])>>8
}

// RenderNetwork renders the bridge, its gateway addresses and the network's
// elements of the fabric's sets.
func (Driver) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	o, err := options(n)
	if err != nil {
		return plan.State{}, err
	}
	return RenderNetwork(n, o, h)
}

// RenderNetwork is the method of the same name with the network's options decoded.
func RenderNetwork(n cnm.Network, o Options, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	if n.IPv6 && h.NoIPv6 {
		return plan.State{}, fmt.Errorf("network %s has IPv6, and this host's kernel has it switched off: remove "+
			"ipv6.disable=1 from its command line or make the network without IPv6", n.Name)
	}
	if o.OnLAN() {
		return renderLAN(n, o, h), nil
	}
	r := networkRender{n: n, o: o, h: h, link: o.Link(n)}
	r.state.Links = []plan.Link{{
		Name: r.link, Owner: networkScope(n), Kind: plan.Bridge,
		MAC: bridgeMAC(n.ID), MTU: o.mtu(n, h), Up: true,
	}}
	r.gateways()
	r.sysctls()
	r.elements()
	r.fast()
	return r.state, nil
}

type networkRender struct {
	n     cnm.Network
	o     Options
	h     cnm.Host
	link  string
	state plan.State
}

// linkLocal is the bridge's link-local address. Neighbour solicitations for
// packets that are only passing through come from it (RFC 4861 section 7.2.2), and the
// kernel sends none from a link without one.
func linkLocal() netip.Prefix { return netip.MustParsePrefix("fe80::1/64") }

func (r *networkRender) gateways() {
	if r.n.IPv6 && r.o.HasGateway(true) {
		r.state.Addrs = append(r.state.Addrs, plan.Addr{Link: r.link, Prefix: linkLocal()})
	}
	for _, p := range r.n.Pools {
		if !p.Gateway.IsValid() || !r.o.HasGateway(p.Gateway.Is6()) {
			continue
		}
		r.state.Addrs = append(r.state.Addrs,
			plan.Addr{Link: r.link, Prefix: netip.PrefixFrom(p.Gateway, p.Subnet.Bits())})
		if p.Gateway.Is6() && !r.n.Internal && len(r.state.Routes) == 0 {
			// Answers translated back to ::1 arrive by the bridge, and the
			// kernel only takes them by a link that has a route to ::1.
			r.state.Routes = append(r.state.Routes, plan.Route{
				Table: tableLocal, Type: plan.Local, Dst: netip.PrefixFrom(netip.IPv6Loopback(), 128),
				Link: r.link, Metric: loopbackMetric(r.n.ID),
			})
		}
	}
}

func (r *networkRender) sysctls() {
	set := func(key, value string) {
		r.state.Sysctls = append(r.state.Sysctls, plan.Sysctl{Path: key, Value: value})
	}
	v6conf := "ipv6/conf/" + r.link + "/"
	set("ipv4/conf/"+r.link+"/forwarding", "1") // the host's default for new links may be 0
	gateway4 := slices.ContainsFunc(r.n.Pools, func(p cnm.Pool) bool { return p.Gateway.Is4() })
	if gateway4 && !r.n.Internal {
		// Answers to the host's 127.0.0.1 arrive by the bridge; the chain raw
		// drops everything else that claims such an address.
		set("ipv4/conf/"+r.link+"/route_localnet", "1")
	}
	if !r.o.HasGateway(false) {
		set("ipv4/conf/"+r.link+"/arp_ignore", "8") // who is on it learns none of the host's addresses
	}
	if r.n.Builtin {
		// Nobody has asked for this network. While nothing is on it, it hides no route of the host's to its subnet.
		set("ipv4/conf/"+r.link+"/ignore_routes_with_linkdown", "1")
	}
	if r.h.NoIPv6 {
		return
	}
	if !r.n.IPv6 || !r.o.HasGateway(true) {
		set(v6conf+"disable_ipv6", "1")
		return
	}
	if r.n.Builtin {
		set(v6conf+"ignore_routes_with_linkdown", "1")
	}
	set(v6conf+"disable_ipv6", "0")
	set(v6conf+"accept_ra", "0") // an endpoint is no router of ours
}

func (r *networkRender) elements() {
	e := firewall.Elements{Owner: networkScope(r.n)}
	e.Bridge(r.link)
	if r.o.ICC {
		e.Forward(r.link, r.link)
	}
	if r.n.Internal {
		e.Internal(r.link)
		e.Restricted(r.link)
	}
	for _, any := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if on := any.Is4() && r.n.IPv4 || any.Is6() && r.n.IPv6; on && r.o.Mode(any).open() {
			e.Open(any, r.link)
		}
	}
	for _, p := range r.n.Pools {
		e.Local(p.Subnet, r.link)
		if r.o.Masquerades(p.Subnet.Addr()) && !r.n.Internal {
			e.Masquerade(p.Subnet)
			for _, a := range r.o.Outbound() {
				if a.Is4() == p.Subnet.Addr().Is4() {
					e.Leave(p.Subnet, a)
				}
			}
		}
	}
	r.state.Rules.Elements = e.List
}
