package firewall

import "github.com/vethloom/vethloom/plan"

// Priorities of the hooks, see nft(8). The bridge table's is ahead of
// br_netfilter (-1), so a frame is checked before it becomes a packet.
const (
	prioRaw    = -300
	prioDNAT   = -100
	prioFilter = 0
	prioSNAT   = 100
	prioBridge = -300
)

// chainCluster judges what passes between a network's bridge and the links to its other nodes.
const chainCluster = "cluster"

// chainClamp has connections send no segment that is too large for a part of their path.
const chainClamp = "clamp"

// chainTunnel judges what is sent to the ports of tunnels.
const chainTunnel = "tunnel"

func is(f plan.Field, values ...string) plan.Match {
	return plan.Match{Fields: []plan.Field{f}, Values: values}
}

func not(m plan.Match) plan.Match { m.Not = true; return m }

func in(set string, fields ...plan.Field) plan.Match {
	return plan.Match{Fields: fields, Set: set}
}

func rule(v plan.Verdict, m ...plan.Match) plan.Rule { return plan.Rule{Match: m, Verdict: v} }

func dropped(m ...plan.Match) plan.Rule {
	return plan.Rule{Match: m, Verdict: plan.Drop, Counter: true}
}

func jump(to string, m ...plan.Match) plan.Rule {
	return plan.Rule{Match: m, Verdict: plan.Jump, Target: to}
}

func inetChains() []plan.Chain {
	chain := func(name, typ, hook string, prio int, rules []plan.Rule) plan.Chain {
		return plan.Chain{Family: plan.Inet, Name: name, Rules: rules,
			Base: plan.Base{Type: typ, Hook: hook, Priority: prio, Policy: "accept"}}
	}
	return []plan.Chain{
		chain("raw", "filter", "prerouting", prioRaw, rawRules()),
		chain("input", "filter", "input", prioFilter, inputRules()),
		chain("forward", "filter", "forward", prioFilter, forwardRules()),
		{Family: plan.Inet, Name: chainClamp, Rules: clampRules()},
		{Family: plan.Inet, Name: chainCluster, Rules: clusterRules()},
		{Family: plan.Inet, Name: chainTunnel, Rules: tunnelRules()},
		{Family: plan.Inet, Name: "publish", Rules: publishRules()},
		chain("prerouting", "nat", "prerouting", prioDNAT, localToPublish()),
		chain("output", "nat", "output", prioDNAT, localToPublish()),
		chain("postrouting", "nat", "postrouting", prioSNAT, postroutingRules()),
	}
}

// rawRules close what route_localnet opens: with it a neighbour could send to
// the host's 127.0.0.0/8. Conntrack has not yet translated anything here, so answers
// to the host's own loopback connections are not affected. The address comes first: a link's
// name costs more to compare, and every packet passes here.
func rawRules() []plan.Rule {
	f := v4()
	notLo := not(is(plan.IIfName, "lo"))
	ip := is(plan.NFProto, f.proto)
	return []plan.Rule{
		dropped(ip, is(f.daddr, f.loopback), notLo),
		dropped(ip, is(f.saddr, f.loopback), notLo),
	}
}

// inputRules let an internal network reach its own gateway address, and no
// other address of the host. What comes by a tunnel must be from inside its network. All else leaves with one look-up.
func inputRules() []plan.Rule {
	rules := []plan.Rule{
		jump(chainTunnel, is(plan.L4Proto, "udp"), in(setTunnelPorts, plan.DPort)),
		rule(plan.Accept, not(in(setNetworks, plan.IIfName))),
		rule(plan.Accept, not(in(setRestricted, plan.IIfName))),
	}
	for _, f := range families() {
		rules = append(rules, dropped(in(setTunnels, plan.IIfName), is(plan.NFProto, f.proto),
			not(in(f.local, f.saddr, plan.IIfName))))
	}
	internal := in(setInternal, plan.IIfName)
	rules = append(rules, rule(plan.Accept, internal, is(plan.CTState, "established", "related")))
	for _, f := range families() {
		rules = append(rules, rule(plan.Accept, internal, is(plan.NFProto, f.proto),
			in(f.local, f.daddr, plan.IIfName)))
	}
	// Neighbour discovery: solicited-node groups and link-local addresses (RFC 4861).
	f := v6()
	rules = append(rules,
		rule(plan.Accept, internal, is(plan.NFProto, f.proto), is(plan.L4Proto, "ipv6-icmp"),
			is(f.daddr, "ff02::/16", "fe80::/10")),
		dropped(internal))
	return rules
}

