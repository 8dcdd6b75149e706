package ipam

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
)

// BlockUsage is how full a block of this node's is.
type BlockUsage struct {
	Block netip.Prefix
	Used  int // addresses that endpoints have, wanted ones outside of the network's range too
	Free  int // addresses that can still be picked
}

// Usage is how many addresses of this node's parts of a network are in use, IPv4 first and in order of address.
// A pool that is not shared with other nodes is one block, its range. Nil for a network that is not known.
func (m *IPAM) Usage(network string) []BlockUsage {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.networks[network]
	if e == nil {
		return nil
	}
	var out []BlockUsage
	for _, p := range e.pools {
		for _, t := range p.parts {
			out = append(out, BlockUsage{Block: t.block, Used: t.owned, Free: int(t.bits.size - t.bits.used)})
		}
	}
	return out
}

// Resolve resolves the requests for pools of a new cluster network: as [IPAM.Pools], but keeping clear of
// the taken subnets of other cluster networks as well, and holding nothing. Subnets that are picked are by
// default a /16 of 10.0.0.0/8 and a /56 of this site's unique local addresses.
func (m *IPAM) Resolve(ctx context.Context, requests []cnm.PoolRequest, taken []netip.Prefix) ([]cnm.Pool, error) {
	w := where{sources: m.clusterDefaults, least4: 8, taken: taken}
	if err := w.look(ctx, m, requests); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.resolve(requests, w)
}

// clusterDefaults leave each of 256 nodes a /24, or a /64.
func (m *IPAM) clusterDefaults(ipv6 bool) []source {
	if ipv6 {
		return []source{{m.site, 56}}
	}
	return []source{{netip.PrefixFrom(netip.AddrFrom4([4]byte{10}), 8), 16}}
}

// taken are the subnets that no other network can have a part of.
func (e *network) taken() []netip.Prefix {
	out := slices.Clone(e.subnets)
	for _, p := range e.pools {
		out = append(out, p.Subnet)
	}
	return out
}

// Update implements [cnm.IPAM].
func (m *IPAM) Update(n cnm.Network) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.networks[n.ID]
	if e == nil || !e.cluster && len(e.pools) == 0 {
		var subnets []netip.Prefix
		if n.Cluster != nil {
			subnets = slices.Clone(n.Cluster.Subnets)
		}
		for _, p := range n.Pools {
			subnets = append(subnets, p.Subnet)
		}
		for _, s := range subnets {
			if name, other, ok := m.overlap(s, n.ID); ok {
				return &cnm.Error{
					Kind: cnm.ErrExists, Field: "subnet", Value: s.String(),
					Reason: fmt.Sprintf("overlaps %s of network %q, which this node has", other, name),
					Remedy: "remove one of the two networks",
				}
			}
		}
	}
	if e == nil {
		e = &network{owners: map[string]*holding{}}
		m.networks[n.ID] = e
	}
	e.take(n)
	return nil
}

// Withdraw takes a block of a network away in which no endpoint has an address, and reports whether it did: from then
// on none is given out of it, until the network is updated with the block.
func (m *IPAM) Withdraw(id string, block netip.Prefix) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.networks[id]
	if e == nil {
		return false
	}
	for i, p := range e.pools {
		at := slices.IndexFunc(p.parts, func(t *part) bool { return t.block == block })
		if at < 0 || !p.shared {
			continue
		}
		if p.parts[at].owned > 0 {
			return false
		}
		less := p.Pool
		less.Blocks = slices.DeleteFunc(slices.Clone(p.Blocks), func(b netip.Prefix) bool { return b == block })
		e.pools[i] = e.renew(e.pools, less, true)
		return true
	}
	return false
}

