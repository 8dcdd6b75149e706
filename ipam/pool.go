package ipam

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// pool is what is in use of one subnet.
type pool struct {
	cnm.Pool
	is4    bool
	shared bool                  // with other nodes: only what is in Blocks is this node's to give
	parts  []*part               // what addresses are picked from, in order
	holder map[netip.Addr]string // who has what: owners, the gateway and aux addresses
	cursor int                   // the part that the next search starts in
}

// part is a block of a shared pool, or the range of one that is not.
type part struct {
	block  netip.Prefix
	base   u128
	bits   bitmap // of what is in the range, by distance from base; of size 0 when nothing is
	fixed  uint64 // how many of them can never be an endpoint's
	owned  int    // how many addresses of the block are endpoints', in the range or not
	cursor uint64 // where the next search starts
}

// newPool makes a pool with nothing in use.
func newPool(p cnm.Pool, shared bool) *pool {
	q := &pool{Pool: p, is4: p.Subnet.Addr().Is4(), shared: shared, holder: map[netip.Addr]string{}}
	blocks := []netip.Prefix{p.Range}
	if shared {
		blocks = slices.Clone(p.Blocks)
		slices.SortFunc(blocks, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	}
	for _, b := range blocks {
		q.parts = append(q.parts, newPart(b, p.Range))
	}
	q.fix()
	return q
}

// goOn continues the search for addresses where the pool that this one
// replaces was.
func (q *pool) goOn(from *pool) {
	for _, t := range q.parts {
		for _, o := range from.parts {
			if o.base == t.base && o.bits.size == t.bits.size {
				t.cursor = o.cursor
			}
		}
	}
}

// fix holds the addresses that no endpoint can have.
func (q *pool) fix() {
	fixed := reserved(q.Subnet)
	if fixed == nil {
		fixed = map[netip.Addr]string{}
	}
	if q.Gateway.IsValid() {
		fixed[q.Gateway] = "the gateway"
	}
	for name, a := range q.Aux {
		fixed[a] = fmt.Sprintf("aux address %q", name)
	}
	for a, why := range fixed {
		q.holder[a] = why
		if t := q.part(a); t != nil {
			if i, ok := t.index(a); ok {
				t.bits.set(i)
				t.fixed++
			}
		}
	}
}

// newPart is the part of a block that is in the range: prefixes overlap only
// when one is inside of the other.
func newPart(block, within netip.Prefix) *part {
	from := block
	if within.Bits() > block.Bits() {
		from = within
	}
	t := &part{block: block, base: number(from.Addr())}
	if block.Overlaps(within) {
		t.bits = newBitmap(span(from))
	}
	return t
}

// reserved are the addresses of a subnet that no interface can have: IPv4's network
// and broadcast addresses, which a /31 has not (RFC 3021), and IPv6's
// subnet-router anycast address (RFC 4291 section 2.6.1), which a /127 has not (RFC 6164).
func reserved(subnet netip.Prefix) map[netip.Addr]string {
	if subnet.Addr().BitLen()-subnet.Bits() < 2 {
		return nil
	}
	if subnet.Addr().Is4() {
		return map[netip.Addr]string{subnet.Addr(): "the network address", last(subnet): "the broadcast address"}
	}
	return map[netip.Addr]string{subnet.Addr(): "the subnet-router anycast address"}
}

// index is the place of an address in the bitmap.
func (t *part) index(a netip.Addr) (uint64, bool) {
	n := number(a)
	if n.hi < t.base.hi || n.hi == t.base.hi && n.lo < t.base.lo {
		return 0, false
	}
	d := n.sub(t.base)
	return d.lo, d.hi == 0 && d.lo < t.bits.size
}

// part is the one an address is in; nil when it is in none.
func (p *pool) part(a netip.Addr) *part {
	for _, t := range p.parts {
		if t.block.Contains(a) {
			return t
		}
	}
	return nil
}

// gives reports whether the address is one that this node can give out.
func (p *pool) gives(a netip.Addr) bool {
	return p.Subnet.Contains(a) && (!p.shared || p.part(a) != nil)
}

func (p *pool) hold(a netip.Addr, by string) {
	p.holder[a] = by
	if t := p.part(a); t != nil {
		t.owned++
		if i, ok := t.index(a); ok {
			t.bits.set(i)
		}
	}
}

// drop frees what the owner has.
func (p *pool) drop(a netip.Addr, by string) {
	if p.holder[a] != by {
		return
	}
	delete(p.holder, a)
	if t := p.part(a); t != nil {
		t.owned--
		if i, ok := t.index(a); ok {
			t.bits.clear(i)
		}
	}
}

// pick takes the next free address after the one picked last, so that one
// just given back is the last to be given out again: neighbours and connection tracking
// may still remember it.
func (p *pool) pick(owner string) (netip.Addr, bool) {
	for range 2 * len(p.parts) { // the rest of each part, then the beginnings
		t := p.parts[p.cursor]
		i, ok := t.bits.next(t.cursor)
		if !ok {
			t.cursor = 0
			p.cursor = (p.cursor + 1) % len(p.parts)
			continue
		}
		t.cursor = i + 1
		a := t.base.add(i).addr(p.is4)
		p.hold(a, owner)
		return a, true
	}
	return netip.Addr{}, false
}

// again takes the first of the addresses that is free and would be picked.
func (p *pool) again(addrs []netip.Addr, owner string) (netip.Addr, bool) {
	for _, a := range addrs {
		if _, taken := p.holder[a]; taken || !p.gives(a) {
			continue
		}
		if t := p.part(a); t != nil {
			if _, ok := t.index(a); ok {
				p.hold(a, owner)
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// restore marks an address that a record says is the owner's.
func (p *pool) restore(a netip.Addr, owner string) {
	p.hold(a, owner)
	if t := p.part(a); t != nil {
		if i, ok := t.index(a); ok {
			t.cursor = max(t.cursor, i+1)
		}
	}
}

func (p *pool) exhausted(network string) error {
	if p.shared {
		return p.noneLeft(network)
	}
	what := p.Subnet.String()
	if p.Range != p.Subnet {
		what = fmt.Sprintf("the range %s of %s", p.Range, p.Subnet)
	}
	t := p.parts[0]
	return &cnm.Error{
		Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("network %q has no free address left: all %d of %s are in use", network,
			t.bits.used-t.fixed, what),
		Remedy: "remove endpoints, or make a network with a larger subnet or range",
	}
}

// noneLeft is the error when this node's blocks of a shared pool are full.
func (p *pool) noneLeft(network string) error {
	reason := fmt.Sprintf("this node has no block of %s, the subnet of network %q", p.Subnet, network)
	if len(p.parts) > 0 {
		used := uint64(0)
		var blocks []string
		for _, t := range p.parts {
			used += t.bits.used - t.fixed
			blocks = append(blocks, t.block.String())
		}
		reason = fmt.Sprintf("network %q has no free address left on this node: all %d of %s are in use",
			network, used, strings.Join(blocks, ", "))
	}
	return &cnm.Error{
		Kind: cnm.ErrNoBlock, Reason: reason,
		Remedy: "remove endpoints, or make a network with a larger subnet or range",
	}
}

// notOurs is the error when a wanted address is in a block of another node, or in none.
func (p *pool) notOurs(network string, a netip.Addr) error {
	return &cnm.Error{
		Kind: cnm.ErrNoBlock, Field: "address", Value: a.String(),
		Reason: fmt.Sprintf("in no block of network %q that is this node's", network),
		Remedy: "ask for another address, or for none to have a free one picked",
	}
}

// family is the pools of one IP family, in the order in which addresses are given from them.
type family []*pool

// families are the network's pools, IPv4 first.
func (e *network) families() []family {
	var out []family
	for i, p := range e.pools {
		if i == 0 || byFamily(e.pools[i-1], p) != 0 {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], p)
	}
	return out
}

// take takes an address for the owner: the wanted one that is in one of the pools, else the first of those of before
// that is free, else the next one of the first pool that has any.
func (f family) take(owner string, wanted, before []netip.Addr) (netip.Addr, bool) {
	for _, p := range f {
		if i := slices.IndexFunc(wanted, p.Subnet.Contains); i >= 0 {
			p.hold(wanted[i], owner)
			return wanted[i], true
		}
	}
	for _, p := range f {
		if a, ok := p.again(before, owner); ok {
			return a, true
		}
	}
	for _, p := range f {
		if a, ok := p.pick(owner); ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}

func (f family) exhausted(network string) error {
	if len(f) == 1 {
		return f[0].exhausted(network)
	}
	var subnets []string
	for _, p := range f {
		subnets = append(subnets, p.Range.String())
	}
	return &cnm.Error{
		Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("network %q has no free address left: all of %s are in use", network,
			strings.Join(subnets, " and ")),
		Remedy: "remove endpoints, or make a network with larger subnets or ranges",
	}
}

// byFamily orders IPv4 before IPv6.
func byFamily(a, b *pool) int { return cmp.Compare(a.Subnet.Addr().BitLen(), b.Subnet.Addr().BitLen()) }
