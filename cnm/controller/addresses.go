package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
)

// addresses gives endpoints their addresses, and other ones when a cluster network's pools change.
type addresses struct{ *records }

// extendTries bounds how often one attach gets its node another block whose addresses are all
// gone to others by the time it asks for one of them.
const extendTries = 10

// claim gets the endpoint its addresses.
func (k *addresses) claim(ctx context.Context, j *joining) (err error) {
	id, want := owner(j.e.ID), j.request.Addrs
	if len(j.request.Reserved) > 0 {
		return k.takeOver(ctx, j)
	}
	j.network, j.claim, err = k.get(ctx, j.network, want, func(n cnm.Network) (*cnm.Claim, error) {
		if c, ok := k.ipam.(cnm.EndpointClaimer); ok && n.Cluster == nil {
			return c.ClaimFor(ctx, n, j.e, want, j.request.Before)
		}
		return k.ipam.Claim(ctx, n, id, want, j.request.Before)
	})
	return err
}

// get asks for addresses. When this node's blocks of a cluster network have none, the cluster is asked for another
// block, by one caller at a time. It returns the network as it then is.
func (k *addresses) get(ctx context.Context, n cnm.Network, want []netip.Addr,
	ask func(cnm.Network) (*cnm.Claim, error)) (cnm.Network, *cnm.Claim, error) {
	if n.Cluster == nil {
		c, err := ask(n)
		return n, c, err
	}
	cluster, err := k.membership(n)
	if err == nil {
		err = cluster.Usable(n.ID)
	}
	if err != nil {
		return n, nil, err
	}
	c, err := ask(n)
	if !errors.Is(err, cnm.ErrNoBlock) {
		return n, c, err
	}
	unlock, err := k.locks.Lock(ctx, "extend/"+n.ID)
	if err != nil {
		return n, nil, err
	}
	defer unlock()
	if c, err = ask(n); !errors.Is(err, cnm.ErrNoBlock) {
		return n, c, err // another call has got a block meanwhile
	}
	for try := 1; ; try++ {
		now, err := k.Network(ctx, n.ID) // with the blocks that others have got for it meanwhile
		if err == nil {
			now, err = cluster.Extend(ctx, now, want)
		}
		if err != nil {
			return n, nil, fmt.Errorf("get this node more addresses of network %s: %w", n.Name, err)
		}
		n = now
		c, err := ask(n)
		if len(want) > 0 || try == extendTries || !errors.Is(err, cnm.ErrNoBlock) {
			return n, c, err
		}
	}
}

