package subnet

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// uint128 is an address, or the number of a subnet among those of its length, as a number.
type uint128 struct{ hi, lo uint64 }

func (a uint128) sub(b uint128) uint128 {
	lo, borrow := bits.Sub64(a.lo, b.lo, 0)
	hi, _ := bits.Sub64(a.hi, b.hi, borrow)
	return uint128{hi, lo}
}

func (a uint128) add(b uint128) uint128 {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return uint128{hi, lo}
}

// shl and shr give 0 for shifts beyond the width, as Go's own do.
func (a uint128) shl(n int) uint128 {
	if n >= 64 {
		return uint128{hi: a.lo << (n - 64)}
	}
	return uint128{a.hi<<n | a.lo>>(64-n), a.lo << n}
}

func (a uint128) shr(n int) uint128 {
	if n >= 64 {
		return uint128{lo: a.hi >> (n - 64)}
	}
	return uint128{a.hi >> n, a.lo>>n | a.hi<<(64-n)}
}

// number is the address as a number of its own width.
func number(a netip.Addr) uint128 {
	if a.Is4() {
		b := a.As4()
		return uint128{lo: uint64(binary.BigEndian.Uint32(b[:]))}
	}
	b := a.As16()
	return uint128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addrAt is the first address of the n-th subnet of the given length from the address on.
func addrAt(from netip.Addr, n uint128, length int) netip.Addr {
	v := number(from).add(n.shl(from.BitLen() - length))
	if from.Is4() {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(v.lo))))
	}
	b := binary.BigEndian.AppendUint64(nil, v.hi)
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(b, v.lo)))
}

// spread cuts n down to the number of the last subnet of the given length in the network.
func spread(n uint128, network netip.Prefix, length int) uint128 {
	return n.shr(128 - (length - network.Bits()))
}
