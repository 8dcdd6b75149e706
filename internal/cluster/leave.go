package cluster

import (
	"context"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
	"github.com/vethloom/vethloom/subnet"
)

// heedLeft takes note of the networks that this node has left, and forgets the peers of those. It needs no etcd.
func (m networks) heedLeft(ctx context.Context) error {
	left := m.ctrl.Left()
	m.mu.Lock()
	m.left = left
	for id := range left {
		delete(m.troubles, id)
	}
	m.mu.Unlock()
	if len(left) == 0 {
		return nil
	}
	var changes []peerChange
	for id, p := range m.peers.known {
		if _, is := left[p.peer.Network]; is {
			changes = append(changes, peerChange{write: cnm.Write{Key: cnm.Key{Kind: cnm.KindPeer, ID: id},
				Revision: p.revision}})
		}
	}
	return m.peers.commitPeers(ctx, changes)
}

// hasLeft reports whether this node has left a network. The caller holds mu.
func (m *core) hasLeft(id string) bool {
	_, left := m.left[id]
	return left
}

// withdraw gives back what this node has in etcd of a network that it has left. Endpoints are not among it: none are on
// such a network, and what is published of them goes like that of any.
func (m networks) withdraw(ctx context.Context, n cnm.Network) error {
	m.follower.unfollow(n.ID)
	delete(m.adopted, n.ID)
	var writes []etcdstore.LeasedWrite
	m.mu.Lock()
	for p, b := range m.rep.blocks[n.ID] {
		if b.v.Node == m.id {
			writes = append(writes, etcdstore.LeasedWrite{Write: cnm.Write{Key: record.BlockKey(n.ID, p),
				Revision: uint64(b.mod)}})
		}
	}
	m.mu.Unlock()
	for batch := range slices.Chunk(writes, batchSize) {
		if err := m.commit(ctx, batch); err != nil {
			return quietly(err)
		}
	}
	return m.leases.giveUp(ctx, n)
}

// giveUp ends this node's lease of a network in etcd, and forgets it.
func (m leases) giveUp(ctx context.Context, n cnm.Network) error {
	m.mu.Lock()
	h := m.held[n.ID]
	m.mu.Unlock()
	if h.Key == "" || n.Cluster.Leases == "" {
		return nil
	}
	dir, err := subnet.Open(m.client, n.Cluster.Leases)
	if err != nil {
		return err
	}
	if err := m.release(ctx, dir, h); err != nil {
		return unavailable(err)
	}
	return m.forgetLease(ctx, n.ID)
}

// release ends this node's lease in etcd.
func (m leases) release(ctx context.Context, dir *subnet.Directory, h record.HeldLease) error {
	return dir.Release(ctx, subnet.Lease{Key: h.Key, Subnet: h.Subnet, Subnet6: h.Subnet6, Create: h.Create,
		Attrs: subnet.Attrs{NodeID: m.id}})
}
