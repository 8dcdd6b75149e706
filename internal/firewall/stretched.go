package firewall

import "github.com/vethloom/vethloom/plan"

// What bridges, routers and their neighbours say to each other stays on a node: each node's bridge asks for the
// members of groups on that node alone, and is the gateway there. So it neither leaves by a port that leads to other
// nodes' bridges nor comes in by one.

func bridgeChains() []plan.Chain {
	frames := func(name, hook string, rules ...plan.Rule) plan.Chain {
		return plan.Chain{Family: plan.BridgeTable, Name: name, Rules: rules,
			Base: plan.Base{Type: "filter", Hook: hook, Priority: prioBridge, Policy: "accept"}}
	}
	return []plan.Chain{
		frames("source", "prerouting", sourceRules()...),
		frames("passing", "forward", ofLink(plan.OIfName)...),
		frames("own", "output", hostRules()...),
	}
}

// ofLink drops what is for a link's own routers and members, where a port that leads to other nodes' bridges is at
// that end. Neighbour solicitations get as far as the VXLAN device, which answers them: an advertisement that nobody
// has asked for is one to a group.
func ofLink(port plan.Field) []plan.Rule {
	ip, ip6, icmp6 := is(plan.EtherType, "ip"), is(plan.EtherType, "ip6"), is(plan.L4Proto, "ipv6-icmp")
	stretched := in(setStretched, port)
	return []plan.Rule{
		dropped(ip, is(plan.L4Proto, "igmp"), stretched),
		dropped(ip6, icmp6, is(plan.ICMPv6Type, "mld-listener-query", "mld-listener-report", "mld-listener-done",
			"nd-router-advert", "nd-redirect", "mld2-listener-report"), stretched),
		dropped(ip6, icmp6, is(plan.ICMPv6Type, "nd-neighbor-advert"), is(plan.IP6Daddr, "ff00::/8"), stretched),
	}
}

// hostRules keep what the host itself says to groups on the host: it has the gateway's address there, as each node has.
// What it asks neighbours is for the VXLAN device to answer.
func hostRules() []plan.Rule {
	stretched := in(setStretched, plan.OIfName)
	return []plan.Rule{
		dropped(is(plan.EtherType, "ip"), is(plan.IPDaddr, v4().multicast...), stretched),
		rule(plan.Accept, is(plan.EtherType, "ip6"), is(plan.L4Proto, "ipv6-icmp"),
			is(plan.ICMPv6Type, "nd-neighbor-solicit")),
		dropped(is(plan.EtherType, "ip6"), is(plan.IP6Daddr, "ff00::/8"), stretched),
	}
}
