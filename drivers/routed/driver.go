package routed

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/plan"
)

// Driver renders routed networks with one backend, whose name it has.
type Driver struct {
	Backend backend.Backend
}

var (
	_ cnm.PeerDriver = Driver{}
	_ cnm.LinkNamer  = Driver{}
	_ cnm.Updater    = Driver{}
)

// Name is the backend's.
func (d Driver) Name() string { return d.Backend.Name() }

// Scope is the cluster.
func (Driver) Scope() cnm.Scope { return cnm.Cluster }

// Capabilities of routed networks.
func (Driver) Capabilities() cnm.Capabilities {
	return cnm.Capabilities{Addresses: true, Ports: true, Leases: true}
}

// PortAddr is the option host-binding.
func (d Driver) PortAddr(n cnm.Network) netip.Addr {
	o, err := d.options(n)
	if err != nil {
		return netip.Addr{} // the render says why
	}
	return o.Bridge.HostBinding
}

// NetworkLink is the name of the network's bridge on each node.
func (d Driver) NetworkLink(n cnm.Network) string {
	o, err := d.Decode(n)
	if err != nil {
		return ""
	}
	return o.Bridge.Link(n)
}

// Tunnel is what the network's tunnel needs to be told apart from others.
func (d Driver) Tunnel(n cnm.Network) (cnm.TunnelRequest, error) {
	o, err := d.options(n)
	if err != nil {
		return cnm.TunnelRequest{}, err
	}
	return d.Backend.Tunnel(o.Backend), nil
}

// CheckNetwork refuses unknown or malformed options, and subnets that nodes cannot have
// parts of. The error is a [cnm.ErrInvalid].
func (d Driver) CheckNetwork(n cnm.Network) error {
	o, err := d.options(n)
	if err != nil {
		return err
	}
	if len(o.Bridge.Routes) > 0 {
		return invalid(fmt.Errorf("option routes: each node has subnets of its own of a network of driver %s, so no "+
			"router is in the subnets of all: choose driver overlay, or leave it out", d.Name()))
	}
	if n.IPv4 && !o.Bridge.HasGateway(false) || n.IPv6 && !o.Bridge.HasGateway(true) {
		return invalid(fmt.Errorf("option gateway-mode=%s: the way to the other nodes of a network of driver %s leads "+
			"by the gateway: choose another mode, or driver overlay", bridge.Isolated, d.Name()))
	}
	if err := bridge.CheckNetwork(n, o.Bridge); err != nil {
		return err
	}
	for i, p := range n.Pools {
		for _, q := range n.Pools[:i] {
			if p.Subnet.Addr().Is4() == q.Subnet.Addr().Is4() {
				return invalid(fmt.Errorf(
					"subnets %s and %s are of one family: a network of driver %s has one of each at most", q.Subnet,
					p.Subnet, d.Name()))
			}
		}
	}
	if n.Cluster == nil || len(n.Cluster.Subnets) == 0 || o.FlannelPrefix != "" {
		return nil
	}
	_, err = d.LeaseConfig(n)
	return err
}

// CheckEndpoint implements [cnm.EndpointChecker]. The error is a [cnm.ErrInvalid].
func (d Driver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	o, err := d.options(n)
	if err != nil {
		return err
	}
	return bridge.CheckEndpoint(n, e, o.Bridge)
}

// RenderNetwork renders the bridge on this node's subnets, the backend's end, and the elements that let the
// network's traffic pass between the two. Without a subnet there is nothing. Without an uplink, and
// once the cluster has the network no more, there is the bridge alone.
func (d Driver) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || len(n.Pools) == 0 {
		return plan.State{}, nil
	}
	r, err := d.render(n, h)
	if err != nil {
		return plan.State{}, err
	}
	s, err := bridge.RenderNetwork(n, r.o.Bridge, r.inner)
	if err != nil || !meets(n, h) {
		return s, err
	}
	s = s.Merge(r.self.State)
	reach := bridge.Reach{Subnets: n.Cluster.Subnets, Tunnels: r.self.Tunnels}
	if r.self.Plain {
		reach.Uplink = h.Uplink.Link
	}
	s.Rules.Elements = append(s.Rules.Elements, reach.Elements(n, r.o.Bridge)...)
	s.Fast.Programs = []plan.FastProgram{{Link: h.Uplink.Link}}
	return r.fast(n, s), nil
}

// RenderEndpoint renders an endpoint as on a bridge network, with a way to the other nodes' subnets: the default
// route may lead elsewhere, and an internal network has none.
func (d Driver) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	r, err := d.render(n, h)
	if err != nil {
		return plan.State{}, err
	}
	s, err := bridge.RenderEndpoint(n, e, r.o.Bridge, r.inner)
	if err != nil || n.Cluster == nil || n.Cluster.Gone {
		return s, err
	}
	r.plain(&s.Fast)
	if e.Handed {
		return s, nil
	}
	for _, p := range n.Pools {
		has := slices.ContainsFunc(e.Addrs, func(a netip.Prefix) bool { return p.Subnet.Contains(a.Addr()) })
		if !has || !p.Gateway.IsValid() {
			continue
		}
		for _, whole := range n.Cluster.Subnets {
			if whole.Addr().Is4() == p.Subnet.Addr().Is4() {
				s.Routes = append(s.Routes, plan.Route{
					NS: e.NetNS, Dst: whole, Via: p.Gateway, Link: e.LinkName(), Metric: bridge.Metric(e),
				})
			}
		}
	}
	return s, nil
}

