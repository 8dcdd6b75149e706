package backend

import (
	"cmp"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// FastNetwork is how the fast path knows the network.
func (n Network) FastNetwork() plan.FastNetwork { return cnm.FastNetwork(n.Network) }

// FastRoute is the way of the fast path to where a plain route leads.
func (n Network) FastRoute(r plan.Route, h cnm.Host) plan.FastPeer {
	return plan.FastPeer{Network: n.FastNetwork(), Prefix: r.Dst, Way: plan.FastPlain, Node: r.Via, Link: r.Link,
		MTU: n.Room(h, 0)}
}

// Room is what fits into a packet of the uplink beside so many bytes. Nothing of it is fragmented.
func (n Network) Room(h cnm.Host, overhead int) int {
	return cmp.Or(h.Uplink.MTU, h.MTU, 1500) - overhead
}
