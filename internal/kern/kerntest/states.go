package kerntest

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
	"pgregory.net/rapid"
)

// RandomState draws a state that a kernel can have: whatever an object refers to
// is part of it. Names and addresses come from small sets, so that two states
// drawn one after the other share some objects and differ in others.
func RandomState(t *rapid.T) plan.State {
	g := &generator{t: t, taken: map[string]bool{}, tuns: map[string]bool{}}
	for _, ns := range []plan.NetNS{"a", "b", "c"} {
		if g.chance(60, "namespace") {
			g.s.Namespaces = append(g.s.Namespaces, plan.Namespace{Name: ns})
			g.ns = append(g.ns, ns)
		}
	}
	for i := range 2 {
		if g.chance(70, "bridge") {
			g.bridge(i)
		}
	}
	for i := range 5 {
		if g.chance(60, "veth") {
			g.veth(i)
		}
	}
	g.spanning()
	g.traffic()
	g.fastPath()
	g.ports()
	g.rules()
	return g.s
}

type generator struct {
	t       *rapid.T
	s       plan.State
	ns      []plan.NetNS
	bridges []string
	taken   map[string]bool // link names by namespace
	tuns    map[string]bool // names of TUN links
}

func (g *generator) chance(percent int, label string) bool {
	return rapid.IntRange(0, 99).Draw(g.t, label) < percent
}

func pick[T any](g *generator, label string, from ...T) T {
	return rapid.SampledFrom(from).Draw(g.t, label)
}

func (g *generator) bridge(i int) {
	l := plan.Link{
		Name: fmt.Sprintf("vl%d", i), Owner: plan.Owner(fmt.Sprintf("network/%d", i)), Kind: plan.Bridge,
		MTU: pick(g, "mtu", 0, 1400, 1500), Up: g.chance(90, "up"), MAC: g.mac(i),
		Querier: g.chance(50, "querier"),
	}
	g.s.Links = append(g.s.Links, l)
	g.taken[l.Key()] = true
	g.bridges = append(g.bridges, l.Name)
	if l.Up {
		g.furnish("", l.Name, i+1)
	}
}

func (g *generator) mac(i int) plan.MAC {
	return pick(g, "mac", plan.MAC{}, plan.MAC{2, 0, 0, 0, 1, byte(i)}, plan.MAC{2, 0, 0, 0, 2, byte(i)})
}

// veth makes a pair whose near end has, now and then, the name that a bridge
// has in other states.
func (g *generator) veth(i int) {
	l := plan.Link{
		Name: fmt.Sprintf("vl%d", i), Owner: plan.Owner(fmt.Sprintf("endpoint/%d", i)), Kind: plan.Veth,
		MTU: pick(g, "mtu", 1400, 1500), Up: g.chance(80, "up"), MAC: g.mac(10 + i), GSO: pick(g, "gso", 0, 185000),
		Peer: plan.VethPeer{Name: pick(g, "peer name", "eth0", "eth1"), MAC: g.mac(20 + i)},
	}
	if len(g.ns) > 0 {
		l.Peer.NS = pick(g, "peer namespace", append(g.ns, "")...)
		if g.chance(15, "not in the fabric") {
			l.NS = pick(g, "namespace", g.ns...)
		}
	}
	if peer := (plan.Link{NS: l.Peer.NS, Name: l.Peer.Name}).Key(); g.taken[l.Key()] || g.taken[peer] {
		return
	} else {
		g.taken[l.Key()], g.taken[peer] = true, true
	}
	if l.NS == "" && len(g.bridges) > 0 && g.chance(70, "port") {
		l.Master = pick(g, "master", g.bridges...)
		l.Port = g.port()
	}
	g.s.Links = append(g.s.Links, l)
	g.behind(l, 10+i)
	if l.Up {
		g.furnish(l.Peer.NS, l.Peer.Name, 10+i)
		if l.Master == "" {
			g.furnish(l.NS, l.Name, 20+i)
		}
	}
}

// furnish puts addresses, routes, neighbours and sysctls on a link.
func (g *generator) furnish(ns plan.NetNS, link string, subnet int) {
	for _, six := range []bool{false, true} {
		host := func(n int) netip.Addr {
			if six {
				return netip.MustParseAddr(fmt.Sprintf("fd00:%x::%x", subnet, n))
			}
			return netip.MustParseAddr(fmt.Sprintf("10.%d.0.%d", subnet, n))
		}
		bits := 16
		if six {
			bits = 64
		}
		var own []netip.Addr
		for n := 1; n <= 3; n++ {
			if g.chance(40, "address") {
				own = append(own, host(n))
				g.s.Addrs = append(g.s.Addrs,
					plan.Addr{NS: ns, Link: link, Prefix: netip.PrefixFrom(host(n), bits+pick(g, "longer", 0, 0, 4))})
			}
		}
		if len(own) == 0 {
			continue
		}
		g.routes(ns, link, host(9), own, subnet)
		if !g.tuns[link] && g.chance(40, "neighbour") { // a TUN link has none
			g.s.Neighs = append(g.s.Neighs, plan.Neigh{NS: ns, Link: link, IP: host(8),
				MAC: plan.MAC{2, 0, 0, 0, 3, pick(g, "mac", byte(1), 2)}})
		}
	}
	if g.chance(40, "sysctl") {
		g.s.Sysctls = append(g.s.Sysctls, plan.Sysctl{NS: ns, Path: "ipv4/conf/" + link + "/route_localnet",
			Value: pick(g, "value", "0", "1")})
	}
}

