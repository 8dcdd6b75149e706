package cnm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
)

// Adopt takes over a network as the cluster has it, with this node's share of it in Pools. It
// may be called again at any time: what is so already costs no write, and what a crash left undone is finished.
//
// A network whose name, link or subnet another one of this node has is refused with ErrExists and one that
// cannot be right with ErrInvalid: nothing of it is kept. Endpoints that have addresses outside of the pools get
// others. When there are not enough, that is an ErrExhausted, an [ErrNoBlock] when more blocks help: those
// left over keep what they have, and the next call goes on.
func (k *Controller) Adopt(ctx context.Context, n Network) error {
	fresh, err := k.adoptNetwork(ctx, n)
	if fresh {
		k.emit(Event{Kind: KindNetwork, Action: ActionCreate, ID: n.ID, Name: n.Name})
	}
	if err != nil {
		return fmt.Errorf("adopt network %s: %w", n.Name, err)
	}
	return nil
}

// adoptNetwork is what networks that are learnt and those that are made have in common. It
// tells whether this node has the network since.
func (k *Controller) adoptNetwork(ctx context.Context, n Network) (fresh bool, err error) {
	n = copyNetwork(n)
	n.Phase = Active
	if err := k.checkAdopted(n); err != nil {
		return false, err
	}
	unlock, err := k.locks.lock(ctx, "network/"+n.ID)
	if err != nil {
		return false, err
	}
	old, err := k.take(ctx, n)
	if err != nil {
		unlock()
		return false, err
	}
	moved, err := k.renumber(ctx, n)
	unlock()
	scopes := k.altered(old, n, moved)
	if len(scopes) > 0 {
		err = errors.Join(err, k.converge(ctx, scopes...))
	}
	for _, e := range moved {
		k.emitEndpoint(ActionRenumber, e, k.containerOf(e.Sandbox))
	}
	return old.ID == "", err
}

// checkAdopted refuses a network that this node could not render.
func (k *Controller) checkAdopted(n Network) error {
	if err := checkID(n.ID); err != nil {
		return &Error{Kind: ErrInvalid, Field: "ID", Value: n.ID, Reason: "not the ID of a network", Remedy: "correct the network's record"}
	}
	if err := CheckName("name", n.Name); err != nil {
		return err
	}
	if n.Cluster == nil || n.Builtin {
		return &Error{Kind: ErrInvalid, Field: "network", Value: n.Name, Reason: "not one of a cluster"}
	}
	d, err := k.driver(n.Driver)
	if err != nil {
		return err
	}
	if d.Scope() != Cluster || n.Scope != Cluster {
		return &Error{Kind: ErrInvalid, Field: "driver", Value: n.Driver, Reason: "its networks are of one node alone"}
	}
	for _, p := range n.Pools {
		if err := checkPool(p); err != nil {
			return err
		}
	}
	return d.CheckNetwork(n)
}

// take commits the network's record, unless it is as n already. It returns what the network was before, the
// zero value when there was none. The caller holds the network's lock.
func (k *Controller) take(ctx context.Context, n Network) (Network, error) {
	old, held, err := k.holdAdopted(ctx, n)
	if err != nil {
		return Network{}, err
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
		} else if ent != nil && !ent.closing && old.Phase == Deleting {
			ent.owned = false
		}
		return Network{}, err
	}
	if !same {
		k.putAdopted(n)
	}
	return old, nil
}

// holdAdopted keeps the name and the link from others, and the network from being settled. It returns
// what the network is now and whether anything is held that was not before.
func (k *Controller) holdAdopted(ctx context.Context, n Network) (old Network, held bool, err error) {
	for {
		k.mu.Lock()
		ent := k.ix.networks[n.ID]
		if ent == nil || ent.settling == nil {
			break
		}
		wait := ent.settling
		k.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return Network{}, false, ctx.Err()
		}
	}
	defer k.mu.Unlock()
	ent := k.ix.networks[n.ID]
	if ent == nil || ent.v.Name != n.Name {
		if err := k.freeName(n); err != nil {
			return Network{}, false, err
		}
	}
	if ent == nil && k.ix.shortTaken(KindNetwork, n.ID) {
		return Network{}, false, &Error{
			Kind: ErrExists, Field: "ID", Value: n.ID, Reason: fmt.Sprintf("another network's begins with the same %d digits", LinkLen),
			Remedy: "remove one of the two and make it again",
		}
	}
	if err := k.checkLink(n); err != nil {
		return Network{}, false, err
	}
	switch {
	case ent == nil:
		k.ix.putNetwork(n, true)
		return Network{}, true, nil
	case ent.pending:
		return Network{}, false, nil // by the call that makes it
	}
	old = ent.v
	if ent.closing {
		old.Phase = ent.was
	} else if old.Phase == Deleting {
		ent.owned = true // the cluster has it again: no deletion goes on
	}
	return old, false, nil
}

// sameNetwork tells whether the records of both are the same.
func sameNetwork(a, b Network) (bool, error) {
	x, err := put(KindNetwork, a.ID, a, 0)
	if err != nil {
		return false, err
	}
	y, err := put(KindNetwork, b.ID, b, 0)
	return bytes.Equal(x.Value, y.Value), err
}

