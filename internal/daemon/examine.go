package daemon

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/internal/health"
)

// examine looks at the host for what keeps containers from their networks.
func (d *daemon) examine(ctx context.Context) []server.Finding {
	networks, err := cnm.ListNetworks(ctx, d.store)
	var subnets []doctor.Subnet
	for _, n := range networks {
		for _, p := range n.Pools {
			subnets = append(subnets, doctor.Subnet{Network: n.Name, Prefix: p.Subnet})
		}
	}
	facts := doctor.Host{Kernel: d.kernel, StateDir: d.cfg.Root, Networks: subnets, Cluster: d.examineCluster(ctx, networks)}.Facts(ctx)
	if err != nil {
		facts.Unknown = append(facts.Unknown, fmt.Sprintf("networks: %v", err))
	}
	var out []server.Finding
	for _, f := range doctor.Examine(facts) {
		out = append(out, server.Finding{Check: f.Check, Severity: server.Severity(f.Severity), Found: f.Found, Remedy: f.Remedy})
	}
	return out
}

// examineCluster gathers what this node knows of the cluster, with fresh probes of nodes that are not well.
func (d *daemon) examineCluster(ctx context.Context, networks []cnm.Network) *doctor.Cluster {
	st := d.member.State()
	u := d.source.facts.Load().host.Uplink
	c := &doctor.Cluster{
		Store: d.etcdName(), Connected: st.Connected, Since: st.Since, Expires: d.member.Expires(), TTL: d.cfg.LeaseTTL,
		Link: u.Link, LinkMTU: u.MTU, Malformed: d.member.Problems(),
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
			c.Networks = append(c.Networks, doctor.ClusterNetwork{Name: n.Name, Driver: n.Driver, Gone: n.Cluster.Gone})
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
		c.Nodes = append(c.Nodes, doctor.ClusterNode{ID: v.ID, Name: v.Name, Addrs: v.Addresses, Self: v.Self, Alive: v.Alive, LastSeen: v.LastSeen})
		for _, h := range v.Health {
			c.Ways = append(c.Ways, doctor.PeerWay{Node: v.Name, Way: h.Way, Alive: v.Alive, Reachable: h.Reachable, Cause: h.Cause, Remedy: h.Remedy})
		}
	}
	return c
}

// well tells whether probes have found nothing amiss.
func well(ways []health.Result) bool {
	for _, w := range ways {
		if w.Checked.IsZero() || !w.Small || !w.Large {
			return false
		}
	}
	return len(ways) > 0
}
