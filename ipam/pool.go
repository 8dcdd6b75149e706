package ipam

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
)

// pool is what is in use of one subnet.
type pool struct {
	cnm.Pool
	base   u128
	is4    bool
	bits   bitmap                // of the range, by distance from its first address
	fixed  uint64                // how many of the range can never be an endpoint's
	holder map[netip.Addr]string // who has what: owners, the gateway and aux addresses
	cursor uint64                // where the next search starts
}

func newPool(p cnm.Pool) *pool {
	q := &pool{
		Pool:   p,
		base:   number(p.Range.Addr()),
		is4:    p.Subnet.Addr().Is4(),
		bits:   newBitmap(span(p.Range)),
		holder: map[netip.Addr]string{},
	}
	for addr, why := range reserved(p.Subnet) {
		q.hold(addr, why)
	}
	if p.Gateway.IsValid() {
		q.hold(p.Gateway, "the gateway")
	}
	for name, a := range p.Aux {
		q.hold(a, fmt.Sprintf("aux address %q", name))
	}
	q.fixed = q.bits.used
	return q
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
func (p *pool) index(a netip.Addr) (uint64, bool) {
	if !p.Range.Contains(a) {
		return 0, false
	}
	d := number(a).sub(p.base)
	return d.lo, d.hi == 0 && d.lo < p.bits.size
}

func (p *pool) hold(a netip.Addr, by string) {
	p.holder[a] = by
	if i, ok := p.index(a); ok {
		p.bits.set(i)
	}
}

func (p *pool) drop(a netip.Addr) {
	delete(p.holder, a)
	if i, ok := p.index(a); ok {
		p.bits.clear(i)
	}
}

// pick takes the next free address after the one picked last, so that one
// just given back is the last to be given out again: neighbours and connection tracking
// may still remember it.
func (p *pool) pick(owner string) (netip.Addr, bool) {
	i, ok := p.bits.next(p.cursor)
	if !ok {
		return netip.Addr{}, false
	}
	p.cursor = i + 1
	a := p.base.add(i).addr(p.is4)
	p.hold(a, owner)
	return a, true
}

// restore marks an address that a record says is the owner's.
func (p *pool) restore(a netip.Addr, owner string) {
	p.hold(a, owner)
	if i, ok := p.index(a); ok && i >= p.cursor {
		p.cursor = i + 1
	}
}

func (p *pool) exhausted(network string) error {
	what := p.Subnet.String()
	if p.Range != p.Subnet {
		what = fmt.Sprintf("the range %s of %s", p.Range, p.Subnet)
	}
	n := p.bits.used - p.fixed
	return &cnm.Error{
		Kind:   cnm.ErrExhausted,
		Reason: fmt.Sprintf("network %q has no free address left: all %d of %s are in use", network, n, what),
		Remedy: "remove endpoints, or make a network with a larger subnet or range",
	}
}
