package overlay

import (
	"cmp"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/plan"
)

// ends are those of the network's tunnel on this node, and the program that takes what comes out of it.
func ends(n cnm.Network, o Options, h cnm.Host) plan.Fast {
	end := plan.FastTunnel{Port: cmp.Or(n.Cluster.Port, o.Port), IPv6: local(h).Is6(), Way: plan.FastVXLAN}
	own := end
	own.Network, own.VNI, own.Self = cnm.FastNetwork(n), n.Cluster.VNI, local(h)
	return plan.Fast{Tunnels: []plan.FastTunnel{end, own}, Programs: []plan.FastProgram{{Link: h.Uplink.Link}}}
}

// fastWays lead to an endpoint of another node.
func fastWays(n cnm.Network, p cnm.Peer, h cnm.Host, dst netip.Addr) ([]plan.FastPeer, error) {
	o, err := options(n)
	if err != nil {
		return nil, err
	}
	inner := inside(&o, h)
	if !o.Bridge.Fast(n, inner) {
		return nil, nil
	}
	var out []plan.FastPeer
	for _, a := range p.Prefixes {
		out = append(out, plan.FastPeer{Network: cnm.FastNetwork(n), Prefix: a, Way: plan.FastVXLAN, Node: dst,
			Self: local(h), Link: h.Uplink.Link, MTU: inner.MTU, VNI: n.Cluster.VNI,
			Port: cmp.Or(n.Cluster.Port, o.Port), Via: p.MAC})
	}
	return out, nil
}

// SlowPath implements [cnm.PathTeller].
func (Driver) SlowPath(n cnm.Network, e cnm.Endpoint, h cnm.Host) string {
	o, err := options(n)
	if err != nil {
		return err.Error()
	}
	return bridge.SlowPath(n, e, o.Bridge, h)
}