// routes leads some destinations through a link. The metric is the subnet's number,
// so that links do not compete for a key.
func (g *generator) routes(ns plan.NetNS, link string, via netip.Addr, own []netip.Addr, subnet int) {
	dsts := []string{"0.0.0.0/0", "198.51.100.0/24", "203.0.113.7/32"}
	if via.Is6() {
		dsts = []string{"::/0", "2001:db8:1::/48", "2001:db8:2::7/128"}
	}
	for i, dst := range dsts {
		if !g.chance(35, "route") {
			continue
		}
		r := plan.Route{NS: ns, Link: link, Dst: netip.MustParsePrefix(dst), Metric: uint32(subnet),
			Table: pick(g, "table", uint32(0), 77)}
		switch pick(g, "kind", "via", "link", "onlink", "blackhole", "local") {
		case "via":
			r.Via = via
		case "onlink":
			r.Via, r.OnLink = netip.MustParseAddr("192.0.2.1"), true
			if via.Is6() {
				r.Via = netip.MustParseAddr("2001:db8:3::1")
			}
		case "blackhole":
			r.Type, r.Link = plan.Blackhole, ""
		case "local":
			r.Type = plan.Local
			if i == 0 {
				r.Type = plan.Unicast
			}
		}
		if r.Type == plan.Unicast && g.chance(30, "source") {
			r.Src = pick(g, "source", own...)
		}
		if r.Table == 0 && r.Type == plan.Unicast && g.chance(30, "once") {
			r.Once = 78
			twin := r
			twin.Table, twin.Once = r.Once, 0
			g.s.Routes = append(g.s.Routes, twin)
			g.s.Policies = append(g.s.Policies, plan.PolicyRule{NS: ns, Table: twin.Table,
				Priority: pick(g, "priority", uint32(32000), 32001),
				From:     netip.PrefixFrom(own[0], own[0].BitLen())})
		}
		g.s.Routes = append(g.s.Routes, r)
	}
}

// ports holds ranges that do not overlap.
func (g *generator) ports() {
	from := uint16(8000)
	for i := range 3 {
		if g.chance(50, "hold") {
			to := from + pick(g, "more", uint16(0), 0, 3)
			g.s.Ports = append(g.s.Ports, plan.PortReservation{
				Owner: plan.Owner(fmt.Sprintf("endpoint/%d", i)), Proto: pick(g, "transport", plan.TCP, plan.UDP),
				Addr: pick(g, "address", netip.IPv4Unspecified(), netip.IPv6Unspecified(),
					netip.MustParseAddr("127.0.0.1")),
				From: from, To: to,
			})
			from = to
		}
		from += pick(g, "gap", uint16(1), 2)
	}
}

// rules makes a table of a set, a map and a chain that looks into both.
func (g *generator) rules() {
	if !g.chance(70, "rules") {
		return
	}
	g.s.Rules.Sets = []plan.Set{
		{Family: plan.Inet, Name: "bridges", KeyTypes: []plan.DataType{plan.TypeIfName}},
		{Family: plan.Inet, Name: "ports4", KeyTypes: []plan.DataType{plan.TypeIPv4, plan.TypeInetProto, plan.TypePort},
			Data: []plan.DataType{plan.TypeIPv4, plan.TypePort}, Interval: true},
	}
	chain := plan.Chain{Family: plan.Inet, Name: "forward", Base: plan.Base{Type: "filter", Hook: "forward",
		Priority: 0, Policy: "accept"}}
	for _, v := range []plan.Verdict{plan.Accept, plan.Drop} {
		if g.chance(60, "rule") {
			chain.Rules = append(chain.Rules, plan.Rule{
				Match: []plan.Match{{Fields: []plan.Field{plan.OIfName}, Set: "bridges"}}, Verdict: v,
				Counter: g.chance(50, "counter")})
		}
	}
	g.s.Rules.Chains = []plan.Chain{chain}
	for i := range 3 {
		scope := plan.Owner(fmt.Sprintf("endpoint/%d", i))
		if g.chance(50, "bridge element") {
			g.s.Rules.Elements = append(g.s.Rules.Elements, plan.Element{
				Family: plan.Inet, Set: "bridges", Keys: []string{fmt.Sprintf("vl%d", i)}, Owner: scope})
		}
		if g.chance(50, "port element") {
			g.s.Rules.Elements = append(g.s.Rules.Elements, plan.Element{
				Family: plan.Inet, Set: "ports4", Owner: scope,
				Keys: []string{"0.0.0.0/0", "tcp", fmt.Sprint(8000 + i)},
				Data: []string{fmt.Sprintf("10.1.0.%d", pick(g, "to", 1, 2)), "80"}})
		}
	}
}

// port makes the flags of a bridge port.
func (g *generator) port() plan.BridgePort {
	return plan.BridgePort{Isolated: g.chance(50, "isolated"), Hairpin: g.chance(50, "hairpin"),
		NoLearning: g.chance(50, "learning off"), NoFlood: g.chance(50, "flood off"),
		Groups: g.chance(50, "all groups")}
}

// behind may have the bridge of a port know an address behind it.
func (g *generator) behind(l plan.Link, n int) {
	if l.Master != "" && g.chance(50, "address behind the port") {
		g.s.FDB = append(g.s.FDB, plan.FDBEntry{Link: l.Name, MAC: plan.MAC{2, 0, 0, 0, 5, byte(n)}})
	}
}
