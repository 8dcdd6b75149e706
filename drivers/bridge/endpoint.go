package bridge

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// RenderEndpoint renders the endpoint's veth pair, its addresses and routes in
// the sandbox, its elements of the fabric's sets, and its published ports.
func (Driver) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err != nil {
		return plan.State{}, err
	}
	s, err := RenderEndpoint(n, e, o, h)
	if err == nil {
		big(n, s)
	}
	return s, err
}

// RenderEndpoint is the method of the same name with the network's options decoded.
func RenderEndpoint(n cnm.Network, e cnm.Endpoint, o Options, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	if err := checkEndpoint(n, o, e); err != nil {
		return plan.State{}, invalid(fmt.Errorf("endpoint %s of network %s: %w", short(e.ID), n.Name, err))
	}
	r := endpointRender{n: n, e: e, o: o, h: h, host: EndpointLinkName(e.ID), inside: insideName(e),
		rules: firewall.Elements{Owner: endpointScope(e)}}
	r.link(o.mtu(n, h))
	r.limit(o.mtu(n, h))
	if !e.Handed {
		r.addresses()
		r.state.Routes = append(r.state.Routes, append(siblings(n, e), o.Routes...).For(e, r.state)...)
		r.sysctls()
		r.ownSysctls()
	}
	if o.SourceValidation {
		r.rules.Source(r.host, e.MAC, e.Addrs)
	}
	r.leave()
	if err := r.publish(); err != nil {
		return plan.State{}, invalid(fmt.Errorf("endpoint %s of network %s: %w", short(e.ID), n.Name, err))
	}
	r.state.Rules.Elements = r.rules.List
	r.fast(o.mtu(n, h))
	return r.state, nil
}

// insideName is that of the pair's other end. One that is handed over is in the fabric's own namespace, until its
// engine has taken it.
func insideName(e cnm.Endpoint) string {
	if e.Handed {
		return linkname.Of(linkname.Loose, e.ID)
	}
	return e.LinkName()
}

// RenderInside renders what an endpoint has in its sandbox beside its link: addresses, routes and sysctls.
func RenderInside(n cnm.Network, e cnm.Endpoint, h cnm.Host) plan.State {
	r := endpointRender{n: n, e: e, h: h, inside: e.LinkName()}
	r.addresses()
	r.leased()
	r.sysctls()
	r.ownSysctls()
	return r.state
}

// leased are the routes that a DHCP server has given. They lead out of the network.
func (r *endpointRender) leased() {
	if r.e.Leased == nil || len(r.e.Addrs) == 0 || r.n.Internal {
		return
	}
	for _, given := range r.e.Leased.Routes {
		r.state.Routes = append(r.state.Routes, plan.Route{NS: r.e.NetNS, Dst: given.Dst, Via: given.Via,
			Link: r.inside})
	}
}

// CheckEndpoint implements [cnm.EndpointChecker]. Ports that are still to be chosen (Dynamic
// with host port 0) pass. The error is a [cnm.ErrInvalid].
func (Driver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	o, err := options(n)
	if err != nil {
		return invalid(err)
	}
	return CheckEndpoint(n, e, o)
}

// CheckEndpoint is the method of the same name with the network's options decoded.
func CheckEndpoint(n cnm.Network, e cnm.Endpoint, o Options) error {
	if err := checkEndpoint(n, o, e); err != nil {
		return invalid(err)
	}
	for _, p := range e.Ports {
		if p.Dynamic && p.HostPort == 0 {
			p.HostPort = 1
		}
		if _, err := targets(n, o, e, p); err != nil {
			return invalid(err)
		}
	}
	return nil
}

func checkEndpoint(n cnm.Network, o Options, e cnm.Endpoint) error {
	switch {
	case e.NetNS == "" && !e.Handed:
		return fmt.Errorf("its sandbox is the host itself, which joins no network of driver %s: use a sandbox with "+
			"a network namespace", n.Driver)
	case e.Index < 0 || e.Index > cnm.MaxIndex:
		return fmt.Errorf("index %d: a sandbox has %d endpoints at most", e.Index, cnm.MaxIndex+1)
	case e.GwPriority < -cnm.MaxGwPriority || e.GwPriority > cnm.MaxGwPriority:
		return fmt.Errorf("gateway priority %d: want %d to %d", e.GwPriority, -cnm.MaxGwPriority, cnm.MaxGwPriority)
	case o.SourceValidation && e.MAC == plan.MAC{}:
		return fmt.Errorf("no MAC address: source validation needs one (or set option source-validation=false)")
	case e.MAC[0]&1 != 0:
		return fmt.Errorf("MAC address %s is a group address: the first byte must be even", e.MAC)
	}
	if o.OnLAN() && len(e.Ports) > 0 {
		return fmt.Errorf("port %s: the network is a LAN, on which every port can be reached: publish none", e.Ports[0])
	}
	for _, a := range e.Addrs {
		if !poolOf(n, a.Addr()).Subnet.IsValid() {
			return fmt.Errorf("address %s is in no subnet of the network", a.Addr())
		}
	}
	return checkOutboundOf(n, o, e)
}

