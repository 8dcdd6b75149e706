package backend

import (
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Direct is the route to a peer's prefix by the peer's own address, when that is on the uplink
// of this host. One family only carries itself. What the host sends has its gateway's address, as only
// what is from inside the network is let into it.
func (n Network) Direct(p cnm.Peer, prefix netip.Prefix, h cnm.Host) (plan.Route, bool) {
	via := Underlay(p, h, prefix.Addr().Is4())
	if !via.IsValid() || !slices.ContainsFunc(h.Uplink.OnLink, func(s netip.Prefix) bool { return s.Contains(via) }) {
		return plan.Route{}, false
	}
	r := plan.Route{Dst: prefix, Via: via, Link: h.Uplink.Link}
	for _, pool := range n.Pools {
		if pool.Subnet.Addr().Is4() == via.Is4() {
			r.Src = pool.Gateway
		}
	}
	return r, true
}