// catchUp gives endpoints that were claimed for before their network's pools changed, and committed
// after, addresses of the pools as they are now.
func (k *addresses) catchUp(ctx context.Context, js []*joining) error {
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

func (k *addresses) catchUpOne(ctx context.Context, j *joining) error {
	unlock, err := k.locks.Lock(ctx, "network/"+j.network.ID)
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

// renumber gives the endpoints on the network that have addresses outside of this node's share of it others,
// each in one commit. It returns those that have got some. The caller holds the network's lock.
func (k *addresses) renumber(ctx context.Context, n cnm.Network) ([]cnm.Endpoint, error) {
	var moved []cnm.Endpoint
	for _, e := range k.strays(n) {
		e, ok, err := k.move(ctx, e)
		if ok {
			moved = append(moved, e)
		}
		if err != nil {
			return moved, fmt.Errorf("give endpoint %s another address: %w", cnm.Short(e.ID), err)
		}
	}
	return moved, nil
}

// strays are the endpoints that have addresses outside of the network's pools.
func (k *addresses) strays(n cnm.Network) []cnm.Endpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []cnm.Endpoint
	for _, e := range k.ix.endpointsOn(n.ID) {
		if !k.ix.endpoints[e.ID].pending && strayed(n, e) {
			out = append(out, copyEndpoint(e))
		}
	}
	return out
}

func (k *addresses) isStray(endpoint string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.endpoints[endpoint]
	if e == nil || e.pending {
		return false
	}
	n := k.ix.networks[e.v.Network]
	return n != nil && strayed(n.v, e.v)
}

// strayed reports whether the endpoint lacks an address of a family's pools. What it has of a family without
// a pool it keeps.
func strayed(n cnm.Network, e cnm.Endpoint) bool {
	if n.Cluster == nil || e.Phase == cnm.Deleting {
		return false
	}
	has := map[bool]bool{} // by whether the family is IPv4
	for _, p := range n.Pools {
		shared := n.Cluster.Leases == "" || len(p.Blocks) > 0
		ours := func(a netip.Prefix) bool {
			in := func(b netip.Prefix) bool { return b.Contains(a.Addr()) }
			return a.Bits() == p.Subnet.Bits() && in(p.Subnet) && (!shared || slices.ContainsFunc(p.Blocks, in))
		}
		is4 := p.Subnet.Addr().Is4()
		has[is4] = has[is4] || slices.ContainsFunc(e.Addrs, ours)
	}
	return slices.Contains(slices.Collect(maps.Values(has)), false)
}

// move gives an endpoint addresses of its network's present pools: the old ones go, the new ones come and
// the endpoint's record changes in one commit. It is false for an endpoint that is gone or going.
func (k *addresses) move(ctx context.Context, e cnm.Endpoint) (cnm.Endpoint, bool, error) {
	var claim *cnm.Claim
	decide := func(committed bool) {
		if claim != nil {
			claim.Done(committed)
		}
		claim = nil
	}
	err := k.commit(ctx, func() ([]cnm.Write, error) {
		decide(false)
		rec, err := k.store.Get(ctx, cnm.Key{Kind: cnm.KindEndpoint, ID: e.ID})
		if errors.Is(err, cnm.ErrNotFound) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		now, err := cnm.EndpointOf(rec)
		if err != nil || now.Phase == cnm.Deleting {
			return nil, err
		}
		if claim, err = k.ipam.Renew(ctx, e.Network, owner(e.ID)); err != nil {
			return nil, err
		}
		now.Addrs = readdressed(now.Addrs, claim.Addrs)
		e = now
		w, err := cnm.Put(cnm.KindEndpoint, e.ID, e, rec.Revision)
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
func (k *addresses) readdress(endpoints []cnm.Endpoint) {
	for i := range endpoints {
		if ent := k.ix.endpoints[endpoints[i].ID]; ent != nil {
			endpoints[i].Addrs = ent.v.Addrs
		}
	}
}

// Readdress gives an endpoint other addresses, as a DHCP server has decided, and returns once the kernel agrees. The
// error is a [cnm.ErrNotFound] when it is gone or going.
func (k *endpoints) Readdress(ctx context.Context, endpoint string, addrs []netip.Prefix, l *cnm.Leased) (cnm.Endpoint,
	error) {
	var now cnm.Endpoint
	err := k.commit(ctx, func() ([]cnm.Write, error) {
		w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, endpoint, func(e *cnm.Endpoint) {
			e.Addrs, e.Leased = addrs, l
			now = *e
		})
		if err == nil && now.Phase == cnm.Deleting {
			err = notFound("endpoint", cnm.Short(endpoint), nil)
		}
		return []cnm.Write{w}, err
	})
	if err != nil {
		return now, fmt.Errorf("give endpoint %s other addresses: %w", cnm.Short(endpoint), err)
	}
	k.mu.Lock()
	if ent := k.ix.endpoints[endpoint]; ent != nil {
		ent.v.Addrs, ent.v.Leased = slices.Clone(addrs), l
	}
	k.mu.Unlock()
	if err := k.converge(ctx, cnm.EndpointOwner(endpoint)); err != nil {
		return now, err
	}
	k.emitEndpoint(ActionRenumber, now, k.containerOf(now.Sandbox))
	return copyEndpoint(now), nil
}
