package bridge

import (
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/plan"
)

// Reach is how a network's bridge meets the network's bridges on other nodes, when it
// takes a route from one to the other.
type Reach struct {
	Subnets []netip.Prefix // of all nodes together
	Tunnels []string       // links that lead to other nodes, and nowhere else
	Uplink  string         // the host's link that plain routes to other nodes go by; "": there are none
}

// Elements are those of the fabric's sets that let traffic of the network pass between its nodes: not
// masqueraded, and on an internal network too. Without icc none of it is forwarded.
func (r Reach) Elements(n cnm.Network, o Options) []plan.Element {
	b := networkRender{n: n, o: o, link: o.Link(n)}
	for _, t := range r.Tunnels {
		b.add(setTunnels, t)
		b.add(setInner, t)
		b.add(setClosed, t)
		if n.Internal {
			b.add(setInternal, t)
		}
	}
	for _, from := range r.Subnets {
		f := familyOf(from.Addr())
		for _, to := range r.Subnets {
			if to.Addr().Is4() == from.Addr().Is4() {
				b.add(f.inside, from.String(), to.String())
			}
		}
		for _, t := range r.Tunnels {
			b.add(f.local, from.String(), t)
		}
	}
	if !o.ICC {
		return b.state.Rules.Elements
	}
	for _, t := range r.Tunnels {
		// Only routes of the network lead to its tunnel, and the other end looks at what comes out.
		b.way(string(plan.Accept), b.link, t)
		b.way(toBetween, t, b.link)
	}
	if r.Uplink != "" {
		b.way(toBetween, b.link, r.Uplink)
		b.way(toBetween, r.Uplink, b.link)
	}
	return b.state.Rules.Elements
}
