package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// shared changes the networks that this node has in common with others.
type shared struct {
	*records
	addrs *addresses
	out   *removals
}

// Adopt takes over a network as the cluster has it, with this node's share of it in Pools. It
// may be called again at any time: what is so already costs no write, and what a crash left undone is finished.
//
// A network whose name, link or subnet another one of this node has is refused with ErrExists and one that
// cannot be right with ErrInvalid: nothing of it is kept. Endpoints that have addresses outside of the pools get
// others. When there are not enough, that is an ErrExhausted, an [ErrNoBlock] when more blocks help: those
// left over keep what they have, and the next call goes on. One that this node has itself removed from the cluster
// is left alone until Abandon has been told of it; one that it has left is an ErrForbidden and stays as it is.
func (k *shared) Adopt(ctx context.Context, n cnm.Network) error {
	fresh, err := k.adoptNetwork(ctx, n)
	if fresh {
		k.emitNetwork(ActionCreate, n)
	}
	if err != nil {
		return fmt.Errorf("adopt network %s: %w", n.Name, err)
	}
	return nil
}

// adoptNetwork is what networks that are learnt and those that are made have in common. It
// reports whether this node did not have the network before.
func (k *shared) adoptNetwork(ctx context.Context, n cnm.Network) (fresh bool, err error) {
	n = copyNetwork(n)
	n.Phase = cnm.Active
	if err := k.checkAdopted(n); err != nil {
		return false, err
	}
	unlock, err := k.locks.Lock(ctx, "network/"+n.ID)
	if err != nil {
		return false, err
	}
	if k.hasRemoved(n.ID) {
		unlock()
		return false, nil
	}
	if err := k.hasLeft(n.ID); err != nil {
		unlock()
		return false, err
	}
	old, err := k.take(ctx, n)
	if err != nil {
		unlock()
		return false, err
	}
	moved, err := k.addrs.renumber(ctx, n)
	unlock()
	owners := k.altered(old, n, moved)
	if len(owners) > 0 {
		err = errors.Join(err, k.converge(ctx, owners...))
	}
	for _, e := range moved {
		k.emitEndpoint(ActionRenumber, e, k.containerOf(e.Sandbox))
	}
	return old.ID == "", err
}

// hasRemoved reports whether this node has removed a network from the cluster, and the caller of Adopt has not said
// by Abandon that it knows. It may have read the network before it was removed: what it tells of it is not so any more.
func (k *shared) hasRemoved(id string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ix.removed[id]
}

// checkAdopted refuses a network that this node could not render.
func (k *shared) checkAdopted(n cnm.Network) error {
	if err := cnm.CheckID(n.ID); err != nil {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "ID", Value: n.ID, Reason: "not the ID of a network",
			Remedy: "correct the network's record"}
	}
	if err := cnm.CheckName("name", n.Name); err != nil {
		return err
	}
	if n.Cluster == nil || n.Builtin || n.ConfigOnly {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "network", Value: n.Name, Reason: "not one of a cluster"}
	}
	d, err := k.driver(n)
	if err != nil {
		return err
	}
	if d.Scope() != cnm.Cluster || n.Scope != cnm.Cluster {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "driver", Value: n.Driver,
			Reason: "its networks are of one node alone"}
	}
	for _, p := range n.Pools {
		if err := p.Check(); err != nil {
			return err
		}
	}
	return d.CheckNetwork(n)
}