// take makes the pools those of n. Who has an address goes on having it, in a
// pool or not, until it is released.
func (e *network) take(n cnm.Network) {
	e.name, e.cluster, e.subnets = n.Name, n.Cluster != nil, nil
	shared := false
	if n.Cluster != nil {
		e.subnets = slices.Clone(n.Cluster.Subnets)
		shared = n.Cluster.Leases == ""
	}
	old := e.pools
	e.pools = nil
	for _, p := range n.Pools {
		e.pools = append(e.pools, e.renew(old, p, shared || len(p.Blocks) > 0))
	}
	slices.SortStableFunc(e.pools, byFamily)
}

// renew returns the pool among the old ones that p describes, or else a new
// one with what the network's owners have in it.
func (e *network) renew(old []*pool, p cnm.Pool, shared bool) *pool {
	q := newPool(p, shared)
	for _, o := range old {
		if o.Subnet != p.Subnet {
			continue
		}
		if o.shared == shared && o.Range == p.Range && o.Gateway == p.Gateway && maps.Equal(o.Aux, p.Aux) &&
			slices.Equal(o.Blocks, p.Blocks) {
			return o
		}
		q.goOn(o)
	}
	for _, h := range e.owners {
		for _, a := range h.all() {
			if p.Subnet.Contains(a) {
				q.restore(a, h.owner)
			}
		}
	}
	return q
}

// Renew implements [cnm.IPAM].
func (m *IPAM) Renew(ctx context.Context, id, owner string) (*cnm.Claim, error) {
	e, h, old, err := m.replace(id, owner)
	if err != nil || h == nil {
		return &cnm.Claim{}, err
	}
	claim := &cnm.Claim{Finish: func(committed bool) { m.renewed(e, h, old, committed) }}
	if claim.Writes, err = created(id, owner, h.next); err == nil {
		var writes []cnm.Write
		writes, err = m.removed(ctx, id, owner, old)
		claim.Writes = append(claim.Writes, writes...)
	}
	if err != nil {
		claim.Done(false)
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	claim.Addrs = e.prefixes(&holding{addrs: without(h.all(), old)})
	return claim, nil
}

// replace picks the addresses that an owner is to have instead of old ones. The holding
// is nil when the network is not known.
func (m *IPAM) replace(id, owner string) (e *network, h *holding, old []netip.Addr, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e = m.networks[id]; e == nil {
		return nil, nil, nil, nil
	}
	if h = e.owners[owner]; h == nil {
		h = &holding{owner: owner}
		e.owners[owner] = h
	}
	if h.pending {
		return nil, nil, nil, fmt.Errorf("renew the addresses of %s: an earlier claim is not decided yet: %w", owner,
			cnm.ErrConflict)
	}
	for _, pools := range e.families() {
		gives := func(a netip.Addr) bool {
			return slices.ContainsFunc(pools, func(p *pool) bool { return p.gives(a) })
		}
		if slices.ContainsFunc(h.addrs, gives) {
			continue
		}
		a, ok := pools.take(owner, nil, nil)
		if !ok {
			e.free(h, h.next)
			if h.next = nil; len(h.addrs) == 0 {
				delete(e.owners, owner)
			}
			return nil, nil, nil, pools.exhausted(e.name)
		}
		h.next = append(h.next, a)
		for _, a := range h.addrs {
			if a.Is4() == pools[0].is4 {
				old = append(old, a)
			}
		}
	}
	h.pending = true
	return e, h, old, nil
}

// renewed ends a renewal.
func (m *IPAM) renewed(e *network, h *holding, old []netip.Addr, committed bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	h.pending = false
	if e.owners[h.owner] != h {
		return // released meanwhile, with all it had
	}
	if !committed {
		e.free(h, h.next)
	} else {
		e.free(h, old)
		h.addrs = without(h.all(), old)
		slices.SortFunc(h.addrs, netip.Addr.Compare)
	}
	h.next = nil
	if len(h.addrs) == 0 {
		delete(e.owners, h.owner)
	}
}

// without are the addresses that are not among those to leave out.
func without(addrs, out []netip.Addr) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return slices.Contains(out, a) })
}
