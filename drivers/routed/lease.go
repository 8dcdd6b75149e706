package routed

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/subnet"
)

// LeaseConfig is what a new network's lease directory says, in flannel's words. The error is a [cnm.ErrInvalid].
func (d Driver) LeaseConfig(n cnm.Network) (subnet.Config, error) {
	o, err := d.options(n)
	if err != nil {
		return subnet.Config{}, err
	}
	if n.Cluster == nil {
		return subnet.Config{}, invalid(fmt.Errorf("network %s has no subnets to lease parts of", n.Name))
	}
	c := subnet.Config{
		EnableIPv4: n.IPv4, EnableIPv6: n.IPv6, SubnetLen: o.SubnetLength, IPv6SubnetLen: o.SubnetLength6,
		Backend: subnet.Backend{Type: d.Name(), VNI: n.Cluster.VNI, Port: n.Cluster.Port,
			DirectRouting: o.Backend.DirectRouting},
	}
	for _, s := range n.Cluster.Subnets {
		if s.Addr().Is4() {
			c.Network = s
		} else {
			c.IPv6Network = s
		}
	}
	c, err = c.Complete()
	if err != nil {
		return subnet.Config{}, invalid(
			fmt.Errorf("network %s: options %s and %s cut the network into the nodes' subnets: %w", n.Name,
				optionSubnetLength, optionSubnetLength6, err))
	}
	return c, nil
}

// Attrs is what this node's lease says of it. Without an uplink it is [cnm.ErrUnavailable].
func (d Driver) Attrs(n cnm.Network, h cnm.Host) (subnet.Attrs, error) {
	if !meets(n, h) {
		return subnet.Attrs{}, &cnm.Error{
			Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
			Reason: "this node has no address that other nodes could reach it at",
			Remedy: "name its link or address with --iface or --node-ip",
		}
	}
	r, err := d.render(n, h)
	r.self.Attrs.FastPath = r.o.Bridge.Fast(n, r.inner) && !r.inner.Filters.Drop(r.o.Bridge.Link(n))
	return r.self.Attrs, err
}

// Peer decodes another node's lease.
func (d Driver) Peer(n cnm.Network, l subnet.Lease) (cnm.Peer, error) {
	o, err := d.options(n)
	if err != nil {
		return cnm.Peer{}, err
	}
	p := cnm.Peer{
		ID: cnm.PeerID(n.ID, l.Key), Network: n.ID, Node: l.NodeID,
		Addr4: l.PublicIP, Addr6: l.PublicIPv6, Backend: l.BackendType, Fast: l.FastPath,
	}
	for _, s := range []netip.Prefix{l.Subnet, l.Subnet6} {
		if s.IsValid() {
			p.Prefixes = append(p.Prefixes, s)
		}
	}
	if l.BackendType != "" && l.BackendType != d.Name() {
		return p, nil // what it says is in another backend's words
	}
	if err := d.Backend.Decode(backend.Network{Network: n, Options: o.Backend}, l, &p); err != nil {
		return cnm.Peer{}, fmt.Errorf("network %s: the lease %s of %s: %w", n.Name, l.Key, backend.Who(p), err)
	}
	return p, nil
}

// JoinDir is the directory of flannel's that the network's options name; "" for one of its own.
func (d Driver) JoinDir(n cnm.Network) string {
	o, err := d.Decode(n)
	if err != nil {
		return ""
	}
	return o.FlannelPrefix
}