// tunnelRules let nodes that a tunnel leads to send to the tunnels' ports, by the link that the way to them leads out
// by, and nobody else: a VXLAN device asks neither who sent a packet nor by which link it came. Containers, wherever
// they are, speak for no node.
func tunnelRules() []plan.Rule {
	rules := []plan.Rule{dropped(in(setNetworks, plan.IIfName))}
	for _, f := range families() {
		rules = append(rules, rule(plan.Accept, is(plan.NFProto, f.proto), in(f.nodes, f.saddr),
			is(plan.FIBSaddrOIf, "exists")))
	}
	return append(rules, dropped())
}

func forwardRules() []plan.Rule {
	rules := []plan.Rule{
		jump(chainClamp, syn()...),
		rule(plan.Accept, is(plan.CTState, "established", "related")),
		// A network's own paths. Frames of one bridge are seen here only with br_netfilter, or when
		// an endpoint sends to its neighbour by way of the gateway. One look-up finds them all: what is
		// never answered, such as much of UDP, is never established and comes here with every packet.
		{Verdict: plan.VMap, Key: []plan.Field{plan.IIfName, plan.OIfName}, Target: setForward},
		// A tunnel leads from its bridge to its bridge, and is no way to or from anything else.
		dropped(in(setTunnels, plan.IIfName)),
		dropped(in(setTunnels, plan.OIfName)),
		dropped(in(setInternal, plan.IIfName)),
		dropped(in(setInternal, plan.OIfName)),
	}
	// NAT does not see what conntrack calls invalid: it would leave with the
	// endpoint's own address.
	for _, f := range families() {
		rules = append(rules, dropped(is(plan.CTState, "invalid"), is(plan.NFProto, f.proto), in(f.masq, f.saddr)))
	}
	rules = append(rules, rule(plan.Accept, in(setBridges, plan.OIfName), is(plan.CTStatus, "dnat")))
	for _, f := range families() {
		rules = append(rules, rule(plan.Accept, is(plan.NFProto, f.proto), in(f.open, plan.OIfName),
			not(in(setBridges, plan.IIfName))))
	}
	return append(rules,
		dropped(in(setBridges, plan.OIfName)),
		// To another node's tunnel, with this node's address as its source once it is masqueraded.
		dropped(is(plan.L4Proto, "udp"), in(setTunnelPorts, plan.DPort), in(setBridges, plan.IIfName)),
	)
}

func syn() []plan.Match { return []plan.Match{is(plan.L4Proto, "tcp"), is(plan.TCPFlags, "syn")} }

// clampRules are for connections of containers. Both sides learn from each other's SYN what to send at most. A link may
// have a smaller MTU than theirs, and what would tell them of it, ICMP, is lost on many paths.
func clampRules() []plan.Rule {
	return []plan.Rule{
		rule(plan.ClampMSS, append(syn(), in(setNetworks, plan.IIfName))...),
		rule(plan.ClampMSS, append(syn(), in(setNetworks, plan.OIfName))...),
	}
}

// clusterRules accept what is from inside a network of several nodes, and for inside it. The links
// are one network's already.
func clusterRules() []plan.Rule {
	var rules []plan.Rule
	for _, f := range families() {
		rules = append(rules, rule(plan.Accept, is(plan.NFProto, f.proto), in(f.cluster, f.saddr, f.daddr)))
	}
	return rules
}

func localToPublish() []plan.Rule {
	return []plan.Rule{jump("publish", is(plan.FIBDaddrType, "local"))}
}

func publishRules() []plan.Rule {
	var rules []plan.Rule
	for _, f := range families() {
		port := []plan.Field{f.saddr, f.daddr, plan.L4Proto, plan.DPort}
		for _, m := range []struct {
			name string
			key  []plan.Field
		}{
			{f.anywhere, port[2:]}, {f.ports, port[1:]}, {f.ranges, port[1:]}, {f.from, port}, {f.fromRanges, port},
		} {
			rules = append(rules, plan.Rule{
				Match: []plan.Match{is(plan.NFProto, f.proto), is(plan.L4Proto, string(plan.TCP), string(plan.UDP),
					string(plan.SCTP))},
				Verdict: plan.DNAT, Target: m.name, Key: m.key, Addr: f.ip,
			})
		}
		rules = append(rules, ingressRule(f))
	}
	return rules
}

// ingressRule leads what comes for a port of every node on to the node that publishes it. What the host itself sends to
// its loopback address cannot leave it.
func ingressRule(f family) plan.Rule {
	return plan.Rule{Match: []plan.Match{is(plan.NFProto, f.proto), not(is(f.daddr, f.loopback)),
		is(plan.L4Proto, string(plan.TCP), string(plan.UDP), string(plan.SCTP))},
		Verdict: plan.DNAT, Target: f.ingress, Key: []plan.Field{plan.L4Proto, plan.DPort}, Addr: f.ip}
}

