package iptables

import (
	"slices"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// Of the bridge family there is one thing: what the ports of bridges may send, by the sets of these names.
const (
	bridgeTool  = "ebtables"
	sourceChain = "source"
	guardedSet  = "guarded"
	macSet      = "sourcemac"
	sourceSet4  = "source4"
	sourceSet6  = "source6"
	// ports that lead to other nodes' bridges
	stretchedSet = "stretched"
)

// hasBridge reports whether a ruleset has something for ebtables.
func hasBridge(r plan.Ruleset) bool {
	return slices.ContainsFunc(r.Elements, func(e plan.Element) bool { return e.Family == plan.BridgeTable })
}

// compileBridge makes a chain for each guarded port. What a neighbour advertisement of IPv6 speaks for cannot be
// looked at by ebtables, so endpoints with IPv6 are refused.
func compileBridge(r plan.Ruleset) (program, error) {
	p := program{tables: tables{}}
	if !hasBridge(r) {
		return p, nil
	}
	macs, addrs := map[string][]string{}, map[string][]string{}
	var ports, stretched []string
	for _, e := range r.Elements {
		switch {
		case e.Family != plan.BridgeTable:
		case e.Set == guardedSet:
			ports = append(ports, e.Keys[0])
		case e.Set == stretchedSet:
			stretched = append(stretched, e.Keys[0])
		case e.Set == macSet:
			macs[e.Keys[0]] = append(macs[e.Keys[0]], e.Keys[1])
		case e.Set == sourceSet4:
			addrs[e.Keys[0]] = append(addrs[e.Keys[0]], e.Keys[2])
		case e.Set == sourceSet6:
			return program{}, &unsupportedError{"source validation of IPv6, as it sees no target of a neighbour " +
				"advertisement", ", or create the network with -o source-validation=false"}
		default:
			return program{}, unsupported("the set " + e.Set + " of frames")
		}
	}
	chains := p.tables.table("nat").chains
	top := prefix + sourceChain
	for _, port := range slices.Sorted(slices.Values(stretched)) {
		if err := checkLink(port); err != nil {
			return program{}, err
		}
		chains[top] = append(chains[top], ofLink(top, port)...)
	}
	for _, port := range slices.Sorted(slices.Values(ports)) {
		name := prefix + port
		if err := checkLink(port); err != nil {
			return program{}, err
		}
		chains[top] = append(chains[top], "-A "+top+" -i "+port+" -j "+name)
		chains[name] = guard(name, macs[port], addrs[port])
	}
	chains[top] = append(chains[top], "-A "+top+" -j RETURN")
	p.hooks = []hook{{"nat", "PREROUTING", top}}
	return p, nil
}

// ofLink drops what bridges and routers say to those on their own link, where it comes from other nodes' bridges:
// IGMP and MLD, advertisements of routers and those of neighbours that nobody asked for, redirects.
func ofLink(chain, port string) []string {
	rules := []string{"-A " + chain + " -p IPv4 -i " + port + " --ip-proto igmp -j DROP"}
	for _, types := range []string{"--ip6-proto ipv6-icmp --ip6-icmp-type 130:132/0:255",
		"--ip6-proto ipv6-icmp --ip6-icmp-type router-advertisement",
		"--ip6-dst ff00::/8 --ip6-proto ipv6-icmp --ip6-icmp-type neighbour-advertisement",
		"--ip6-proto ipv6-icmp --ip6-icmp-type redirect", "--ip6-proto ipv6-icmp --ip6-icmp-type 143/0:255"} {
		rules = append(rules, "-A "+chain+" -p IPv6 -i "+port+" "+types+" -j DROP")
	}
	return rules
}

// guard lets a port send from its addresses alone, by IPv4 and ARP; see docs/design/firewall.md.
func guard(name string, macs, addrs []string) (rules []string) {
	add := func(words ...string) { rules = append(rules, "-A "+name+" "+strings.Join(words, " ")) }
	for _, m := range macs {
		add("-s ! " + m + " -j DROP")
		add("-p ARP --arp-mac-src ! " + m + " -j DROP")
	}
	add("-p IPv4 --ip-dst 224.0.0.1 --ip-proto igmp -j DROP")
	if len(macs) > 0 {
		add("-p ARP --arp-ip-src 0.0.0.0 -j RETURN")
		slices.Sort(addrs)
		for _, a := range addrs {
			add("-p ARP --arp-ip-src " + a + " -j RETURN")
			add("-p IPv4 --ip-src " + a + " -j RETURN")
		}
	}
	add("-j DROP")
	return rules
}
