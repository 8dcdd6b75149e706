package bridge

import (
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
)

// Reach is how a network's bridge meets the network's bridges on other nodes, when it
// takes a route from one to the other.
type Reach struct {
	Subnets []netip.Prefix // of all nodes together
	Tunnels []string       // links that lead to other nodes, and nowhere else
	Uplink  string         // the host's link that plain routes to other nodes go by; "": there are none
}

// Elements are those of the firewall that let traffic of the network pass between its nodes: not
// masqueraded, and on an internal network too. Without icc none of it is forwarded.
func (r Reach) Elements(n cnm.Network, o Options) []plan.Element {
	e := firewall.Elements{Owner: networkScope(n)}
	link := o.Link(n)
	for _, t := range r.Tunnels {
		e.Tunnel(t)
		if n.Internal {
			e.Internal(t)
		}
	}
	for _, from := range r.Subnets {
		for _, to := range r.Subnets {
			if to.Addr().Is4() == from.Addr().Is4() {
				e.Cluster(from, to)
			}
		}
		for _, t := range r.Tunnels {
			e.Local(from, t)
		}
	}
	if !o.ICC {
		return e.List
	}
	for _, t := range r.Tunnels {
		// Only routes of the network lead to its tunnel, and the other end looks at what comes out.
		e.Forward(link, t)
		e.ForwardCluster(t, link)
	}
	if r.Uplink != "" {
		e.ForwardCluster(link, r.Uplink)
		e.ForwardCluster(r.Uplink, link)
	}
	return e.List
}