type endpointRender struct {
	n            cnm.Network
	e            cnm.Endpoint
	o            Options
	h            cnm.Host
	host, inside string
	state        plan.State
	rules        firewall.Elements
}

func (r *endpointRender) link(mtu int) {
	r.state.Links = []plan.Link{{
		Name: r.host, Owner: endpointScope(r.e), Kind: plan.Veth, MTU: mtu, Up: true,
		Master: r.o.Link(r.n),
		// Hairpin always: with bridge-nf-call-iptables=1 a published port of
		// the endpoint itself turns round inside the bridge. On a LAN nothing is published.
		//
		// With source validation the endpoint's own address is all there is behind the port. A bridge learns from
		// frames to link-local groups (IEEE 802.1D, 7.12.6) before any filter sees them, so it must not learn.
		Port: plan.BridgePort{Isolated: !r.o.ICC, Hairpin: !r.o.OnLAN(), NoLearning: r.o.SourceValidation,
			NoFlood: r.o.SourceValidation},
		Peer: plan.VethPeer{NS: r.e.NetNS, Name: r.inside, MAC: r.e.MAC, Loose: r.e.Handed},
	}}
	if r.o.SourceValidation {
		r.state.FDB = []plan.FDBEntry{{Link: r.host, MAC: r.e.MAC}}
	}
}

func (r *endpointRender) addresses() {
	for _, a := range r.e.Addrs {
		r.state.Addrs = append(r.state.Addrs, plan.Addr{NS: r.e.NetNS, Link: r.inside, Prefix: a})
		gw := poolOf(r.n, a.Addr()).Gateway
		if l := r.e.Leased; l != nil && a.Addr().Is4() && l.Router.IsValid() {
			gw = l.Router
		}
		if r.n.Internal || !gw.IsValid() || r.routed(gw.Is4()) {
			continue
		}
		any := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		if gw.Is4() {
			any = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		}
		r.defaultRoute(a, any, gw)
	}
}

// defaultRoute leads out of the sandbox. Whoever administers the container may replace it, as a VPN's client does: it
// is made once. What tells that it was made is the same route in a table of the endpoint's own, by which answers leave
// when another endpoint provides the default route: they carry the address that was asked.
func (r *endpointRender) defaultRoute(a, all netip.Prefix, gw netip.Addr) {
	// On the link whatever the container has made of its other routes: one without a route to its subnet is repaired
	// too.
	way := plan.Route{NS: r.e.NetNS, Dst: all, Via: gw, Link: r.inside, Metric: Metric(r.e), OnLink: true}
	if r.e.Plain {
		way.Metric = 0
	}
	own := way
	way.Once, own.Table = Table(r.e), Table(r.e)
	r.state.Routes = append(r.state.Routes, way, own)
	if r.e.Plain {
		return
	}
	r.state.Routes = append(r.state.Routes, plan.Route{
		NS: r.e.NetNS, Dst: a.Masked(), Link: r.inside, Table: own.Table,
	})
	r.state.Policies = append(r.state.Policies, plan.PolicyRule{
		NS: r.e.NetNS, Priority: policyPriority, From: netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), Table: own.Table,
	})
}

// policyPriority comes before the main table. A rule that a container adds without a priority comes before ours.
const policyPriority = 32000

// Table is the number of the endpoint's own routing table.
func Table(e cnm.Endpoint) uint32 { return uint32(11700 + e.Index) }

// routed reports whether the family already has its default route: a second
// address of a family brings no second one.
func (r *endpointRender) routed(is4 bool) bool {
	for _, route := range r.state.Routes {
		if route.Dst.Addr().Is4() == is4 {
			return true
		}
	}
	return false
}

// Metric is the metric of an endpoint's default routes. It only depends on the
// endpoint itself; the kernel takes the lowest, so the endpoint with the highest
// priority provides the default route, and among equals the first.
func Metric(e cnm.Endpoint) uint32 {
	return uint32((cnm.MaxGwPriority-e.GwPriority)*32 + e.Index + 1)
}

// ipv6 tells whether the endpoint has an IPv6 address.
func (r *endpointRender) ipv6() bool {
	for _, a := range r.e.Addrs {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

func (r *endpointRender) sysctls() {
	set := func(key, value string) {
		r.state.Sysctls = append(r.state.Sysctls,
			plan.Sysctl{NS: r.e.NetNS, Path: "ipv6/conf/" + r.inside + "/" + key, Value: value})
	}
	if r.h.NoIPv6 {
		return
	}
	if !r.ipv6() {
		set("disable_ipv6", "1")
		return
	}
	set("disable_ipv6", "0")
	set("accept_ra", "0") // the fabric alone gives addresses and routes
}

// ownSysctls are those that were asked for, in place of ours of the same name.
func (r *endpointRender) ownSysctls() {
	for _, name := range slices.Sorted(maps.Keys(r.e.Sysctls)) {
		own := plan.Sysctl{NS: r.e.NetNS, Path: cnm.SysctlPath(name, r.inside), Value: r.e.Sysctls[name]}
		r.state.Sysctls = slices.DeleteFunc(r.state.Sysctls, func(s plan.Sysctl) bool { return s.Path == own.Path })
		r.state.Sysctls = append(r.state.Sysctls, own)
	}
}
