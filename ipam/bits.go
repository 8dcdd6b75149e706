package ipam

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// u128 is an address as a number; IPv4 in its mapped form (RFC 4291 section
// 2.5.5.2), so that both families have one arithmetic.
type u128 struct{ hi, lo uint64 }

func number(a netip.Addr) u128 {
	b := a.As16()
	return u128{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

// addr is the inverse of number.
func (n u128) addr(is4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	a := netip.AddrFrom16(b)
	if is4 {
		return a.Unmap()
	}
	return a
}

func (n u128) add(d uint64) u128 {
	lo, carry := bits.Add64(n.lo, d, 0)
	return u128{n.hi + carry, lo}
}

func (n u128) sub(m u128) u128 {
	lo, borrow := bits.Sub64(n.lo, m.lo, 0)
	return u128{n.hi - m.hi - borrow, lo}
}

// last is the highest address of a prefix: for IPv4 its broadcast address.
func last(p netip.Prefix) netip.Addr {
	n := number(p.Addr())
	host := p.Addr().BitLen() - p.Bits()
	if host > 64 {
		n.hi |= 1<<(host-64) - 1
		n.lo = ^uint64(0)
	} else if host == 64 {
		n.lo = ^uint64(0)
	} else {
		n.lo |= 1<<host - 1
	}
	return n.addr(p.Addr().Is4())
}

// maxSpan bounds the part of a pool that addresses are picked from. A longer
// range is still accepted, and any address of it can be asked for by name.
const maxSpan = 1 << 62

// span is the number of addresses of a prefix, at most maxSpan.
func span(p netip.Prefix) uint64 {
	host := p.Addr().BitLen() - p.Bits()
	if host >= 62 {
		return maxSpan
	}
	return 1 << host
}

const (
	blockBits  = 4096
	blockWords = blockBits / 64
)

type block struct {
	words [blockWords]uint64
	used  int
}

// bitmap is a sparse set of numbers below size: blocks without members do not
// exist, so an IPv6 /64 costs as much as what is used of it.
type bitmap struct {
	size   uint64
	blocks map[uint64]*block
	used   uint64
}

func newBitmap(size uint64) bitmap { return bitmap{size: size, blocks: map[uint64]*block{}} }

func (b *bitmap) set(i uint64) {
	blk := b.blocks[i/blockBits]
	if blk == nil {
		blk = &block{}
		b.blocks[i/blockBits] = blk
	}
	w, m := &blk.words[i%blockBits/64], uint64(1)<<(i%64)
	if *w&m == 0 {
		*w |= m
		blk.used++
		b.used++
	}
}

func (b *bitmap) clear(i uint64) {
	blk := b.blocks[i/blockBits]
	if blk == nil {
		return
	}
	w, m := &blk.words[i%blockBits/64], uint64(1)<<(i%64)
	if *w&m != 0 {
		*w &^= m
		blk.used--
		b.used--
	}
	if blk.used == 0 {
		delete(b.blocks, i/blockBits)
	}
}

// next finds the first number from start on that is not in the set; ok is
// false when all of them are.
func (b *bitmap) next(start uint64) (i uint64, ok bool) {
	if b.used >= b.size {
		return 0, false
	}
	return b.find(start, b.size)
}

// find searches from (inclusive) to (exclusive).
func (b *bitmap) find(from, to uint64) (uint64, bool) {
	for i := from; i < to; {
		blk := b.blocks[i/blockBits]
		if blk == nil {
			return i, true
		}
		if blk.used == blockBits {
			i = (i/blockBits + 1) * blockBits
			continue
		}
		for w := i % blockBits / 64; w < blockWords; w++ {
			free := ^blk.words[w]
			if w == i%blockBits/64 {
				free &= ^uint64(0) << (i % 64)
			}
			if free != 0 {
				i = i/blockBits*blockBits + w*64 + uint64(bits.TrailingZeros64(free))
				return i, i < to
			}
		}
		i = (i/blockBits + 1) * blockBits
	}
	return 0, false
}
