package daemon

import (
	"context"
	"fmt"
	"net/netip"
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

// InspectNode implements [server.Nodes]. It probes the paths to the node.
func (n nodes) InspectNode(ctx context.Context, ref string) (server.NodeView, error) {
	found, err := n.find(ref)
	if err != nil {
		return server.NodeView{}, err
	}
	n.prober.Set(n.targets())
	if _, err := n.prober.Refresh(ctx, found.ID); err != nil {
		return server.NodeView{}, fmt.Errorf("probe node %s: %w", found.Name, err)
	}
	return n.view(found), nil
}

// RemoveNode implements [server.Nodes].
func (n nodes) RemoveNode(ctx context.Context, ref string) (string, error) {
	found, err := n.find(ref)
	if err != nil {
		return "", err
	}
	return found.ID, n.member.Forget(ctx, found.ID)
}

// find finds a node by name, ID or unambiguous ID prefix. A host that was set up anew has the name of the one it was.
func (n nodes) find(ref string) (cluster.NodeView, error) {
	var named, begin []cluster.NodeView
	var names []string
	for _, v := range n.member.Nodes() {
		names = append(names, v.Name)
		switch {
		case v.ID == ref:
			return v, nil
		case v.Name == ref:
			named = append(named, v)
		case cnm.Begins(v.ID, ref):
			begin = append(begin, v)
		}
	}
	if len(named) == 0 {
		named = begin
	}
	if len(named) == 1 {
		return named[0], nil
	}
	reason, remedy := "no such node", "there is "+strings.Join(names, ", ")
	if len(names) == 0 {
		remedy = "this node is in no cluster yet: see `net status`"
	}
	if len(named) > 1 {
		reason, remedy = fmt.Sprintf("%d nodes have it as their name, or as the beginning of their ID", len(named)),
			"give the whole ID: 'net node ls --format {{.ID}}' shows it"
	}
	return cluster.NodeView{}, &cnm.Error{Kind: cnm.ErrNotFound, Field: "node", Value: ref, Reason: reason,
		Remedy: remedy}
}

func (n nodes) view(v cluster.NodeView) server.NodeView {
	out := server.NodeView{NodeView: v}
	if v.Self {
		return out
	}
	out.Health = health.Judge(n.peer(v), n.prober.Of(v.ID))
	for _, h := range out.Health {
		if h.Small && h.Checked.After(out.LastSeen) {
			out.LastSeen = h.Checked
		}
	}
	return out
}

// peer is what is known of a node besides its probes.
func (n nodes) peer(v cluster.NodeView) health.Peer {
	u := n.render.Host().Uplink
	p := health.Peer{Alive: v.Alive, Announced: v.Addr4, Link: u.Link, Self: u.Addr4, OnLink: u.OnLink}
	if !v.Addr4.IsValid() || !u.Addr4.IsValid() {
		p.Announced, p.Self = v.Addr6, u.Addr6
	}
	return p
}

// ListLeases implements [server.Leases].
func (n nodes) ListLeases(context.Context) ([]cluster.LeaseView, error) {
	return n.member.Leases(), nil
}

// targets are the paths to the other nodes: the underlay, and each network's tunnel.
func (d *daemon) targets() []health.Target {
	u := d.render.Host().Uplink
	var out []health.Target
	byID := map[string]cluster.NodeView{}
	for _, n := range d.member.Nodes() {
		if n.Self {
			continue
		}
		byID[n.ID] = n
		for _, a := range []struct{ self, other netip.Addr }{{u.Addr4, n.Addr4}, {u.Addr6, n.Addr6}} {
			if a.self.IsValid() && a.other.IsValid() {
				out = append(out, health.Target{Node: n.ID, Name: n.Name, Path: health.Underlay, Addr: a.other,
					Source: a.self, MTU: u.MTU})
			}
		}
	}
	for _, l := range d.member.Leases() {
		n, known := byID[l.NodeID]
		if l.Own || !known || l.Problem != "" {
			continue
		}
		p, err := d.path(l)
		if err != nil || !p.Addr.IsValid() {
			continue // a render of the peer says why
		}
		out = append(out, health.Target{Node: n.ID, Name: n.Name, Path: l.Network.Driver + " " + l.Network.Name,
			Addr: p.Addr, MTU: p.MTU, Outer: p.Outer})
	}
	return out
}

// leaseDriver is a driver whose peers are leases, and whose paths are known.
type leaseDriver interface {
	cluster.Driver
	cnm.PathDescriber
}

// path is the one to the subnet that another node has leased.
func (d *daemon) path(l cluster.LeaseView) (cnm.Path, error) {
	drv, ok := d.render.Driver(l.Network.Driver).(leaseDriver)
	if !ok {
		return cnm.Path{}, nil
	}
	// The network as it is here: the other nodes' record has no subnet of this node.
	n, err := d.ctrl.Network(context.Background(), l.Network.ID)
	if err != nil {
		return cnm.Path{}, err
	}
	p, err := drv.Peer(n, l.Lease)
	if err != nil {
		return cnm.Path{}, err
	}
	return drv.Path(n, p, d.render.Host())
}

// targetsPeriod is how often the paths to probe are looked up.
const targetsPeriod = 5 * time.Second

// runHealth probes the paths to the other nodes until the context ends.
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