// commitAdopted writes the record. The subnets of a new network are held before, so that nobody else's
// record has them; the pools of one that exists change after, so that all that is given out is of the record.
func (k *Controller) commitAdopted(ctx context.Context, old, n Network) error {
	fresh := old.ID == ""
	if fresh {
		if err := k.ipam.Update(n); err != nil {
			return err
		}
	}
	err := k.commit(ctx, func() ([]Write, error) {
		rec, err := k.store.Get(ctx, Key{KindNetwork, n.ID})
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		w, err := put(KindNetwork, n.ID, n, rec.Revision)
		return []Write{w}, err
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
func (k *Controller) putAdopted(n Network) {
	ent := k.ix.networks[n.ID]
	if ent != nil && ent.v.Name != n.Name {
		delete(k.ix.names, ent.v.Name)
	}
	closing := ent != nil && ent.closing
	if closing {
		n.Phase = Deleting
	}
	k.ix.putNetwork(n, false)
	if closing {
		ent = k.ix.networks[n.ID]
		ent.owned, ent.closing, ent.was = true, true, Active
	}
}

// altered are the scopes that a change of the network, and the renumbering of some of its
// endpoints, concern. Which blocks the node has no render of an endpoint looks at.
func (k *Controller) altered(old, n Network, moved []Endpoint) []plan.Scope {
	if same, err := sameNetwork(old, n); err == nil && same && len(moved) == 0 {
		return nil
	}
	scopes := []plan.Scope{NetworkScope(n.ID)}
	if same, err := sameNetwork(withoutBlocks(old), withoutBlocks(n)); err == nil && same {
		for _, e := range moved {
			scopes = append(scopes, EndpointScope(e.ID))
		}
		return scopes
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range k.ix.endpointsOn(n.ID) {
		if !k.ix.endpoints[e.ID].pending {
			scopes = append(scopes, EndpointScope(e.ID))
		}
	}
	return scopes
}

func withoutBlocks(n Network) Network {
	n = copyNetwork(n)
	for i := range n.Pools {
		n.Pools[i].Blocks = nil
	}
	return n
}

func (k *Controller) containerOf(sandbox string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s := k.ix.sandboxes[sandbox]; s != nil {
		return s.v.Container
	}
	return ""
}

// Abandon tells that the cluster has a network no more. Without endpoints of this node it is removed;
// with some it stays, marked [ClusterNetwork.Gone] and closed to others, and goes with the last of them. One that
// is not known is no error.
func (k *Controller) Abandon(ctx context.Context, id string) error {
	n, err := k.abandon(ctx, id)
	if err != nil {
		return fmt.Errorf("give up network %s, which the cluster has no more: %w", n.Name, err)
	}
	return nil
}

func (k *Controller) abandon(ctx context.Context, id string) (Network, error) {
	n, inUse, err := k.known(id)
	if err != nil || n.ID == "" {
		return n, err
	}
	if !inUse {
		if err := k.removeNetwork(ctx, id); !errors.Is(err, ErrInUse) {
			return n, err
		}
	}
	if err := k.disconnect(ctx, id); err != nil {
		return n, err
	}
	return n, k.reap(ctx, id) // the last one may have gone meanwhile
}

// disconnect marks a network as one that the cluster has no more.
func (k *Controller) disconnect(ctx context.Context, id string) error {
	unlock, err := k.locks.lock(ctx, "network/"+id)
	if err != nil {
		return err
	}
	n, _, err := k.known(id)
	if err != nil || n.ID == "" {
		unlock()
		return err
	}
	n.Phase, n.Cluster.Gone = Active, true
	old, err := k.take(ctx, n)
	unlock()
	if err != nil {
		return err
	}
	if scopes := k.altered(old, n, nil); len(scopes) > 0 {
		return k.converge(ctx, scopes...)
	}
	return nil
}

// known finds a network of the cluster and tells whether endpoints are on it.
func (k *Controller) known(id string) (n Network, inUse bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.networks[id]
	if ent == nil || ent.pending {
		return Network{}, false, nil
	}
	if ent.v.Cluster == nil {
		return copyNetwork(ent.v), false, &Error{Kind: ErrForbidden, Field: "network", Value: ent.v.Name, Reason: "of this node alone, no cluster has it"}
	}
	return copyNetwork(ent.v), len(k.ix.ofNetwork[id]) > 0, nil
}

// reap removes those of the networks that the cluster has no more and no endpoint is on.
func (k *Controller) reap(ctx context.Context, ids ...string) error {
	var errs []error
	for _, id := range ids {
		k.mu.Lock()
		ent := k.ix.networks[id]
		due := ent != nil && !ent.pending && ent.v.gone() && ent.v.Phase == Active && len(k.ix.ofNetwork[id]) == 0
		k.mu.Unlock()
		if !due {
			continue
		}
		if err := k.removeNetworkIf(ctx, id, Network.gone); err != nil && !errors.Is(err, ErrInUse) {
			errs = append(errs, fmt.Errorf("remove network %s, which the cluster has no more: %w", Short(id), err))
		}
	}
	return errors.Join(errs...)
}

// gone tells whether the cluster has the network no more.
func (n Network) gone() bool { return n.Cluster != nil && n.Cluster.Gone }

// networksOf are the IDs of the endpoints' networks.
func networksOf(endpoints []Endpoint) []string {
	var ids []string
	for _, e := range endpoints {
		if !slices.Contains(ids, e.Network) {
			ids = append(ids, e.Network)
		}
	}
	return ids
}