// Join makes of a network one that a directory of flannel's has already: its families, subnets, backend's
// identifiers and options are those that stand there. The error is a [cnm.ErrInvalid].
func (d Driver) Join(n cnm.Network, dir string, c subnet.Config) (cnm.Network, cnm.TunnelRequest, error) {
	o, err := d.options(n)
	if err != nil {
		return cnm.Network{}, cnm.TunnelRequest{}, err
	}
	if err := d.checkJoin(n, o, c); err != nil {
		return cnm.Network{}, cnm.TunnelRequest{}, invalid(fmt.Errorf("network %s: join %s: %w", n.Name, dir, err))
	}
	n.Options = maps.Clone(n.Options)
	if c.Backend.DirectRouting {
		if n.Options == nil {
			n.Options = map[string]string{}
		}
		if _, given := n.Options[backend.OptionDirectRouting]; !given {
			n.Options[backend.OptionDirectRouting] = "true"
		}
	}
	n.IPv4, n.IPv6 = c.EnableIPv4, c.EnableIPv6
	t := d.identifiers(o, c)
	n.Cluster = &cnm.ClusterNetwork{Leases: dir, VNI: t.VNI, Port: t.Port}
	for _, s := range []netip.Prefix{c.Network, c.IPv6Network} {
		if s.IsValid() {
			n.Cluster.Subnets = append(n.Cluster.Subnets, s)
		}
	}
	return n, t, nil
}

// identifiers are the tunnel's that the directory names; what it does not name has flannel's default,
// which is our first choice too.
func (d Driver) identifiers(o Options, c subnet.Config) cnm.TunnelRequest {
	first := d.Backend.Tunnel(backend.Options{DirectRouting: o.Backend.DirectRouting || c.Backend.DirectRouting})
	if first.Kind == "" {
		return first
	}
	return cnm.TunnelRequest{
		Kind: first.Kind, VNI: cmp.Or(c.Backend.VNI, first.FirstVNI), Port: cmp.Or(c.Backend.Port, first.Port,
			first.FirstPort),
	}
}

func (d Driver) checkJoin(n cnm.Network, o Options, c subnet.Config) error {
	if c.Backend.Type != d.Name() {
		return fmt.Errorf("its backend is %q: make the network with the driver of that name, not with %s",
			c.Backend.Type, d.Name())
	}
	if n.IPv6 && !c.EnableIPv6 {
		return fmt.Errorf("it has no IPv6: leave IPv6 out, or turn it on there (EnableIPv6)")
	}
	t := d.identifiers(o, c)
	for _, f := range []struct {
		name       string
		asked, has uint64
	}{
		{optionSubnetLength, uint64(o.SubnetLength), uint64(c.SubnetLen)},
		{optionSubnetLength6, uint64(o.SubnetLength6), uint64(c.IPv6SubnetLen)},
		{backend.OptionVNI, uint64(o.Backend.VNI), uint64(t.VNI)},
		{backend.OptionPort, uint64(o.Backend.Port), uint64(t.Port)},
	} {
		if f.asked != 0 && f.asked != f.has {
			return fmt.Errorf("option %s=%s, and it has %s: leave the option out", f.name,
				strconv.FormatUint(f.asked, 10), strconv.FormatUint(f.has, 10))
		}
	}
	return nil
}

// Env is what subnet.env says of this node's lease.
func (d Driver) Env(n cnm.Network, h cnm.Host) (subnet.Env, error) {
	r, err := d.render(n, h)
	if err != nil || n.Cluster == nil {
		return subnet.Env{}, err
	}
	masquerades := slices.ContainsFunc(n.Cluster.Subnets, func(s netip.Prefix) bool {
		return r.o.Bridge.Masquerades(s.Addr())
	})
	env := subnet.Env{MTU: r.inner.MTU, Masquerade: masquerades && !n.Internal}
	if r.o.Bridge.MTU != 0 {
		env.MTU = r.o.Bridge.MTU
	}
	for _, s := range n.Cluster.Subnets {
		for _, p := range n.Pools {
			switch {
			case !s.Contains(p.Subnet.Addr()):
			case s.Addr().Is4():
				env.Network, env.Subnet = s, netip.PrefixFrom(p.Gateway, p.Subnet.Bits())
			default:
				env.IPv6Network, env.IPv6Subnet = s, netip.PrefixFrom(p.Gateway, p.Subnet.Bits())
			}
		}
	}
	return env, nil
}
