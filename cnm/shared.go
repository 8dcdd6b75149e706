package cnm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// createShared makes a network of cluster scope whose name is held: in the cluster first, then here as any
// node that learns of it does.
func (k *Controller) createShared(ctx context.Context, d Driver, n Network, pools []PoolRequest) (Network, error) {
	made, err := k.share(ctx, d, n, pools)
	if err == nil {
		var fresh bool
		if fresh, err = k.adoptNetwork(ctx, made); err != nil {
			err = k.undo(ctx, err, func(ctx context.Context) error { return k.removeShared(ctx, made) })
		} else if fresh {
			k.emit(Event{Kind: KindNetwork, Action: ActionCreate, ID: made.ID, Name: made.Name})
		}
	}
	if err != nil {
		err = k.undo(ctx, err, func(ctx context.Context) error { return k.dropHeld(ctx, n.ID) })
		return Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	return copyNetwork(made), nil
}

// share makes the network in the cluster.
func (k *Controller) share(ctx context.Context, d Driver, n Network, pools []PoolRequest) (Network, error) {
	if err := d.CheckNetwork(n); err != nil {
		return Network{}, err
	}
	cluster, err := k.membership(n)
	if err != nil {
		return Network{}, err
	}
	var tunnel TunnelRequest
	if p, ok := d.(PeerDriver); ok {
		if tunnel, err = p.Tunnel(n); err != nil {
			return Network{}, err
		}
	}
	return cluster.Create(ctx, n, pools, tunnel)
}

// membership is what cluster networks are made and changed with.
func (k *Controller) membership(n Network) (Membership, error) {
	if k.cluster != nil {
		return k.cluster, nil
	}
	return nil, &Error{
		Kind: ErrUnavailable, Field: "network", Value: n.Name, Reason: fmt.Sprintf("networks of driver %s are of a cluster, and this node is in none", n.Driver),
		Remedy: "start netd with --etcd, or choose driver bridge",
	}
}

// dropHeld lets go of a name, unless a network has it by now.
func (k *Controller) dropHeld(ctx context.Context, id string) error {
	unlock, err := k.locks.lock(ctx, "network/"+id)
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
func (k *Controller) removeShared(ctx context.Context, n Network) error {
	unlock, err := k.locks.lock(ctx, "share/"+n.ID)
	if err != nil {
		return err
	}
	defer unlock()
	cluster, err := k.membership(n)
	if err != nil {
		return err
	}
	if _, err := k.closeNetwork(n.ID, always, true); err != nil {
		return err
	}
	if err := cluster.Delete(ctx, copyNetwork(n)); err != nil && !errors.Is(err, ErrNotFound) {
		k.reopen(n.ID)
		return err
	}
	return k.removeNetwork(ctx, n.ID)
}

// reopen opens a network that the cluster did not remove.
func (k *Controller) reopen(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.networks[id]
	if e == nil || !e.closing {
		return // gone, or in other hands, meanwhile
	}
	if e.was == Active {
		e.v.Phase = Active
	}
	e.owned, e.closing = false, false
}

// extendTries bounds how often one attach gets its node another block whose addresses are all
// gone to others by the time it asks for one of them.
const extendTries = 10

// claim gets the endpoint its addresses. When this node's blocks of a cluster network have none, the
// cluster is asked for another block, by one caller at a time.
func (k *Controller) claim(ctx context.Context, j *joining) (err error) {
	id, want := owner(j.e.ID), j.request.Addrs
	if j.network.Cluster == nil {
		j.claim, err = k.ipam.Claim(ctx, j.network, id, want)
		return err
	}
	cluster, err := k.membership(j.network)
	if err != nil {
		return err
	}
	if err := cluster.Usable(j.network.ID); err != nil {
		return err
	}
	if j.claim, err = k.ipam.Claim(ctx, j.network, id, want); !errors.Is(err, ErrNoBlock) {
		return err
	}
	unlock, err := k.locks.lock(ctx, "extend/"+j.network.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if j.claim, err = k.ipam.Claim(ctx, j.network, id, want); !errors.Is(err, ErrNoBlock) {
		return err // somebody else has got a block meanwhile
	}
	for try := 1; ; try++ {
		n, err := k.Network(ctx, j.network.ID) // with the blocks that others have got for it meanwhile
		if err == nil {
			n, err = cluster.Extend(ctx, n, want)
		}
		if err != nil {
			return fmt.Errorf("get this node more addresses of network %s: %w", j.network.Name, err)
		}
		j.network = n
		j.claim, err = k.ipam.Claim(ctx, n, id, want)
		if len(want) > 0 || try == extendTries || !errors.Is(err, ErrNoBlock) {
			return err
		}
	}
}

// catchUp gives endpoints that were claimed for before their network's pools changed, and committed
// after, addresses of the pools as they are now.
func (k *Controller) catchUp(ctx context.Context, js []*joining) error {
	for _, j := range js {
		if j.network.Cluster == nil || !k.isStray(j.e.ID) {
			continue
		}
		if err := k.catchUpOne(ctx, j); err != nil {
			return err
		}
	}
	return nil
}

func (k *Controller) catchUpOne(ctx context.Context, j *joining) error {
	unlock, err := k.locks.lock(ctx, "network/"+j.network.ID)
	if err != nil {
		return err
	}
	defer unlock()
	if !k.isStray(j.e.ID) {
		return nil
	}
	_, _, err = k.move(ctx, j.e)
	return err
}

// leave removes what nobody has any more after a failed attach.
func (k *Controller) leave(ctx context.Context, js []*joining) error {
	var ids []string
	for _, j := range js {
		if j.network.Cluster != nil {
			ids = append(ids, j.network.ID)
		}
	}
	return k.reap(ctx, ids...)
}

// restoreShared finishes at a start what was begun with a cluster network before.
func (k *Controller) restoreShared(ctx context.Context, n Network) error {
	if n.Cluster == nil || n.Phase == Deleting {
		return nil
	}
	if n.gone() && len(k.ix.ofNetwork[n.ID]) == 0 {
		n.Phase = Deleting
		w, err := put(KindNetwork, n.ID, n, n.Revision)
		if err == nil {
			err = k.store.Commit(ctx, w)
		}
		if err != nil {
			return fmt.Errorf("mark network %s for deletion: %w", n.Name, err)
		}
		k.ix.networks[n.ID].v.Phase = Deleting
		return nil
	}
	moved, err := k.renumber(ctx, n)
	if len(moved) > 0 {
		k.log.Info("gave endpoints other addresses, as this node's share of the network has changed", "network", n.Name, "endpoints", len(moved))
	}
	if errors.Is(err, ErrExhausted) {
		k.log.Warn("endpoints keep addresses that this node's share of the network has not until there are others", "network", n.Name, "err", err)
		return nil
	}
	return err
}

// renumber gives the endpoints on the network that have addresses outside of this node's share of it others,
// each in one commit. It returns those that have got some. The caller holds the network's lock.
func (k *Controller) renumber(ctx context.Context, n Network) ([]Endpoint, error) {
	var moved []Endpoint
	for _, e := range k.strays(n) {
		e, ok, err := k.move(ctx, e)
		if ok {
			moved = append(moved, e)
		}
		if err != nil {
			return moved, fmt.Errorf("give endpoint %s another address: %w", Short(e.ID), err)
		}
	}
	return moved, nil
}

// strays are the endpoints that have addresses outside of the network's pools.
func (k *Controller) strays(n Network) []Endpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []Endpoint
	for _, e := range k.ix.endpointsOn(n.ID) {
		if !k.ix.endpoints[e.ID].pending && strayed(n, e) {
			out = append(out, copyEndpoint(e))
		}
	}
	return out
}

func (k *Controller) isStray(endpoint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.endpoints[endpoint]
	if e == nil || e.pending {
		return false
	}
	n := k.ix.networks[e.v.Network]
	return n != nil && strayed(n.v, e.v)
}

// strayed tells whether the endpoint lacks an address of a pool. What it has of a family without
// a pool it keeps.
func strayed(n Network, e Endpoint) bool {
	if n.Cluster == nil || e.Phase == Deleting {
		return false
	}
	for _, p := range n.Pools {
		shared := n.Cluster.Leases == "" || len(p.Blocks) > 0
		ours := func(a netip.Prefix) bool {
			in := func(b netip.Prefix) bool { return b.Contains(a.Addr()) }
			return a.Bits() == p.Subnet.Bits() && in(p.Subnet) && (!shared || slices.ContainsFunc(p.Blocks, in))
		}
		if !slices.ContainsFunc(e.Addrs, ours) {
			return true
		}
	}
	return false
}

// move gives an endpoint addresses of its network's present pools: the old ones go, the new ones come and
// the endpoint's record changes in one commit. It is false for an endpoint that is gone or going.
func (k *Controller) move(ctx context.Context, e Endpoint) (Endpoint, bool, error) {
	var claim *Claim
	decide := func(committed bool) {
		if claim != nil {
			claim.Done(committed)
		}
		claim = nil
	}
	err := k.commit(ctx, func() ([]Write, error) {
		decide(false)
		rec, err := k.store.Get(ctx, Key{KindEndpoint, e.ID})
		if errors.Is(err, ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		now, err := EndpointOf(rec)
		if err != nil || now.Phase == Deleting {
			return nil, err
		}
		if claim, err = k.ipam.Renew(ctx, e.Network, owner(e.ID)); err != nil {
			return nil, err
		}
		now.Addrs = readdressed(now.Addrs, claim.Addrs)
		e = now
		w, err := put(KindEndpoint, e.ID, e, rec.Revision)
		return append(slices.Clone(claim.Writes), w), err
	})
	moved := err == nil && claim != nil
	decide(moved)
	if !moved {
		return e, false, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if ent := k.ix.endpoints[e.ID]; ent != nil {
		ent.v.Addrs = slices.Clone(e.Addrs)
	}
	return copyEndpoint(e), true, nil
}

// readdressed are the new addresses, and the old ones of families that have no
// new one; IPv4 first.
func readdressed(old, fresh []netip.Prefix) []netip.Prefix {
	out := slices.Clone(fresh)
	for _, a := range old {
		if !slices.ContainsFunc(fresh, func(b netip.Prefix) bool { return a.Addr().Is4() == b.Addr().Is4() }) {
			out = append(out, a)
		}
	}
	slices.SortStableFunc(out, func(a, b netip.Prefix) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return out
}

// readdress brings copies of endpoints up to their present addresses. The caller
// holds mu.
func (k *Controller) readdress(endpoints []Endpoint) {
	for i := range endpoints {
		if ent := k.ix.endpoints[endpoints[i].ID]; ent != nil {
			endpoints[i].Addrs = ent.v.Addrs
		}
	}
}
