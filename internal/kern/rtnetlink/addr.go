package rtnetlink

import (
	"net/netip"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO: who made an address. Kernels from 5.18 keep it.
const ifaProto = 11

func Family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addrMsg(p netip.Prefix, index uint32) *attr.Builder {
	a := attr.After(unix.SizeofIfAddrmsg)
	a.B[0] = Family(p.Addr())
	a.B[1] = byte(p.Bits())
	putIndex(a.B[4:], index)
	ip := p.Addr().AsSlice()
	a.Bytes(unix.IFA_LOCAL, ip)
	a.Bytes(unix.IFA_ADDRESS, ip)
	return a
}

// NewAddr adds an address, or takes over one that is there.
func NewAddr(p netip.Prefix, index uint32) Request {
	a := addrMsg(p, index)
	if p.Addr().Is6() {
		a.U32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	} else {
		if b, ok := broadcast(p); ok {
			a.Bytes(unix.IFA_BROADCAST, b.AsSlice())
		}
	}
	if p.Addr().IsLinkLocalUnicast() {
		a.B[3] = unix.RT_SCOPE_LINK
	}
	a.U8(ifaProto, plan.Protocol)
	return Request{Kind: unix.RTM_NEWADDR, flags: createOrReplaceFlag, Data: a.B}
}

func DelAddr(p netip.Prefix, index uint32) Request {
	return Request{
		Kind: unix.RTM_DELADDR, Data: addrMsg(p, index).B,
		Settled: []unix.Errno{unix.EADDRNOTAVAIL, unix.ENODEV},
	}
}

// broadcast is the last address of an IPv4 subnet; /31 (RFC 3021) and /32 have none.
func broadcast(p netip.Prefix) (netip.Addr, bool) {
	if p.Bits() > 30 {
		return netip.Addr{}, false
	}
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b), true
}

// Address is an observed address.
type Address struct {
	Index  uint32
	Prefix netip.Prefix
	Proto  uint8
	scope  uint8
	flags  uint32
}

// Usable reports whether an address of the host is one that others can reach it by, and lasts.
func (a Address) Usable() bool {
	unfit := uint32(unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED | unix.IFA_F_TENTATIVE)
	if a.Prefix.Addr().Is6() {
		unfit |= unix.IFA_F_TEMPORARY // the same bit says "secondary" of an IPv4 address
	}
	return a.scope < unix.RT_SCOPE_LINK && a.flags&unfit == 0 && a.Prefix.Addr().IsGlobalUnicast()
}

func ParseAddr(b []byte) (Address, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return Address{}, ErrShort
	}
	a := Address{Index: attr.U32(b[4:]), scope: b[3], flags: uint32(b[2])}
	bits := int(b[1])
	var local, other netip.Addr
	err := attr.Each(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS:
			a.flags = attr.U32(v)
		case ifaProto:
			a.Proto = attr.U8(v)
		}
		return nil
	})
	if !local.IsValid() {
		local = other
	}
	a.Prefix = netip.PrefixFrom(local, bits)
	return a, err
}
