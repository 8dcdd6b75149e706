package subnet

import (
	"cmp"
	"math/rand/v2"
	"net/netip"
	"slices"
)

// fits reports whether the network leases exactly these subnets: within its bounds, of its length and of its families.
func (c *Config) fits(s Subnets) bool {
	return c.v4().fits(s.V4) && c.v6().fits(s.V6)
}

func (s space) fits(p netip.Prefix) bool {
	if !s.net.IsValid() || !p.IsValid() {
		return !s.net.IsValid() && !p.IsValid()
	}
	return p.Bits() == *s.bits && !p.Addr().Less(*s.min) && !s.max.Less(p.Addr())
}

// maxPositions bounds the positions that are looked at: more than nodes will ever be, and fit for an int64.
const maxPositions = 1 << 62

// positions is how many subnets the space has from min to max.
func (s space) positions() int64 {
	n := number(*s.max).sub(number(*s.min)).shr(s.net.Addr().BitLen() - *s.bits)
	if n.hi != 0 || n.lo >= maxPositions {
		return maxPositions
	}
	return int64(n.lo) + 1
}

// at is the subnet at a position.
func (s space) at(i int64) netip.Prefix {
	if !s.net.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addrAt(*s.min, uint128{lo: uint64(i)}, *s.bits), *s.bits)
}

// interval are positions that are taken, from first to last.
type interval struct{ first, last int64 }

// covered are the positions that a prefix overlaps, if any.
func (s space) covered(p netip.Prefix) (interval, bool) {
	if !s.net.IsValid() || !p.IsValid() || p.Addr().Is4() != s.is4 {
		return interval{}, false
	}
	end := addrAt(p.Addr(), uint128{}, p.Bits())
	if host := end.BitLen() - p.Bits(); host > 0 {
		one := uint128{lo: 1}
		end = addrAt(p.Addr(), one.shl(host).sub(one), end.BitLen())
	}
	if end.Less(*s.min) {
		return interval{}, false
	}
	first := int64(0)
	if s.min.Less(p.Addr()) {
		first = s.position(p.Addr())
	}
	n := s.positions()
	return interval{first, min(s.position(end), n-1)}, first < n
}

// position is where the subnet with the address is; the address is not before min.
func (s space) position(a netip.Addr) int64 {
	n := number(a).sub(number(*s.min)).shr(a.BitLen() - *s.bits)
	if n.hi != 0 || n.lo >= maxPositions {
		return maxPositions
	}
	return int64(n.lo)
}

// randomFree is a position out of n that no interval covers; each has the same chance.
func randomFree(n int64, used []interval) (int64, bool) {
	slices.SortFunc(used, func(a, b interval) int { return cmp.Compare(a.first, b.first) })
	free, next := n, int64(0)
	var merged []interval // without overlaps, in order
	for _, u := range used {
		u = interval{max(u.first, next), min(u.last, n-1)}
		if u.first > u.last {
			continue
		}
		free -= u.last - u.first + 1
		next = u.last + 1
		merged = append(merged, u)
	}
	if free == 0 {
		return 0, false
	}
	i := rand.Int64N(free)
	for _, u := range merged {
		if i < u.first {
			break
		}
		i += u.last - u.first + 1
	}
	return i, true
}

// choice is a subnet to create, and whether its key alone decides who has it.
type choice struct {
	Subnets
	paired bool
}

// paired reports whether both halves are at the same position, or there is only one.
func (c *Config) paired(s Subnets) bool {
	if !s.V4.IsValid() || !s.V6.IsValid() {
		return true
	}
	return c.v4().position(s.V4.Addr()) == c.v6().position(s.V6.Addr())
}

// pick chooses free subnets: the preferred ones, as far as they fit and are free, else any.
func (c *Config) pick(prefer Subnets, used []taken) (choice, bool) {
	isFree := func(s Subnets) bool {
		return !slices.ContainsFunc(used, func(t taken) bool { return t.Overlaps(s) })
	}
	if c.fits(prefer) && isFree(prefer) {
		return choice{prefer, c.paired(prefer)}, true
	}
	var u4, u6 []interval
	for _, t := range used {
		if i, ok := c.v4().covered(t.V4); ok {
			u4 = append(u4, i)
		}
		if i, ok := c.v6().covered(t.V6); ok {
			u6 = append(u6, i)
		}
	}
	switch {
	case !c.EnableIPv6:
		i, ok := randomFree(c.v4().positions(), u4)
		return choice{Subnets{V4: c.v4().at(i)}, true}, ok
	case !c.EnableIPv4:
		i, ok := randomFree(c.v6().positions(), u6)
		return choice{Subnets{V6: c.v6().at(i)}, true}, ok
	}
	if half := (Subnets{V4: prefer.V4}); c.v4().fits(half.V4) && isFree(half) {
		return c.pickSecond(half.V4, isFree, u6)
	}
	return c.pickPair(u4, u6)
}

// pickSecond finds an IPv6 subnet to go with one of IPv4 that a node of both families had before it had both.
func (c *Config) pickSecond(first netip.Prefix, isFree func(Subnets) bool, u6 []interval) (choice, bool) {
	if i := c.v4().position(first.Addr()); i < c.v6().positions() {
		if s := (Subnets{V4: first, V6: c.v6().at(i)}); isFree(s) {
			return choice{s, true}, true
		}
	}
	i, ok := randomFree(c.v6().positions(), u6)
	return choice{Subnets{V4: first, V6: c.v6().at(i)}, false}, ok
}

func (c *Config) pickPair(u4, u6 []interval) (choice, bool) {
	both := slices.Concat(u4, u6)
	if i, ok := randomFree(min(c.v4().positions(), c.v6().positions()), both); ok {
		return choice{Subnets{V4: c.v4().at(i), V6: c.v6().at(i)}, true}, true
	}
	i, ok4 := randomFree(c.v4().positions(), u4)
	j, ok6 := randomFree(c.v6().positions(), u6)
	if !ok4 || !ok6 {
		return choice{}, false
	}
	return choice{Subnets{V4: c.v4().at(i), V6: c.v6().at(j)}, false}, true
}
