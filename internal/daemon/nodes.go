package daemon

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/health"
)

// nodes serves the API's nodes and leases from what this node knows.
type nodes struct{ *daemon }

// ListNodes implements [server.Nodes].
func (n nodes) ListNodes(context.Context) ([]server.NodeView, error) {
	var out []server.NodeView
	for _, v := range n.member.Nodes() {
		out = append(out, n.view(v))
	}
	return out, nil
}

// InspectNode implements [server.Nodes]. It probes the ways to the node.
func (n nodes) InspectNode(ctx context.Context, ref string) (server.NodeView, error) {
	all := n.member.Nodes()
	var found []cluster.NodeView
	var names []string
	for _, v := range all {
		names = append(names, v.Name)
		if v.Name == ref || v.ID == ref {
			found = []cluster.NodeView{v}
			break
		}
		if ref != "" && strings.HasPrefix(v.ID, ref) {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		remedy := "this node is in no cluster yet: see `net status`"
		if len(names) > 0 {
			remedy = "there is " + strings.Join(names, ", ")
		}
		reason := "no such node"
		if len(found) > 1 {
			reason, remedy = fmt.Sprintf("%d IDs begin with it", len(found)), "give more digits or the name"
		}
		return server.NodeView{}, &cnm.Error{Kind: cnm.ErrNotFound, Field: "node", Value: ref, Reason: reason, Remedy: remedy}
	}
	n.prober.Set(n.targets())
	if _, err := n.prober.Refresh(ctx, found[0].ID); err != nil {
		return server.NodeView{}, fmt.Errorf("probe node %s: %w", found[0].Name, err)
	}
	return n.view(found[0]), nil
}

func (n nodes) view(v cluster.NodeView) server.NodeView {
	out := server.NodeView{
		ID: v.ID, Name: v.Name, Version: v.Version, Drivers: v.Drivers, Self: v.Self, Alive: v.Alive, LastSeen: v.LastSeen, Endpoints: v.Endpoints,
		Subnets: nodeSubnets(v.Subnets), Blocks: nodeSubnets(v.Blocks),
	}
	for _, a := range []netip.Addr{v.Addr4, v.Addr6} {
		if a.IsValid() {
			out.Addresses = append(out.Addresses, a)
		}
	}
	if v.Self {
		return out
	}
	for _, r := range health.Judge(n.peer(v), n.prober.Of(v.ID)) {
		out.Health = append(out.Health, server.PeerHealth{
			Way: r.Way, Target: r.Addr, Reachable: r.Reachable, RTT: r.RTT, MTU: r.MTU, PathMTU: r.PathMTU, Small: r.Small, Large: r.Large,
			Loss: r.Loss, Checked: r.Checked, Cause: r.Cause, Remedy: r.Remedy,
		})
		if r.Small && r.Checked.After(out.LastSeen) {
			out.LastSeen = r.Checked
		}
	}
	return out
}

// peer is what is known of a node besides its probes.
func (n nodes) peer(v cluster.NodeView) health.Peer {
	u := n.source.facts.Load().host.Uplink
	p := health.Peer{Alive: v.Alive, Announced: v.Addr4, Link: u.Link, Self: u.Addr4, OnLink: u.OnLink}
	if !v.Addr4.IsValid() || !u.Addr4.IsValid() {
		p.Announced, p.Self = v.Addr6, u.Addr6
	}
	return p
}

func nodeSubnets(m map[string][]netip.Prefix) []server.NodeSubnet {
	var out []server.NodeSubnet
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, server.NodeSubnet{Network: name, Prefixes: m[name]})
	}
	return out
}

// ListLeases implements [server.Leases].
func (n nodes) ListLeases(context.Context) ([]server.LeaseView, error) {
	var out []server.LeaseView
	for _, l := range n.member.Leases() {
		v := server.LeaseView{
			Network: l.Network.Name, Driver: l.Network.Driver, NodeID: l.NodeID, Node: l.Node, Backend: l.BackendType,
			Expires: l.Expires, Own: l.Own, Problem: l.Problem,
		}
		for _, p := range []netip.Prefix{l.Subnet, l.Subnet6} {
			if p.IsValid() {
				v.Prefixes = append(v.Prefixes, p)
			}
		}
		for _, a := range []netip.Addr{l.PublicIP, l.PublicIPv6} {
			if a.IsValid() {
				v.PublicIPs = append(v.PublicIPs, a)
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// targets are the ways to the other nodes: the underlay, and each network's tunnel.
func (d *daemon) targets() []health.Target {
	u := d.source.facts.Load().host.Uplink
	var out []health.Target
	byID := map[string]cluster.NodeView{}
	for _, n := range d.member.Nodes() {
		if n.Self {
			continue
		}
		byID[n.ID] = n
		for _, a := range []struct{ self, other netip.Addr }{{u.Addr4, n.Addr4}, {u.Addr6, n.Addr6}} {
			if a.self.IsValid() && a.other.IsValid() {
				out = append(out, health.Target{Node: n.ID, Name: n.Name, Way: health.Underlay, Addr: a.other, Source: a.self, MTU: u.MTU})
			}
		}
	}
	for _, l := range d.member.Leases() {
		n, known := byID[l.NodeID]
		if l.Own || !known || l.Problem != "" || !l.Subnet.IsValid() {
			continue
		}
		t := health.Target{Node: n.ID, Name: n.Name, Way: l.Network.Driver + " " + l.Network.Name, MTU: u.MTU}
		outer := l.PublicIP
		if !outer.IsValid() {
			outer = l.PublicIPv6
		}
		switch l.Network.Driver {
		case "vxlan":
			t.Addr, t.MTU, t.Outer = l.Subnet.Addr(), u.MTU-vxlanOverhead(l, u), netip.AddrPortFrom(outer, l.Network.Cluster.Port)
		case "udp":
			t.Addr, t.MTU, t.Outer = l.Subnet.Addr(), u.MTU-28, netip.AddrPortFrom(outer, l.Network.Cluster.Port)
		default:
			t.Addr = l.Subnet.Addr().Next()
		}
		out = append(out, t)
	}
	return out
}

// vxlanOverhead is how many bytes smaller a network's packets are than the uplink's: outer Ethernet, UDP and VXLAN
// headers, and the larger of the outer IP headers in use.
func vxlanOverhead(l cluster.LeaseView, u cnm.Uplink) int {
	if l.Network.IPv6 && u.Addr6.IsValid() || !u.Addr4.IsValid() {
		return 70
	}
	return 50
}

// targetsPeriod is how often the ways to probe are looked up.
const targetsPeriod = 5 * time.Second

// runHealth probes the ways to the other nodes until the context ends.
func (d *daemon) runHealth(ctx context.Context) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.prober.Run(ctx)
	}()
	tick := time.NewTicker(targetsPeriod)
	defer tick.Stop()
	for {
		d.prober.Set(d.targets())
		select {
		case <-ctx.Done():
			<-done
			return
		case <-tick.C:
		}
	}
}
