package bridge

import (
	"strconv"

	"github.com/vethloom/vethloom/internal/plan"
)

// FabricConfig is what the fabric's shared state depends on.
type FabricConfig struct {
	// NoIPv6 is set on hosts whose kernel has IPv6 switched off (ipv6.disable=1):
	// no IPv6 sysctl exists there.
	NoIPv6 bool
	// AcceptRA names the host links whose accept_ra is 1. The kernel ignores
	// router advertisements on those once forwarding is on (kernel
	// ip-sysctl: accept_ra), so they get 2, which keeps the host's own IPv6.
	AcceptRA []string
	// BridgeNetfilterOff clears bridge-nf-call-iptables and -ip6tables. The
	// caller decides: other tools on the host may depend on them.
	BridgeNetfilterOff bool
}

// OuterPorts renders the UDP ports that tunnels of this node receive on: whoever sends to such a port speaks for a node, to
// all the networks that use it, so containers may not.
func OuterPorts(owner plan.Scope, ports []uint16) []plan.Element {
	var out []plan.Element
	for _, p := range ports {
		out = append(out, plan.Element{Family: plan.Inet, Set: setOuter, Keys: []string{strconv.Itoa(int(p))}, Scope: owner})
	}
	return out
}

// Fabric renders what every network shares: the tables' chains and sets,
// without elements, and the forwarding sysctls.
func Fabric(c FabricConfig) plan.State {
	return plan.State{
		Rules:   plan.Ruleset{Chains: append(inetChains(), sourceChain()), Sets: fabricSets()},
		Sysctls: fabricSysctls(c),
	}
}

func fabricSysctls(c FabricConfig) []plan.Sysctl {
	s := []plan.Sysctl{{Path: "ipv4/ip_forward", Value: "1"}}
	if !c.NoIPv6 {
		// Before forwarding: there is no moment in which the host is deaf.
		for _, link := range c.AcceptRA {
			s = append(s, plan.Sysctl{Path: "ipv6/conf/" + link + "/accept_ra", Value: "2"})
		}
		s = append(s, plan.Sysctl{Path: "ipv6/conf/all/forwarding", Value: "1"})
	}
	if c.BridgeNetfilterOff {
		s = append(s, plan.Sysctl{Path: "bridge/bridge-nf-call-iptables", Value: "0"},
			plan.Sysctl{Path: "bridge/bridge-nf-call-ip6tables", Value: "0"})
	}
	return s
}

// The sets and maps. Networks and endpoints add and remove their elements.
const (
	setBridges  = "bridges"
	setWays     = "ways"
	setInternal = "internal"
	setRouted   = "routed"
	setTunnels  = "tunnels"
	setInner    = "inner"
	setClosed   = "closed"
	setOuter    = "outer"

	setGuarded   = "guarded"
	setSourceMAC = "sourcemac"
)

// family holds what differs between the two IP families, so that everything
// else is written once.
type family struct {
	proto        string // meta nfproto
	ether        string // meta protocol
	ip           string // DNAT address family
	addr         plan.DataType
	saddr, daddr plan.Field
	local        string // address . ifname: its own bridge
	inside       string // address . address: between the nodes' parts of a network
	masq         string
	ports        string
	ranges       string
	source       string
	loopback     string
	any          string
	multicast    []string // never masqueraded
}

func v4() family {
	return family{
		proto: "ipv4", ether: "ip", ip: "ip", addr: plan.TypeIPv4, saddr: plan.IPSaddr, daddr: plan.IPDaddr,
		local: "local4", inside: "inside4", masq: "masq4", ports: "ports4", ranges: "range4", source: "source4",
		loopback: "127.0.0.0/8", any: "0.0.0.0/0", multicast: []string{"224.0.0.0/4", "255.255.255.255"},
	}
}

func v6() family {
	return family{
		proto: "ipv6", ether: "ip6", ip: "ip6", addr: plan.TypeIPv6, saddr: plan.IP6Saddr, daddr: plan.IP6Daddr,
		local: "local6", inside: "inside6", masq: "masq6", ports: "ports6", ranges: "range6", source: "source6",
		loopback: "::1", any: "::/0", multicast: []string{"ff00::/8"},
	}
}

func families() []family { return []family{v4(), v6()} }

func fabricSets() []plan.Set {
	inet := func(name string, key ...plan.DataType) plan.Set {
		return plan.Set{Family: plan.Inet, Name: name, KeyTypes: key}
	}
	br := func(name string, key ...plan.DataType) plan.Set {
		return plan.Set{Family: plan.BridgeTable, Name: name, KeyTypes: key}
	}
	interval := func(s plan.Set, data ...plan.DataType) plan.Set {
		s.Interval, s.Data = true, data
		return s
	}
	verdicts := func(s plan.Set) plan.Set {
		s.Data = []plan.DataType{plan.TypeVerdict}
		return s
	}
	sets := []plan.Set{
		inet(setBridges, plan.TypeIfName),
		verdicts(inet(setWays, plan.TypeIfName, plan.TypeIfName)),
		inet(setInternal, plan.TypeIfName),
		inet(setRouted, plan.TypeIfName),
		inet(setTunnels, plan.TypeIfName),
		inet(setInner, plan.TypeIfName),
		inet(setClosed, plan.TypeIfName),
		inet(setOuter, plan.TypePort),
		br(setGuarded, plan.TypeIfName),
		br(setSourceMAC, plan.TypeIfName, plan.TypeEther),
	}
	for _, f := range families() {
		port := []plan.DataType{f.addr, plan.TypeInetProto, plan.TypePort}
		sets = append(sets,
			interval(inet(f.local, f.addr, plan.TypeIfName)),
			interval(inet(f.inside, f.addr, f.addr)),
			interval(inet(f.masq, f.addr)),
			interval(inet(f.ports, port...), f.addr, plan.TypePort),
			interval(inet(f.ranges, port...), f.addr),
			br(f.source, plan.TypeIfName, plan.TypeEther, f.addr),
		)
	}
	return sets
}
