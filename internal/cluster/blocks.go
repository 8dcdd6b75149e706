package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
)

// blocks holds the parts of shared subnets that this node gives addresses out of.
type blocks struct {
	*core
	extending *sync.RWMutex          // held while a block is given back; by who gets one, for reading
	idle      map[ownBlock]time.Time // since when nothing is in a block; of the goroutine that works
}

// extend implements [cnm.Membership].
func (m blocks) extend(ctx context.Context, n cnm.Network, want []netip.Addr) (cnm.Network, error) {
	if err := m.awaitReady(ctx); err != nil {
		return n, err
	}
	lease, err := m.leaseID()
	if err != nil {
		return n, m.ready()
	}
	if d, ok := m.drivers[n.Driver]; !ok || d.Capabilities().Leases {
		return n, &cnm.Error{Kind: cnm.ErrExhausted, Field: "network", Value: n.Name,
			Reason: "every address of this node's subnet is taken",
			Remedy: "remove containers, or run this one on another node"}
	}
	m.extending.RLock()
	defer m.extending.RUnlock()
	n = clone(n)
	for _, p := range n.Pools {
		if len(want) == 0 && m.roomy(n.ID, p) {
			continue
		}
		got, err := m.claim(ctx, n, p, want, lease)
		if err != nil {
			return n, err
		}
		for _, b := range got {
			if err := m.rereadBlock(ctx, n.ID, b); err != nil {
				return n, unavailable(err)
			}
		}
	}
	m.mu.Lock()
	m.giveBlocks(&n)
	m.mu.Unlock()
	defer m.outdated(n)
	return n, m.ctrl.Adopt(ctx, n)
}

// roomy reports whether a pool has free addresses on this node: a network of two families needs more of one
// alone, mostly.
func (m blocks) roomy(network string, p cnm.Pool) bool {
	for _, u := range m.cfg.IPAM.Usage(network) {
		if p.Subnet.Contains(u.Block.Addr()) && u.Free > 0 {
			return true
		}
	}
	return false
}

// claim gets blocks of one pool: the one with the wanted address of its family, or a free one.
func (m blocks) claim(ctx context.Context, n cnm.Network, p cnm.Pool, want []netip.Addr, lease int64) ([]netip.Prefix,
	error) {
	var addr netip.Addr
	for _, a := range want {
		if p.Subnet.Contains(a) {
			addr = a
		}
	}
	if len(want) > 0 && !addr.IsValid() && len(p.Blocks) > 0 {
		return nil, nil // it is about the other family
	}
	for range tries {
		records, err := m.store.Find(ctx, record.KindBlock, n.ID+".")
		if err != nil {
			return nil, unavailable(err)
		}
		b, mine, err := m.choose(n, p, addr, records)
		if err != nil || mine {
			return []netip.Prefix{b}, err
		}
		value, err := record.Encode(record.Block{Node: m.id})
		if err != nil {
			return nil, err
		}
		err = m.store.WithLease(lease).Commit(ctx, cnm.Write{Key: record.BlockKey(n.ID, b), Value: value})
		if !errors.Is(err, cnm.ErrConflict) {
			return []netip.Prefix{b}, unavailable(err)
		}
	}
	return nil, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
		Reason: "others keep taking its free addresses", Remedy: "try again"}
}

// choose picks a block that nobody has: the one with addr when that is valid. Mine tells that this node has it.
func (m blocks) choose(n cnm.Network, p cnm.Pool, addr netip.Addr, records []cnm.Record) (b netip.Prefix, mine bool,
	err error) {
	taken := map[netip.Prefix]string{}
	for _, r := range records {
		_, q, err := record.ParseBlock(r.Key.ID)
		if err == nil {
			v, _ := record.Decode[record.Block](r.Value) // one that cannot be read is some node's, too
			taken[q] = v.Node
		}
	}
	bits := blockBits(p.Subnet)
	if addr.IsValid() {
		b = netip.PrefixFrom(addr, addr.BitLen())
		if !p.Range.IsValid() || p.Range.Contains(addr) {
			b = netip.PrefixFrom(addr, bits).Masked()
		}
		for q, node := range taken {
			if q.Overlaps(b) {
				if node == m.id {
					return q, true, nil
				}
				return b, false, m.foreign(n, addr, q, node)
			}
		}
		return b, false, nil
	}
	free := freeBlocks(p, bits, taken)
	if len(free) == 0 {
		return b, false, &cnm.Error{Kind: cnm.ErrExhausted, Field: "network", Value: n.Name,
			Reason: fmt.Sprintf("every part of %s is some node's (%d parts of /%d)", p.Subnet, len(taken), bits),
			Remedy: "remove containers, or make a network with a larger subnet"}
	}
	return free[rand.IntN(len(free))], false, nil
}

