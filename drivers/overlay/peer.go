package overlay

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// RenderPeer renders the way to an endpoint of another node: a neighbour entry for each of its addresses, which the
// VXLAN device answers from, and the forwarding entries of its MAC, of the bridge to the device and of the device to
// the node. An endpoint of this node with that MAC keeps the bridge's. Where the blocks of its node lead to it, there
// is nothing. It refuses what would lead traffic of this node astray; the error is a [cnm.ErrInvalid].
func (Driver) RenderPeer(n cnm.Network, p cnm.Peer, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || !meets(n, h) {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err != nil {
		return plan.State{}, err
	}
	what := "endpoint " + p.ID
	if p.Blocks {
		p.MAC, what = mac(n.ID, p.Node, "bridge"), "the blocks"
	}
	dst, err := checkPeer(n, p, h)
	if err != nil {
		return plan.State{}, invalid(fmt.Errorf("network %s: %s of node %s: %w", n.Name, what, p.Node, err))
	}
	inner := inside(&o, h)
	if p.InBlock && o.byAddress(n, inner) {
		return plan.State{}, nil
	}
	link := LinkName(n.ID)
	s := plan.State{FDB: []plan.FDBEntry{
		{Link: link, MAC: p.MAC, Dst: dst},
		{Link: link, MAC: p.MAC, Yields: true},
	}}
	if p.Blocks {
		// The forwarding entries are there also where no address leads to them any more: who knows that MAC address is
		// led on by the node's bridge then.
		if p.Fast && o.byAddress(n, inner) {
			s.Fast.Peers = fastWays(n, p, h, o, dst)
		}
		return s, nil
	}
	for _, a := range p.Prefixes {
		s.Neighs = append(s.Neighs, plan.Neigh{Link: link, IP: a.Addr(), MAC: p.MAC})
	}
	s.Fast.Peers = fastWays(n, p, h, o, dst)
	return s, nil
}

// checkPeer returns the peer's end of the tunnel.
func checkPeer(n cnm.Network, p cnm.Peer, h cnm.Host) (netip.Addr, error) {
	switch {
	case !p.Endpoint && !p.Blocks:
		return netip.Addr{}, fmt.Errorf(
			"it is a subnet's lease, and nodes share the subnets of a network of driver %s", name)
	case p.MAC == plan.MAC{}:
		return netip.Addr{}, fmt.Errorf("it has no MAC address")
	case p.MAC[0]&1 != 0:
		return netip.Addr{}, fmt.Errorf("its MAC address %s is a group address", p.MAC)
	case p.MAC == mac(n.ID, h.Node, "bridge") || p.MAC == mac(n.ID, h.Node, "vxlan"):
		return netip.Addr{}, fmt.Errorf("its MAC address %s is that of a link of this node: give it another", p.MAC)
	case p.Endpoint && p.MAC == mac(n.ID, p.Node, "bridge"):
		return netip.Addr{}, fmt.Errorf("its MAC address %s is that of its node's bridge: give it another", p.MAC)
	}
	for _, a := range p.Prefixes {
		if err := checkAddr(n, p, a); err != nil {
			return netip.Addr{}, err
		}
	}
	for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
		if own(a, h) {
			return netip.Addr{}, fmt.Errorf(
				"its node's address %s is this node's own: give each node an address of its own (--node-ip)", a)
		}
	}
	here, dst, family := local(h), p.Addr4, "IPv4"
	if here.Is6() {
		dst, family = p.Addr6, "IPv6"
	}
	if !leads(dst, here) {
		return netip.Addr{}, fmt.Errorf("its node has no %s address, and this node's tunnels end at %s: give all "+
			"nodes an address of one family (--node-ip)", family, here)
	}
	return dst, nil
}

func own(a netip.Addr, h cnm.Host) bool {
	return a.IsValid() && (a == h.Uplink.Addr4 || a == h.Uplink.Addr6)
}

// leads reports whether a tunnel from here can end at an address.
func leads(to, here netip.Addr) bool {
	return to.IsValid() && to.Is4() == here.Is4() && !to.IsUnspecified() && !to.IsMulticast() && !to.IsLoopback()
}

func checkAddr(n cnm.Network, p cnm.Peer, a netip.Prefix) error {
	i := slices.IndexFunc(n.Pools, func(pool cnm.Pool) bool { return pool.Subnet.Contains(a.Addr()) })
	switch {
	case p.Blocks == a.IsSingleIP():
		return fmt.Errorf("%s is %s", a, map[bool]string{true: "one address and no block",
			false: "not one address"}[p.Blocks])
	case i < 0:
		return fmt.Errorf("its address %s is in no subnet of the network", a.Addr())
	case a.Bits() < n.Pools[i].Subnet.Bits() || a != a.Masked():
		return fmt.Errorf("%s is no part of the network's subnet %s", a, n.Pools[i].Subnet)
	case n.Pools[i].Gateway == a.Addr() && !p.Blocks:
		return fmt.Errorf("its address %s is the network's gateway, which each node has itself", a.Addr())
	}
	return nil
}