// take commits the network's record, unless it is as n already. It returns what the network was before, the
// zero value when there was none. The caller holds the network's lock.
func (k *shared) take(ctx context.Context, n cnm.Network) (cnm.Network, error) {
	old, held, err := k.holdAdopted(ctx, n)
	if err != nil {
		return cnm.Network{}, err
	}
	same, err := sameNetwork(old, n)
	if err == nil && !same {
		err = k.commitAdopted(ctx, old, n)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.networks[n.ID]
	if err != nil {
		if held {
			k.ix.dropNetwork(n.ID)
		} else if ent != nil && !ent.closing && old.Phase == cnm.Deleting {
			ent.owned = false
		}
		return cnm.Network{}, err
	}
	if !same {
		k.putAdopted(n)
	}
	return old, nil
}

// lockSettled takes mu while no removal of the network is being committed.
func (k *shared) lockSettled(ctx context.Context, id string) error {
	for {
		k.mu.Lock()
		ent := k.ix.networks[id]
		if ent == nil || ent.settling == nil {
			return nil
		}
		wait := ent.settling
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// holdAdopted keeps the name and the link from others, and the network from being settled. It returns
// what the network is now and whether anything is held that was not before.
func (k *shared) holdAdopted(ctx context.Context, n cnm.Network) (old cnm.Network, held bool, err error) {
	if err := k.lockSettled(ctx, n.ID); err != nil {
		return cnm.Network{}, false, err
	}
	defer k.mu.Unlock()
	ent := k.ix.networks[n.ID]
	if ent == nil || ent.v.Name != n.Name {
		if err := k.freeName(n); err != nil {
			return cnm.Network{}, false, err
		}
	}
	if ent == nil && k.ix.shortTaken(cnm.KindNetwork, n.ID) {
		return cnm.Network{}, false, &cnm.Error{
			Kind: cnm.ErrExists, Field: "ID", Value: n.ID,
			Reason: fmt.Sprintf("another network's begins with the same %d digits", cnm.LinkLen),
			Remedy: "remove one of the two and make it again",
		}
	}
	if err := k.checkLink(n); err != nil {
		return cnm.Network{}, false, err
	}
	switch {
	case ent == nil:
		k.ix.putNetwork(n, true)
		return cnm.Network{}, true, nil
	case ent.pending:
		return cnm.Network{}, false, nil // by the call that makes it
	}
	old = ent.v
	if ent.closing {
		old.Phase = ent.was
	} else if old.Phase == cnm.Deleting {
		ent.owned = true // the cluster has it again: no deletion goes on
	}
	return old, false, nil
}

// sameNetwork reports whether the records of both are the same.
func sameNetwork(a, b cnm.Network) (bool, error) {
	x, err := cnm.Put(cnm.KindNetwork, a.ID, a, 0)
	if err != nil {
		return false, err
	}
	y, err := cnm.Put(cnm.KindNetwork, b.ID, b, 0)
	return bytes.Equal(x.Value, y.Value), err
}

// commitAdopted writes the record. The subnets of a new network are held before, so that no other
// record has them; the pools of one that exists change after, so that all that is given out is of the record.
func (k *shared) commitAdopted(ctx context.Context, old, n cnm.Network) error {
	fresh := old.ID == ""
	if fresh {
		if err := k.ipam.Update(n); err != nil {
			return err
		}
	}
	err := k.commit(ctx, func() ([]cnm.Write, error) {
		rec, err := k.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: n.ID})
		if err != nil && !errors.Is(err, cnm.ErrNotFound) {
			return nil, err
		}
		w, err := cnm.Put(cnm.KindNetwork, n.ID, n, rec.Revision)
		return []cnm.Write{w}, err
	})
	if err != nil {
		if fresh {
			k.ipam.Forget(n.ID)
		}
		return err
	}
	return k.ipam.Update(n)
}

// putAdopted enters the network as it is now into the index. One that is being removed from
// the cluster stays closed. The caller holds mu.
func (k *shared) putAdopted(n cnm.Network) {
	ent := k.ix.networks[n.ID]
	if ent != nil && ent.v.Name != n.Name {
		delete(k.ix.names, ent.v.Name)
	}
	closing := ent != nil && ent.closing
	if closing {
		n.Phase = cnm.Deleting
	}
	k.ix.putNetwork(n, false)
	if closing {
		ent = k.ix.networks[n.ID]
		ent.owned, ent.closing, ent.was = true, true, cnm.Active
	}
}

// altered are the owners that a change of the network, and the renumbering of some of its
// endpoints, concern. Which blocks the node has no render of an endpoint looks at.
func (k *shared) altered(old, n cnm.Network, moved []cnm.Endpoint) []plan.Owner {
	if same, err := sameNetwork(old, n); err == nil && same && len(moved) == 0 {
		return nil
	}
	owners := []plan.Owner{cnm.NetworkOwner(n.ID)}
	if same, err := sameNetwork(withoutBlocks(old), withoutBlocks(n)); err == nil && same {
		for _, e := range moved {
			owners = append(owners, cnm.EndpointOwner(e.ID))
		}
		return owners
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.ix.endpointsOn(n.ID) {
		if !k.ix.endpoints[e.ID].pending {
			owners = append(owners, cnm.EndpointOwner(e.ID))
		}
	}
	return owners
}

func withoutBlocks(n cnm.Network) cnm.Network {
	n = copyNetwork(n)
	for i := range n.Pools {
		n.Pools[i].Blocks = nil
	}
	return n
}

// Abandon takes note that a network has been removed from the cluster. Without endpoints of this node it is removed;
// with some it stays, marked [ClusterNetwork.Gone] and closed to others, and goes with the last of them. One that
// is not known is no error.
func (k *shared) Abandon(ctx context.Context, id string) error {
	n, err := k.abandon(ctx, id)
	if err != nil {
		return fmt.Errorf("give up network %s, which was removed from the cluster: %w", n.Name, err)
	}
	return nil
}

func (k *shared) abandon(ctx context.Context, id string) (cnm.Network, error) {
	k.mu.Lock()
	delete(k.ix.removed, id)
	k.mu.Unlock()
	n, inUse, err := k.known(id)
	if err != nil || n.ID == "" {
		return n, err
	}
	if !inUse {
		if err := k.out.removeNetwork(ctx, id); !errors.Is(err, cnm.ErrInUse) {
			return n, err
		}
	}
	if err := k.disconnect(ctx, id); err != nil {
		return n, err
	}
	return n, k.out.reap(ctx, id) // the last one may have gone meanwhile
}

// disconnect marks a network as one that the cluster has no more.
func (k *shared) disconnect(ctx context.Context, id string) error {
	unlock, err := k.locks.Lock(ctx, "network/"+id)
	if err != nil {
		return err
	}
	n, _, err := k.known(id)
	if err != nil || n.ID == "" {
		unlock()
		return err
	}
	n.Phase, n.Cluster.Gone = cnm.Active, true
	old, err := k.take(ctx, n)
	unlock()
	if err != nil {
		return err
	}
	if owners := k.altered(old, n, nil); len(owners) > 0 {
		return k.converge(ctx, owners...)
	}
	return nil
}

// known finds a network of the cluster and reports whether endpoints are on it.
func (k *shared) known(id string) (n cnm.Network, inUse bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.networks[id]
	if ent == nil || ent.pending {
		return cnm.Network{}, false, nil
	}
	if ent.v.Cluster == nil {
		return copyNetwork(ent.v), false, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: ent.v.Name,
			Reason: "of this node alone, no cluster has it"}
	}
	return copyNetwork(ent.v), len(k.ix.ofNetwork[id]) > 0, nil
}

// reap removes those of the networks that the cluster has no more and no endpoint is on.
func (k *removals) reap(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		k.mu.Lock()
		ent := k.ix.networks[id]
		due := ent != nil && !ent.pending && ent.v.Gone() && ent.v.Phase == cnm.Active && len(k.ix.ofNetwork[id]) == 0
		k.mu.Unlock()
		if !due {
			continue
		}
		if err := k.removeNetworkIf(ctx, id, cnm.Network.Gone); err != nil && !errors.Is(err, cnm.ErrInUse) {
			errs = append(errs, fmt.Errorf("remove network %s, which was removed from the cluster: %w",
				cnm.Short(id), err))
		}
	}
	return errors.Join(errs...)
}

// networksOf are the IDs of the endpoints' networks.
func networksOf(endpoints []cnm.Endpoint) []string {
	var ids []string
	for _, e := range endpoints {
		if !slices.Contains(ids, e.Network) {
			ids = append(ids, e.Network)
		}
	}
	return ids
}
