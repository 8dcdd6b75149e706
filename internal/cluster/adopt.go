package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/plan"
)

// making is a network that Create is making.
type making struct {
	since    time.Time
	revision int64 // of its record; 0: not written yet
}

// makingTime is how long the controller may take with a network that Create has made.
const makingTime = 30 * time.Second

// syncNetwork gives the controller a network as the cluster has it, with what of it is this node's.
func (m networks) syncNetwork(ctx context.Context, g *errgroup.Group, id string) error {
	m.mu.Lock()
	rec, ok := m.rep.networks[id]
	mk, made := m.making[id]
	seen := m.self.Revision
	lost, left := m.lost, m.hasLeft(id)
	_, garbage := m.rep.bad[cnm.Key{Kind: cnm.KindNetwork, ID: id}]
	m.mu.Unlock()
	if made {
		_, err := m.ctrl.Network(ctx, id)
		unseen := !ok && (mk.revision == 0 || mk.revision > seen)
		if (err != nil || unseen) && time.Since(mk.since) < makingTime {
			return errNotYet
		}
		m.made(id)
	}
	if !ok && lost {
		return errNotYet
	}
	if !ok && garbage {
		return nil // the node that put it there has not removed the network
	}
	if !ok {
		return m.leave(ctx, id)
	}
	if left {
		return m.withdraw(ctx, rec.v)
	}
	return m.takeUp(ctx, g, rec)
}

// takeUp adopts a network that the cluster has, unless this host cannot have it.
func (m networks) takeUp(ctx context.Context, g *errgroup.Group, rec held[cnm.Network]) error {
	id := rec.v.ID
	d, known := m.drivers[rec.v.Driver]
	if !known {
		m.trouble(id, fmt.Errorf("network %s: this netd has no driver %q", rec.v.Name, rec.v.Driver))
		return nil
	}
	n, err := rec.v, m.twin(rec)
	if err == nil {
		err = m.admit(ctx, rec.v)
	}
	if err != nil {
		err = fmt.Errorf("network %.64q of the cluster is refused here: %w", rec.v.Name, err)
	} else {
		n, err = m.localize(ctx, g, d, rec.v)
	}
	if err == nil {
		err = m.ctrl.Adopt(ctx, n)
	}
	if errors.Is(err, cnm.ErrNoBlock) {
		_, err = m.blocks.extend(ctx, n, nil)
	}
	if err == nil {
		err = m.wakePeers(n)
	}
	m.trouble(id, err)
	if err != nil && !errors.Is(err, errNotYet) {
		return fmt.Errorf("network %s: %w", rec.v.Name, err)
	}
	return err
}

// twin refuses a network whose ID begins as that of an older one: links and peers have the beginnings of IDs.
func (m networks) twin(rec held[cnm.Network]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, other := range m.rep.networks {
		if id != rec.v.ID && cnm.Short(id) == cnm.Short(rec.v.ID) && other.create < rec.create {
			return &cnm.Error{Kind: cnm.ErrExists, Field: "ID", Value: rec.v.ID,
				Reason: fmt.Sprintf("network %.64q has an ID that begins alike", other.v.Name),
				Remedy: "remove one of the two and make it again"}
		}
	}
	return nil
}

// wakePeers renders the paths to a network's peers anew when the network is not what they were rendered for.
func (m networks) wakePeers(n cnm.Network) error {
	b, err := record.Encode(n)
	if err != nil || m.adopted[n.ID] == string(b) {
		return err
	}
	m.adopted[n.ID] = string(b)
	var scopes []plan.Owner
	for _, p := range m.peers.known {
		if p.peer.Network == n.ID {
			scopes = append(scopes, p.peer.Owners()...)
		}
	}
	for id := range m.peers.nodes {
		if strings.HasPrefix(id, cnm.PeerID(n.ID, "")) {
			scopes = append(scopes, cnm.NodeOwner(id))
		}
	}
	m.cfg.Wake(scopes...)
	return nil
}

func (m networks) made(id string) {
	m.mu.Lock()
	delete(m.making, id)
	m.mu.Unlock()
}

// trouble notes what is wrong with a network, or that nothing is any more.
func (m *core) trouble(id string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil || errors.Is(err, errNotYet) {
		delete(m.troubles, id)
		return
	}
	m.troubles[id] = err
}

// leave lets go of a network that the cluster has no more.
func (m networks) leave(ctx context.Context, id string) error {
	m.follower.unfollow(id)
	delete(m.adopted, id)
	m.trouble(id, nil)
	if err := m.leases.forgetLease(ctx, id); err != nil {
		return err
	}
	n, err := m.ctrl.Network(ctx, id)
	if err == nil && (n.Cluster == nil || n.ID != id) {
		return nil
	}
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	// Also when this node has it no more: the controller waits to hear that its own removal has come round.
	if err := m.ctrl.Abandon(ctx, id); err != nil {
		return fmt.Errorf("network %s, which the cluster has no more: %w", n.Name, err)
	}
	return nil
}

// localize adds what of the network is this node's.
func (m networks) localize(ctx context.Context, g *errgroup.Group, d cnm.Driver, n cnm.Network) (cnm.Network, error) {
	n = clone(n)
	if !d.Capabilities().Leases {
		if err := m.blocks.keepBlocks(ctx, n); err != nil {
			return n, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.blocks.giveBlocks(&n)
		return n, nil
	}
	ld, ok := d.(Driver)
	if !ok {
		return n, fmt.Errorf("driver %s has leases without a configuration", d.Name())
	}
	h, err := m.leases.ensureLease(ctx, g, ld, n)
	n.Pools = leasePools(h)
	return n, err
}

// clone copies what localize changes.
func clone(n cnm.Network) cnm.Network {
	n.Pools = slices.Clone(n.Pools)
	c := *n.Cluster
	n.Cluster = &c
	return n
}

// leasePools are the pools of a network on a node with the lease: the first address is the gateway.
func leasePools(h record.HeldLease) []cnm.Pool {
	var out []cnm.Pool
	for _, p := range []netip.Prefix{h.Subnet, h.Subnet6} {
		if p.IsValid() {
			out = append(out, cnm.Pool{Subnet: p, Range: p, Gateway: p.Addr().Next()})
		}
	}
	return out
}