// chosen gives what leaves the host the address that a map has for its source.
func chosen(f family, set string, ip plan.Match) plan.Rule {
	return plan.Rule{Match: []plan.Match{ip, not(in(setBridges, plan.OIfName))}, Verdict: plan.SNAT, Addr: f.ip,
		Key: []plan.Field{f.saddr}, Target: set}
}

func postroutingRules() []plan.Rule {
	var rules []plan.Rule
	for _, f := range families() {
		ip := is(plan.NFProto, f.proto)
		own := in(f.local, f.saddr, plan.OIfName)
		rules = append(rules,
			// An endpoint that reaches itself or a neighbour by a published port
			// must get its answers from the host, or it would not know them.
			rule(plan.Masquerade, ip, own, is(plan.CTStatus, "dnat")),
			rule(plan.Return, ip, own),
			rule(plan.Return, ip, in(f.cluster, f.saddr, f.daddr)),
			rule(plan.Return, ip, is(f.daddr, f.multicast...)),
			// What another node publishes comes back by this one, which has translated it.
			rule(plan.Masquerade, ip, is(plan.L4Proto, string(plan.TCP), string(plan.UDP), string(plan.SCTP)),
				in(f.onward, f.daddr, plan.L4Proto, plan.DPort), is(plan.CTStatus, "dnat")),
			// What leaves by an address of its own choice: an endpoint, or all of a network.
			chosen(f, f.leave, ip), chosen(f, f.leaveNet, ip),
			rule(plan.Masquerade, ip, in(f.masq, f.saddr)),
			rule(plan.Masquerade, ip, is(f.saddr, f.loopback), in(setBridges, plan.OIfName)),
		)
	}
	return rules
}

// sourceRules check what the ports of our bridges send. After one comparison, two rules settle nearly every packet with
// one look-up.
func sourceRules() []plan.Rule {
	ip, ip6, arp := is(plan.EtherType, "ip"), is(plan.EtherType, "ip6"), is(plan.EtherType, "arp")
	icmp6 := is(plan.L4Proto, "ipv6-icmp")
	from := func(addr plan.Field, set string) plan.Match { return in(set, plan.IIfName, plan.EtherSaddr, addr) }
	rules := []plan.Rule{
		// Who asks for the members of groups (IGMP's general query goes to 224.0.0.1) is the bridge alone.
		dropped(ip, is(plan.IPDaddr, "224.0.0.1"), is(plan.L4Proto, "igmp"), in(setGuarded, plan.IIfName)),
		rule(plan.Accept, ip, from(plan.IPSaddr, v4().source)),
		rule(plan.Accept, ip6, not(icmp6), from(plan.IP6Saddr, v6().source)),
	}
	rules = append(rules, ofLink(plan.IIfName)...)
	return append(rules,
		rule(plan.Accept, not(in(setGuarded, plan.IIfName))),
		dropped(not(in(setSourceMAC, plan.IIfName, plan.EtherSaddr))),

		// ARP: the sender's fields are what neighbours learn. 0.0.0.0 asks
		// whether an address is in use (RFC 5227) and teaches nothing.
		dropped(arp, not(in(setSourceMAC, plan.IIfName, plan.ARPSaddrEther))),
		rule(plan.Accept, arp, is(plan.ARPSaddrIP, "0.0.0.0")),
		rule(plan.Accept, arp, in(v4().source, plan.IIfName, plan.ARPSaddrEther, plan.ARPSaddrIP)),

		// Queries for members of groups (130), router advertisements (134) and redirects (137) are for routers to send.
		dropped(ip6, icmp6, is(plan.ICMPv6Type, "mld-listener-query", "nd-router-advert", "nd-redirect")),
		// A neighbour advertisement (RFC 4861) speaks for its target, whatever its source is.
		dropped(ip6, icmp6, is(plan.ICMPv6Type, "nd-neighbor-advert"), not(from(plan.ICMPv6Target, v6().source))),
		rule(plan.Accept, ip6, icmp6, from(plan.IP6Saddr, v6().source)),
		// A link without an address of its own yet: duplicate address
		// detection (RFC 4862) and multicast listener reports (RFC 3810).
		rule(plan.Accept, ip6, icmp6, is(plan.IP6Saddr, "::"),
			is(plan.ICMPv6Type, "nd-neighbor-solicit", "mld-listener-report", "mld2-listener-report")),
		dropped(),
	)
}