func (m blocks) foreign(n cnm.Network, addr netip.Addr, q netip.Prefix, node string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	remedy := "run the container there, choose another address, or make the network with an --ip-range and choose " +
		"addresses outside of it" + m.forgettable(node)
	if rec, ok := m.rep.nodes[node]; ok {
		node = rec.v.Name
	}
	if node == "" {
		return &cnm.Error{Kind: cnm.ErrExists, Field: "address", Value: addr.String(),
			Reason: fmt.Sprintf("whose the addresses %s of network %q are cannot be read in etcd", q, n.Name),
			Remedy: "correct or remove the record that `net status` names"}
	}
	return &cnm.Error{Kind: cnm.ErrExists, Field: "address", Value: addr.String(),
		Reason: fmt.Sprintf("node %s gives out the addresses %s of network %q", node, q, n.Name),
		Remedy: remedy}
}

// blockBits is the length of a subnet's blocks: 64 addresses, or a sixteenth of a smaller subnet.
func blockBits(s netip.Prefix) int {
	most := s.Addr().BitLen()
	return max(s.Bits(), min(max(most-6, s.Bits()+4), most-2))
}

// candidates bounds how many free blocks are looked for.
const candidates = 256

// freeBlocks lists blocks of the pool's range that nobody has, from a place at random: nodes that
// look at the same time rarely want the same one.
func freeBlocks(p cnm.Pool, bits int, taken map[netip.Prefix]string) []netip.Prefix {
	within := p.Range
	if !within.IsValid() {
		within = p.Subnet
	}
	bits = max(bits, within.Bits())
	odd := map[netip.Prefix]string{} // of another length, as the blocks of single addresses
	for q, node := range taken {
		if q.Bits() != bits {
			odd[q] = node
		}
	}
	first := netip.PrefixFrom(within.Addr(), bits).Masked()
	start := randomBlock(within, bits)
	var out []netip.Prefix
	for b, again := start, false; !again || b != start; {
		if _, is := taken[b]; !is && !overlapsAny(b, odd) {
			if out = append(out, b); len(out) == candidates {
				break
			}
		}
		next := lastOf(b).Next()
		if b, again = netip.PrefixFrom(next, bits), true; !next.IsValid() || !within.Contains(next) {
			b = first
		}
	}
	return out
}

func overlapsAny(b netip.Prefix, others map[netip.Prefix]string) bool {
	for q := range others {
		if q.Overlaps(b) {
			return true
		}
	}
	return false
}

// randomBlock is any part of that length of a prefix.
func randomBlock(within netip.Prefix, bits int) netip.Prefix {
	b := within.Masked().Addr().AsSlice()
	for i := within.Bits(); i < bits; i++ {
		b[i/8] |= byte(rand.IntN(2)) << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// keepBlocks writes again what etcd has lost of this node's blocks, and hangs all of them on its lease. Those that
// are another node's by now are not this one's any more.
func (m blocks) keepBlocks(ctx context.Context, n cnm.Network) error {
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
		err := m.put(ctx, lease, record.BlockKey(n.ID, p), record.Block{Node: m.id}, have.mod)
		if err == nil {
			err = m.rereadBlock(ctx, n.ID, p)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ownBlocks are the blocks that this node has in etcd, and those it had that nobody has now.
func (m blocks) ownBlocks(local cnm.Network, id string) map[netip.Prefix]held[record.Block] {
	m.mu.Lock()
	defer m.mu.Unlock()
	want := map[netip.Prefix]held[record.Block]{}
	for p, b := range m.rep.blocks[id] {
		if b.v.Node == m.id {
			want[p] = b
		}
	}
	for _, pool := range local.Pools {
		for _, p := range pool.Blocks {
			if !m.overlapped(id, p) {
				want[p] = held[record.Block]{}
			}
		}
	}
	return want
}

// overlapped reports whether a block that etcd has is in the way of p. The caller holds mu.
func (m blocks) overlapped(network string, p netip.Prefix) bool {
	for q := range m.rep.blocks[network] {
		if q.Overlaps(p) {
			return true
		}
	}
	return false
}

// rereadBlock takes over a block that this node has just written, ahead of the watch: a share must never
// look smaller than it is, or endpoints would be given other addresses.
func (m blocks) rereadBlock(ctx context.Context, network string, p netip.Prefix) error {
	r, err := m.store.Get(ctx, record.BlockKey(network, p))
	if err != nil {
		return quietly(err)
	}
	v, err := record.Decode[record.Block](r.Value)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.rep.blocks[network] == nil {
		m.rep.blocks[network] = map[netip.Prefix]held[record.Block]{}
	}
	if have, ok := m.rep.blocks[network][p]; !ok || have.mod < int64(r.Revision) {
		m.rep.blocks[network][p] = held[record.Block]{v: v, mod: int64(r.Revision), lease: m.lease.ID()}
		m.dirty.blocks[network] = true
	}
	return nil
}

// giveBlocks sets the pools' blocks to this node's. The caller holds mu.
func (m blocks) giveBlocks(n *cnm.Network) {
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