// RenderPeer renders the backend's way to a peer's subnets. It refuses what would lead traffic of
// this node astray.
func (d Driver) RenderPeer(n cnm.Network, p cnm.Peer, h cnm.Host) (plan.State, error) {
	b, p, ok, err := d.reach(n, p, h)
	if err != nil || !ok {
		return plan.State{}, err
	}
	s, err := d.Backend.RenderPeer(b, p, h)
	if err != nil {
		return s, err
	}
	if !h.Fast { // as most renders of many peers
		s.Fast = plan.Fast{}
		return s, nil
	}
	r, err := d.render(n, h)
	return r.fast(n, s), err
}

// reach is a network and a peer as the backend wants them. It reports whether there is anything to lead there.
func (d Driver) reach(n cnm.Network, p cnm.Peer, h cnm.Host) (backend.Network, cnm.Peer, bool, error) {
	if n.Phase == cnm.Deleting || len(n.Pools) == 0 || !meets(n, h) {
		return backend.Network{}, p, false, nil
	}
	o, err := d.options(n)
	if err != nil {
		return backend.Network{}, p, false, err
	}
	if err := d.checkPeer(n, p, h); err != nil {
		return backend.Network{}, p, false, invalid(fmt.Errorf("network %s: %s: %w", n.Name, backend.Who(p), err))
	}
	p.Prefixes = slices.DeleteFunc(slices.Clone(p.Prefixes), func(prefix netip.Prefix) bool {
		return prefix.Addr().Is4() && !n.IPv4 || prefix.Addr().Is6() && !n.IPv6
	})
	return backend.Network{Network: n, Options: o.Backend}, p, true, nil
}

func (d Driver) checkPeer(n cnm.Network, p cnm.Peer, h cnm.Host) error {
	if p.Backend != "" && p.Backend != d.Name() {
		return fmt.Errorf("it is reached by the backend %q, and this network is of driver %s: run the same on all "+
			"nodes", p.Backend, d.Name())
	}
	for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
		if a.IsValid() && (a == h.Uplink.Addr4 || a == h.Uplink.Addr6) {
			return fmt.Errorf("its address %s is this node's own: give each node an address of its own (--node-ip)", a)
		}
	}
	for _, prefix := range p.Prefixes {
		if !slices.ContainsFunc(n.Cluster.Subnets, func(s netip.Prefix) bool {
			return s.Contains(prefix.Addr()) &&
				s.Bits() <= prefix.Bits()
		}) {
			return fmt.Errorf("its subnet %s is not inside the network: remove its lease", prefix)
		}
		for _, own := range n.Pools {
			if own.Subnet.Overlaps(prefix) {
				return fmt.Errorf("its subnet %s overlaps %s, which this node has: remove one of the leases", prefix,
					own.Subnet)
			}
		}
	}
	return nil
}

// meets reports whether this node has a way to other nodes of the network.
func meets(n cnm.Network, h cnm.Host) bool {
	u := h.Uplink
	return n.Cluster != nil && !n.Cluster.Gone && u.Link != "" && (u.Addr4.IsValid() || u.Addr6.IsValid())
}

// rendering is what all renders of a network have in common.
type rendering struct {
	o     Options
	self  backend.Self
	inner cnm.Host // the host as the bridge sees it, behind the tunnel
}

func (d Driver) render(n cnm.Network, h cnm.Host) (rendering, error) {
	o, err := d.options(n)
	if err != nil {
		return rendering{}, err
	}
	r := rendering{o: o, inner: h}
	if meets(n, h) {
		bn := backend.Network{Network: n, Options: o.Backend}
		if r.self, err = d.Backend.RenderSelf(bn, h); err != nil {
			return rendering{}, err
		}
		r.inner.MTU = bn.MTU(h, r.self.Overhead)
		if o.Bridge.MTU > r.inner.MTU {
			r.o.Bridge.MTU = r.inner.MTU
		}
	}
	return r, nil
}

// options decodes a network's options; the error names the network and is a [cnm.ErrInvalid].
func (d Driver) options(n cnm.Network) (Options, error) {
	o, err := d.Decode(n)
	if err != nil {
		return Options{}, invalid(fmt.Errorf("network %s: %w", n.Name, err))
	}
	return o, nil
}

// invalid marks an error as the fault of the request.
func invalid(err error) error { return &cnm.Error{Kind: cnm.ErrInvalid, Reason: err.Error()} }
