package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// update implements [cnm.Membership]. Every node follows the record, this one too.
func (m networks) update(ctx context.Context, n cnm.Network, edit func(cnm.Network) (cnm.Network, error)) (cnm.Network,
	error) {
	if err := m.awaitReady(ctx); err != nil {
		return n, err
	}
	for range tries {
		next, err := m.updateOnce(ctx, n, edit)
		if !errors.Is(err, cnm.ErrConflict) {
			return next, unavailable(err)
		}
	}
	return n, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
		Reason: "others keep changing the cluster's networks", Remedy: "try again"}
}

func (m networks) updateOnce(ctx context.Context, n cnm.Network, edit func(cnm.Network) (cnm.Network, error)) (
	cnm.Network, error) {
	guard, others, err := m.guarded(ctx)
	if err != nil {
		return n, err
	}
	i := slices.IndexFunc(others, func(o cnm.Network) bool { return o.ID == n.ID })
	if i < 0 {
		return n, &cnm.Error{Kind: cnm.ErrNotFound, Field: "network", Value: n.Name,
			Reason: "the cluster has no such network any more"}
	}
	now := others[i]
	next, err := edit(clone(now))
	if err == nil {
		err = m.admit(ctx, next)
	}
	if err != nil || maps.Equal(next.Options, now.Options) && maps.Equal(next.Labels, now.Labels) {
		return next, err
	}
	b, err := record.Encode(next)
	if err != nil {
		return n, err
	}
	revision, err := m.store.CommitLeased(ctx,
		etcdstore.LeasedWrite{Write: cnm.Write{Key: guard.Key, Value: []byte(n.ID), Revision: guard.Revision}},
		etcdstore.LeasedWrite{Write: cnm.Write{Key: cnm.Key{Kind: cnm.KindNetwork, ID: n.ID}, Value: b,
			Revision: now.Revision}})
	if err != nil {
		return n, err
	}
	m.mu.Lock()
	known, ok := m.rep.networks[n.ID]
	m.mu.Unlock()
	if ok { // what is copied to the controller until the watch brings it is not the older record
		m.wrote(&etcd.Item{Key: m.cfg.Prefix + "/" + string(cnm.KindNetwork) + "/" + n.ID, Value: b,
			Create: known.create, Mod: revision})
	}
	return next, nil
}

// outdated has a network copied to the controller again that was given to it with other options than the cluster has:
// its record may have changed while this node got itself a further block.
func (m *core) outdated(n cnm.Network) {
	m.mu.Lock()
	rec, ok := m.rep.networks[n.ID]
	stale := ok && !(maps.Equal(rec.v.Options, n.Options) && maps.Equal(rec.v.Labels, n.Labels))
	if stale {
		m.dirty.networks[n.ID] = true
	}
	m.mu.Unlock()
	if stale {
		m.signal()
	}
}
