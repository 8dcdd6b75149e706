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

// byAddress reports whether addresses lead to the nodes that have their blocks, where those say that they do the same.
// While a cluster changes to that or back, containers know MAC addresses of endpoints elsewhere that no entry leads to,
// so only networks that send frames to all nodes anyway go by it. All else that it depends on is the same on all nodes
// that say so: where rules of others are about a bridge, they see what comes by address, too.
func (o Options) byAddress(n cnm.Network, inner cnm.Host) bool {
	return o.floods() && o.Bridge.MayBeFast(n, inner)
}

// atDevice is what answers for the blocks of other nodes, and gives what comes for this node's bridge to endpoints. A
// gateway's address is in some node's block, and each node has it itself.
func atDevice(n cnm.Network, h cnm.Host) plan.Fast {
	network := cnm.FastNetwork(n)
	f := plan.Fast{Programs: []plan.FastProgram{{Link: LinkName(n.ID), Network: network,
		MAC: mac(n.ID, h.Node, "bridge"), Bridged: true}}}
	for _, p := range n.Pools {
		if a := p.Gateway; a.IsValid() {
			f.Peers = append(f.Peers, plan.FastPeer{Network: network, Prefix: netip.PrefixFrom(a, a.BitLen()),
				Way: plan.FastVXLAN, Node: local(h), Self: local(h), Link: h.Uplink.Link})
		}
	}
	return f
}

// fastWays lead to what a peer has: addresses or blocks of them, behind a MAC address.
func fastWays(n cnm.Network, p cnm.Peer, h cnm.Host, o Options, dst netip.Addr) (out []plan.FastPeer) {
	inner := inside(&o, h)
	if !p.Blocks && !o.Bridge.Fast(n, inner) {
		return nil
	}
	for _, a := range p.Prefixes {
		out = append(out, plan.FastPeer{Network: cnm.FastNetwork(n), Prefix: a, Way: plan.FastVXLAN, Node: dst,
			Self: local(h), Link: h.Uplink.Link, MTU: inner.MTU, VNI: n.Cluster.VNI,
			Port: cmp.Or(n.Cluster.Port, o.Port), Via: p.MAC, Block: p.Blocks})
	}
	return out
}

// SlowPath implements [cnm.PathTeller].
func (Driver) SlowPath(n cnm.Network, e cnm.Endpoint, h cnm.Host) string {
	o, err := options(n)
	if err != nil {
		return err.Error()
	}
	return bridge.SlowPath(n, e, o.Bridge, h)
}
