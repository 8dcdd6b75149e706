package udp

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
)

// key is an address as a number; IPv4 addresses use lo alone. The two families never share a
// ranges value, so that an IPv6 packet from ::ffff:10.1.0.1 is not one from 10.1.0.1.
type key struct{ hi, lo uint64 }

func key4(b []byte) key { return key{lo: uint64(binary.BigEndian.Uint32(b))} }

func key16(b []byte) key {
	return key{hi: binary.BigEndian.Uint64(b), lo: binary.BigEndian.Uint64(b[8:])}
}

func (k key) compare(o key) int {
	if c := cmp.Compare(k.hi, o.hi); c != 0 {
		return c
	}
	return cmp.Compare(k.lo, o.lo)
}

// next is the address after k; it wraps to zero after the last IPv6 address.
func (k key) next() key {
	k.lo++
	if k.lo == 0 {
		k.hi++
	}
	return k
}

// hop is where a prefix leads: this end of the tunnel, or a remote one.
type hop struct {
	self bool
	addr netip.Addr // without a zone
	to   sockaddr
}

// ranges maps every address of one family to the hop of the longest prefix that holds it.
// Prefixes are flattened into ranges that do not overlap, so a lookup is one binary search,
// whatever the number of prefix lengths.
type ranges struct {
	starts []key
	hops   []*hop // nil: no prefix
}

func (r *ranges) lookup(k key) *hop {
	lo, hi := 0, len(r.starts) // the last start that is not above k
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		s := &r.starts[mid]
		if s.hi < k.hi || s.hi == k.hi && s.lo <= k.lo {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return nil
	}
	return r.hops[lo-1]
}

// span is a prefix as its first and last address.
type span struct {
	first, last key
	bits        int
	hop         *hop
}

func spanOf(p netip.Prefix, h *hop) span {
	s := span{bits: p.Bits(), hop: h}
	if p.Addr().Is4() {
		b := p.Masked().Addr().As4()
		s.first = key4(b[:])
		s.last = key{lo: s.first.lo | (1<<(32-p.Bits()) - 1)}
		return s
	}
	b := p.Masked().Addr().As16()
	s.first = key16(b[:])
	s.last = s.first
	if n := 128 - p.Bits(); n >= 64 {
		s.last.lo = ^uint64(0)
		s.last.hi |= 1<<(n-64) - 1
	} else {
		s.last.lo |= 1<<n - 1
	}
	return s
}

// flatten turns nested spans into ranges. Of two equal ones the later wins.
func flatten(spans []span) ranges {
	slices.SortStableFunc(spans, func(a, b span) int {
		if c := a.first.compare(b.first); c != 0 {
			return c
		}
		return cmp.Compare(a.bits, b.bits)
	})
	var r ranges
	emit := func(start key, h *hop) {
		if n := len(r.starts); n > 0 && r.starts[n-1] == start {
			r.hops[n-1] = h
			return
		}
		r.starts, r.hops = append(r.starts, start), append(r.hops, h)
	}
	var open []span
	leave := func() {
		top := open[len(open)-1]
		open = open[:len(open)-1]
		var under *hop
		if len(open) > 0 {
			under = open[len(open)-1].hop
		}
		if end := top.last.next(); end != (key{}) {
			emit(end, under)
		}
	}
	for _, s := range spans {
		for len(open) > 0 && open[len(open)-1].last.compare(s.first) < 0 {
			leave()
		}
		open = append(open, s)
		emit(s.first, s.hop)
	}
	for len(open) > 0 {
		leave()
	}
	return r
}

// table is what the data path decides by. It is never changed once readers can see it.
type table struct {
	v4, v6 ranges
	peers  map[netip.Addr]*hop // by outer address
}

// newTable builds the table of a tunnel. A remote with this end's own address is left out:
// what is sent there would come back.
func newTable(local netip.Addr, port uint16, inside []netip.Prefix, remotes map[netip.Prefix]netip.Addr) *table {
	t := &table{peers: make(map[netip.Addr]*hop)}
	spans := map[bool][]span{}
	add := func(p netip.Prefix, h *hop) {
		spans[p.Addr().Is4()] = append(spans[p.Addr().Is4()], spanOf(p, h))
	}
	for p, dst := range remotes {
		dst = dst.WithZone("") // there is one underlay: the zone is the local address's
		if dst.Is4() != local.Is4() || dst == local.WithZone("") {
			continue
		}
		h := t.peers[dst]
		if h == nil {
			h = &hop{addr: dst, to: sockaddrOf(netip.AddrPortFrom(dst.WithZone(local.Zone()), port))}
			t.peers[dst] = h
		}
		add(p, h)
	}
	self := &hop{self: true, addr: local}
	for _, p := range inside {
		add(p, self)
	}
	t.v4, t.v6 = flatten(spans[true]), flatten(spans[false])
	return t
}

// lookup returns the hop for an inner address, or nil.
func (t *table) lookup(v6 bool, k key) *hop {
	if v6 {
		return t.v6.lookup(k)
	}
	return t.v4.lookup(k)
}
