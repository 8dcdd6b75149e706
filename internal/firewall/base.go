package firewall

import (
	"github.com/vethloom/vethloom/plan"
)

// Config is what the state that all networks share depends on.
type Config struct {
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

// Base is what every network shares: the tables' chains and sets,
// without elements, and the forwarding sysctls.
func Base(c Config) plan.State {
	return plan.State{
		Rules:   plan.Ruleset{Chains: append(inetChains(), bridgeChains()...), Sets: baseSets()},
		Sysctls: baseSysctls(c),
	}
}

func baseSysctls(c Config) []plan.Sysctl {
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
