package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/plan"
)

// makingTime is how long the controller may take with a network that Create has made.
const makingTime = 30 * time.Second

// syncNetwork gives the controller a network as the cluster has it, with what of it is this node's.
func (m *Member) syncNetwork(ctx context.Context, g *errgroup.Group, id string) error {
	m.mu.Lock()
	rec, ok := m.rep.networks[id]
	since, making := m.making[id]
	lost := m.lost
	_, garbage := m.rep.bad[cnm.Key{Kind: cnm.KindNetwork, ID: id}]
	m.mu.Unlock()
	if making {
		if _, err := m.ctrl.Network(ctx, id); err != nil && time.Since(since) < makingTime {
			return errNotYet
		}
		m.made(id)
	}
	if !ok && lost {
		return errNotYet
	}
	if !ok && garbage {
		return nil // whoever put it there has not removed the network
	}
	if !ok {
		return m.leave(ctx, id)
	}
	d, known := m.drivers[rec.v.Driver]
	if !known {
		m.trouble(id, fmt.Errorf("network %s: this netd has no driver %q", rec.v.Name, rec.v.Driver))
		return nil
	}
	n, err := m.localize(ctx, g, d, rec.v)
	if err == nil {
		err = m.ctrl.Adopt(ctx, n)
	}
	if errors.Is(err, cnm.ErrNoBlock) {
		_, err = m.Extend(ctx, n, nil)
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

// wakePeers renders the ways to a network's peers anew when the network is not what they were rendered for.
func (m *Member) wakePeers(n cnm.Network) error {
	b, err := encode(n)
	if err != nil || m.adopted[n.ID] == string(b) {
		return err
	}
	m.adopted[n.ID] = string(b)
	var scopes []plan.Scope
	for id, p := range m.peers {
		if p.peer.Network == n.ID {
			scopes = append(scopes, cnm.PeerScope(id))
		}
	}
	m.cfg.Wake(scopes...)
	return nil
}

func (m *Member) made(id string) {
	m.mu.Lock()
	delete(m.making, id)
	m.mu.Unlock()
}

// trouble notes what is wrong with a network, or that nothing is any more.
func (m *Member) trouble(id string, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil || errors.Is(err, errNotYet) {
		delete(m.troubles, id)
		return
	}
	m.troubles[id] = err
}

// leave lets go of a network that the cluster has no more.
func (m *Member) leave(ctx context.Context, id string) error {
	m.unfollow(id)
	delete(m.adopted, id)
	m.trouble(id, nil)
	if err := m.forgetLease(ctx, id); err != nil {
		return err
	}
	n, err := m.ctrl.Network(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) || err == nil && (n.Cluster == nil || n.ID != id) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := m.ctrl.Abandon(ctx, id); err != nil {
		return fmt.Errorf("network %s, which the cluster has no more: %w", n.Name, err)
	}
	return nil
}

// localize adds what of the network is this node's.
func (m *Member) localize(ctx context.Context, g *errgroup.Group, d cnm.Driver, n cnm.Network) (cnm.Network, error) {
	n = clone(n)
	if !d.Capabilities().Leases {
		if err := m.keepBlocks(ctx, n); err != nil {
			return n, err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		m.giveBlocks(&n)
		return n, nil
	}
	ld, ok := d.(Driver)
	if !ok {
		return n, fmt.Errorf("driver %s has leases without a configuration", d.Name())
	}
	h, err := m.ensureLease(ctx, g, ld, n)
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

// keepBlocks writes again what etcd has lost of this node's blocks, and hangs all of them on its lease. Those that
// are another node's by now are not this one's any more.
func (m *Member) keepBlocks(ctx context.Context, n cnm.Network) error {
	local, err := m.ctrl.Network(ctx, n.ID)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	want := m.ownBlocks(local, n.ID)
	if len(want) == 0 {
		return nil
	}
	lease, err := m.leaseID()
	if err != nil {
		return err
	}
	var errs []error
	for p, have := range want {
		if have.lease == lease {
			continue
		}
		err := m.put(ctx, lease, blockKey(n.ID, p), block{Node: m.id}, have.mod)
		if err == nil {
			err = m.rereadBlock(ctx, n.ID, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ownBlocks are the blocks that this node has in etcd, and those it had that nobody has now.
func (m *Member) ownBlocks(local cnm.Network, id string) map[netip.Prefix]held[block] {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := map[netip.Prefix]held[block]{}
	for p, b := range m.rep.blocks[id] {
		if b.v.Node == m.id {
			want[p] = b
		}
	}
	for _, pool := range local.Pools {
		for _, p := range pool.Blocks {
			if !m.overlapped(id, p) {
				want[p] = held[block]{}
			}
		}
	}
	return want
}

// overlapped tells whether a block that etcd has is in the way of p. The caller holds mu.
func (m *Member) overlapped(network string, p netip.Prefix) bool {
	for q := range m.rep.blocks[network] {
		if q.Overlaps(p) {
			return true
		}
	}
	return false
}

// rereadBlock takes over a block that this node has just written, ahead of the watch: a share must never
// look smaller than it is, or endpoints would be given other addresses.
func (m *Member) rereadBlock(ctx context.Context, network string, p netip.Prefix) error {
	r, err := m.store.Get(ctx, blockKey(network, p))
	if err != nil {
		return quietly(err)
	}
	v, err := decode[block](r.Value)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rep.blocks[network] == nil {
		m.rep.blocks[network] = map[netip.Prefix]held[block]{}
	}
	if have, ok := m.rep.blocks[network][p]; !ok || have.mod < int64(r.Revision) {
		m.rep.blocks[network][p] = held[block]{v: v, mod: int64(r.Revision), lease: m.lease.ID()}
	}
	return nil
}

// giveBlocks sets the pools' blocks to this node's. The caller holds mu.
func (m *Member) giveBlocks(n *cnm.Network) {
	for i := range n.Pools {
		n.Pools[i].Blocks = []netip.Prefix{}
		for p, b := range m.rep.blocks[n.ID] {
			if b.v.Node == m.id && n.Pools[i].Subnet.Contains(p.Addr()) {
				n.Pools[i].Blocks = append(n.Pools[i].Blocks, p)
			}
		}
		slices.SortFunc(n.Pools[i].Blocks, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	}
}

// leasePools are the pools of a network on a node with the lease: the first address is the gateway.
func leasePools(h heldLease) []cnm.Pool {
	var out []cnm.Pool
	for _, p := range []netip.Prefix{h.Subnet, h.Subnet6} {
		if p.IsValid() {
			out = append(out, cnm.Pool{Subnet: p, Range: p, Gateway: p.Addr().Next()})
		}
	}
	return out
}
