package plan

import "net/netip"

// RangeText is the canonical text of the addresses from a to b inclusive, which
// are of one family: an address, a prefix where they are exactly one, or
// "a-b".
func RangeText(a, b netip.Addr) string {
	if a == b {
		return a.String()
	}
	if p, err := a.Prefix(commonBits(a, b)); err == nil && p.Addr() == a && LastAddr(p) == b {
		return p.String()
	}
	return a.String() + "-" + b.String()
}

// LastAddr is the highest address of a prefix.
func LastAddr(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for i := range raw {
		switch host := (i+1)*8 - p.Bits(); {
		case host >= 8:
			raw[i] = 0xff
		case host > 0:
			raw[i] |= 1<<host - 1
		}
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

// commonBits is the length of the prefix that a and b share.
func commonBits(a, b netip.Addr) int {
	x, y := a.AsSlice(), b.AsSlice()
	for i := range x {
		if diff := x[i] ^ y[i]; diff != 0 {
			n := i * 8
			for diff&0x80 == 0 {
				n++
				diff <<= 1
			}
			return n
		}
	}
	return len(x) * 8
}
