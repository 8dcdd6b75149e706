package daemon

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/health"
)

// examine looks at the host for what keeps containers from their networks.
func (d *daemon) examine(ctx context.Context) []doctor.Finding {
	networks, err := cnm.ListNetworks(ctx, d.store)
	var subnets []doctor.Subnet
	for _, n := range networks {
		for _, p := range n.Pools {
			subnets = append(subnets, doctor.Subnet{Network: n.Name, Prefix: p.Subnet})
		}
	}
	host := doctor.Host{Kernel: d.kernel, StateDir: d.cfg.Root, Networks: subnets,
		Cluster: d.examineCluster(ctx, networks), FollowsDocker: d.cfg.Docker != ""}
	if d.relay != nil {
		host.DockerPlugin = d.cfg.dockerSocket()
	}
	facts := host.Facts(ctx)
	if err != nil {
		facts.Unknown = append(facts.Unknown, fmt.Sprintf("networks: %v", err))
	}
	if facts.LostOutbound, err = d.lostOutbound(ctx, networks); err != nil {
		facts.Unknown = append(facts.Unknown, fmt.Sprintf("addresses to leave by: %v", err))
	}
	if facts.FastPath, err = examineFast(ctx, d); err != nil {
		facts.Unknown = append(facts.Unknown, fmt.Sprintf("fast path: %v", err))
	}
	return doctor.Examine(facts)
}

// lostOutbound are the addresses that something is to leave by and the host does not have.
func (d *daemon) lostOutbound(ctx context.Context, networks []cnm.Network) (lost []string, err error) {
	has, err := d.kernel.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	look := func(whose string, addrs []netip.Addr) {
		for _, a := range addrs {
			if !slices.Contains(has, a) {
				lost = append(lost, fmt.Sprintf("%s, which %s is to leave by", a, whose))
			}
		}
	}
	for _, n := range networks {
		if drv, ok := d.render.Driver(n.Driver).(cnm.OutboundChooser); ok {
			look("network "+n.Name, drv.Outbound(n))
		}
	}
	endpoints, err := d.ctrl.Endpoints(ctx)
	for _, e := range endpoints {
		look(fmt.Sprintf("%q", e.Name), e.Outbound)
	}
	return lost, err
}

// examineCluster gathers what this node knows of the cluster, with fresh probes of nodes that are not well.
func (d *daemon) examineCluster(ctx context.Context, networks []cnm.Network) *doctor.Cluster {
	st := d.member.State()
	u := d.render.Host().Uplink
	c := &doctor.Cluster{
		Store: d.etcdName(), Connected: st.Connected, Since: st.Since, Expires: d.member.Expires(), TTL: d.cfg.LeaseTTL,
		Link: u.Link, LinkMTU: u.MTU, Malformed: d.member.Malformed(), Twin: st.Twin,
		Loss: d.member.Loss(),
	}
	if st.Err != nil {
		c.Error = st.Err.Error()
	}
	for _, a := range []netip.Addr{u.Addr4, u.Addr6} {
		if a.IsValid() {
			c.LinkAddrs = append(c.LinkAddrs, a)
		}
	}
	for _, n := range networks {
		if n.Cluster != nil {
			c.Networks = append(c.Networks, d.examineNetwork(n))
		}
	}
	d.prober.Set(d.targets())
	api := nodes{d}
	for _, n := range d.member.Nodes() {
		if !n.Self && !well(d.prober.Of(n.ID)) {
			if _, err := d.prober.Refresh(ctx, n.ID); err != nil {
				break
			}
		}
		v := api.view(n)
		var addrs []netip.Addr
		for _, a := range []netip.Addr{v.Addr4, v.Addr6} {
			if a.IsValid() {
				addrs = append(addrs, a)
			}
		}
		c.Nodes = append(c.Nodes, doctor.ClusterNode{ID: v.ID, Name: v.Name, Addrs: addrs, Self: v.Self,
			Alive: v.Alive, LastSeen: v.LastSeen})
		for _, h := range v.Health {
			c.Paths = append(c.Paths, doctor.PeerPath{Node: v.Name, Path: h.Path, Alive: v.Alive,
				Reachable: h.Reachable, Cause: h.Cause, Remedy: h.Remedy})
		}
	}
	return c
}

// examineNetwork is a network of the cluster, with the sizes of its packets where they can be told.
func (d *daemon) examineNetwork(n cnm.Network) doctor.ClusterNetwork {
	out := doctor.ClusterNetwork{Name: n.Name, Driver: n.Driver, Gone: n.Cluster.Gone, Left: n.Left()}
	if n.Left() {
		return out
	}
	if drv, ok := d.render.Driver(n.Driver).(cnm.PathDescriber); ok {
		if mtu, overhead, err := drv.Sizes(n, d.render.Host()); err == nil {
			out.MTU, out.Overhead = mtu, overhead
		}
	}
	return out
}

// well reports whether probes have found nothing amiss.
func well(paths []health.Result) bool {
	for _, w := range paths {
		if w.Checked.IsZero() || !w.Small || !w.Large {
			return false
		}
	}
	return len(paths) > 0
}
