package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/subnet"
)

// delete implements [cnm.Membership].
func (m networks) delete(ctx context.Context, n cnm.Network) error {
	if err := m.awaitReady(ctx); err != nil {
		return err
	}
	for range tries {
		err := m.deleteOnce(ctx, n)
		if !errors.Is(err, cnm.ErrConflict) {
			return unavailable(err)
		}
	}
	return &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
		Reason: "others keep changing the cluster's networks", Remedy: "try again"}
}

func (m networks) deleteOnce(ctx context.Context, n cnm.Network) error {
	guard, _, err := m.guarded(ctx)
	if err != nil {
		return err
	}
	on, err := m.store.Find(ctx, record.KindEndpoint, n.ID+".")
	if err != nil {
		return err
	}
	if err := m.unused(n, on); err != nil {
		return err
	}
	rec, err := m.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: n.ID})
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	if err == nil {
		err = m.store.Commit(ctx, cnm.Write{Key: guard.Key, Value: []byte(n.ID), Revision: guard.Revision},
			cnm.Write{Key: rec.Key, Revision: rec.Revision})
		if err != nil {
			return err
		}
	}
	return m.sweep(ctx, n)
}

// unused refuses to remove a network that other nodes' endpoints are on.
func (m networks) unused(n cnm.Network, on []cnm.Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	where, away := map[string]int{}, ""
	for _, r := range on {
		e, err := record.Decode[record.Endpoint](r.Value)
		if err != nil || e.Node == m.id {
			continue // this node's own are the controller's affair
		}
		name := e.Node
		if node, ok := m.rep.nodes[e.Node]; ok {
			name = node.v.Name
		}
		where[name]++
		away = cmp.Or(away, m.forgettable(e.Node))
	}
	if len(where) == 0 {
		return nil
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(where)) {
		parts = append(parts, fmt.Sprintf("%d on node %s", where[name], name))
	}
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
		Reason: "in use by endpoints of other nodes: " + strings.Join(parts, ", "),
		Remedy: "disconnect them first" + away}
}

// sweep removes what hangs on a network that is gone. A directory that somebody else made stays, but for
// this node's lease.
func (m networks) sweep(ctx context.Context, n cnm.Network) error {
	blocks, err := m.store.Find(ctx, record.KindBlock, n.ID+".")
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(blocks, batchSize) {
		var writes []cnm.Write
		for _, b := range batch {
			writes = append(writes, cnm.Write{Key: b.Key, Revision: b.Revision})
		}
		if err := m.store.Commit(ctx, writes...); err != nil {
			return err
		}
	}
	if n.Cluster == nil || n.Cluster.Leases == "" {
		return nil
	}
	dir, err := subnet.Open(m.client, n.Cluster.Leases)
	if err != nil {
		return err
	}
	if d, ok := m.drivers[n.Driver].(Driver); ok && d.JoinDir(n) != "" {
		m.mu.Lock()
		h := m.held[n.ID]
		m.mu.Unlock()
		if h.Key == "" {
			return nil
		}
		return m.leases.release(ctx, dir, h)
	}
	return dir.Remove(ctx)
}
