package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
)

// createShared makes a network of cluster scope whose name is held: in the cluster first, then here as any
// node that learns of it does.
func (k *shared) createShared(ctx context.Context, d cnm.Driver, n cnm.Network, pools []cnm.PoolRequest) (
	cnm.Network, error) {
	made, err := k.share(ctx, d, n, pools)
	if err == nil {
		var fresh bool
		if fresh, err = k.adoptNetwork(ctx, made); err != nil {
			err = k.undo(ctx, err, func(ctx context.Context) error { return k.removeShared(ctx, made) })
		} else if fresh {
			k.emitNetwork(ActionCreate, made)
		}
	}
	if err != nil {
		err = k.undo(ctx, err, func(ctx context.Context) error { return k.dropHeld(ctx, n.ID) })
		return cnm.Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	return copyNetwork(made), nil
}

// share makes the network in the cluster.
func (k *shared) share(ctx context.Context, d cnm.Driver, n cnm.Network, pools []cnm.PoolRequest) (cnm.Network, error) {
	if err := d.CheckNetwork(n); err != nil {
		return cnm.Network{}, err
	}
	cluster, err := k.membership(n)
	if err != nil {
		return cnm.Network{}, err
	}
	var tunnel cnm.TunnelRequest
	if p, ok := d.(cnm.PeerDriver); ok {
		if tunnel, err = p.Tunnel(n); err != nil {
			return cnm.Network{}, err
		}
	}
	return cluster.Create(ctx, n, pools, tunnel)
}

// dropHeld frees a name, unless a network has it now.
func (k *shared) dropHeld(ctx context.Context, id string) error {
	unlock, err := k.locks.Lock(ctx, "network/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.ix.networks[id]; e != nil && e.pending {
		k.ix.dropNetwork(id)
	}
	return nil
}

// removeShared removes a network that no endpoint is on from the cluster, and then from this node. When the
// cluster refuses, it is open again. No lock that Adopt or Abandon need is held while the cluster is asked.
func (k *shared) removeShared(ctx context.Context, n cnm.Network) error {
	unlock, err := k.locks.Lock(ctx, "share/"+n.ID)
	if err != nil {
		return err
	}
	defer unlock()
	cluster, err := k.membership(n)
	if err != nil {
		return err
	}
	if _, err := k.out.closeNetwork(n.ID, always, true); err != nil {
		return err
	}
	if err := cluster.Delete(ctx, copyNetwork(n)); err != nil && !errors.Is(err, cnm.ErrNotFound) {
		k.reopen(n.ID)
		return err
	}
	k.mu.Lock()
	k.ix.removed[n.ID] = true
	k.mu.Unlock()
	return k.out.removeNetwork(ctx, n.ID)
}

// reopen opens a network that the cluster did not remove.
func (k *shared) reopen(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.networks[id]
	if e == nil || !e.closing {
		return // removed, or adopted again, meanwhile
	}
	if e.was == cnm.Active {
		e.v.Phase = cnm.Active
	}
	e.owned, e.closing = false, false
}

// leave removes what nobody has any more after a failed attach.
func (k *endpoints) leave(ctx context.Context, js []*joining) error {
	var ids []string
	for _, j := range js {
		if j.network.Cluster != nil {
			ids = append(ids, j.network.ID)
		}
	}
	return k.out.reap(ctx, ids...)
}

// restoreShared finishes at a start what was begun with a cluster network before.
func (k *shared) restoreShared(ctx context.Context, n cnm.Network) error {
	if n.Cluster == nil || n.Phase == cnm.Deleting {
		return nil
	}
	if n.Gone() && len(k.ix.ofNetwork[n.ID]) == 0 {
		n.Phase = cnm.Deleting
		w, err := cnm.Put(cnm.KindNetwork, n.ID, n, n.Revision)
		if err == nil {
			err = k.store.Commit(ctx, w)
		}
		if err != nil {
			return fmt.Errorf("mark network %s for deletion: %w", n.Name, err)
		}
		k.ix.networks[n.ID].v.Phase = cnm.Deleting
		return nil
	}
	moved, err := k.addrs.renumber(ctx, n)
	if len(moved) > 0 {
		k.log.Info("gave endpoints other addresses, as this node's share of the network has changed", "network",
			n.Name, "endpoints", len(moved))
	}
	if errors.Is(err, cnm.ErrExhausted) {
		k.log.Warn("endpoints keep addresses that this node's share of the network has not until there are others",
			"network", n.Name, "err", err)
		return nil
	}
	return err
}
