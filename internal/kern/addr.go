package kern

import (
	"net/netip"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// ifaProto is IFA_PROTO: who made an address. Kernels from 5.18 keep it.
const ifaProto = 11

func family(a netip.Addr) byte {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func addrMsg(p netip.Prefix, index uint32) *builder {
	a := header(unix.SizeofIfAddrmsg)
	a.b[0] = family(p.Addr())
	a.b[1] = byte(p.Bits())
	putIndex(a.b[4:], index)
	ip := p.Addr().AsSlice()
	a.bytes(unix.IFA_LOCAL, ip)
	a.bytes(unix.IFA_ADDRESS, ip)
	return a
}

// newAddr adds an address, or takes over one that is there.
func newAddr(p netip.Prefix, index uint32) request {
	a := addrMsg(p, index)
	if p.Addr().Is6() {
		a.u32(unix.IFA_FLAGS, unix.IFA_F_NODAD)
	} else {
		if b, ok := broadcast(p); ok {
			a.bytes(unix.IFA_BROADCAST, b.AsSlice())
		}
	}
	if p.Addr().IsLinkLocalUnicast() {
		a.b[3] = unix.RT_SCOPE_LINK
	}
	a.u8(ifaProto, plan.Protocol)
	return request{kind: unix.RTM_NEWADDR, flags: createOrReplaceFlag, data: a.b}
}

func delAddr(p netip.Prefix, index uint32) request {
	return request{
		kind: unix.RTM_DELADDR, data: addrMsg(p, index).b,
		settled: []unix.Errno{unix.EADDRNOTAVAIL, unix.ENODEV},
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

// address is an observed address.
type address struct {
	index  uint32
	prefix netip.Prefix
	proto  uint8
	scope  uint8
	flags  uint32
}

// usable tells whether an address of the host is one that others can reach it by, and lasts.
func (a address) usable() bool {
	unfit := uint32(unix.IFA_F_DEPRECATED | unix.IFA_F_DADFAILED | unix.IFA_F_TENTATIVE)
	if a.prefix.Addr().Is6() {
		unfit |= unix.IFA_F_TEMPORARY // the same bit says "secondary" of an IPv4 address
	}
	return a.scope < unix.RT_SCOPE_LINK && a.flags&unfit == 0 && a.prefix.Addr().IsGlobalUnicast()
}

func parseAddr(b []byte) (address, error) {
	if len(b) < unix.SizeofIfAddrmsg {
		return address{}, errShort
	}
	a := address{index: u32(b[4:]), scope: b[3], flags: uint32(b[2])}
	bits := int(b[1])
	var local, other netip.Addr
	err := eachAttr(b[unix.SizeofIfAddrmsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(v)
		case unix.IFA_ADDRESS:
			other, _ = netip.AddrFromSlice(v)
		case unix.IFA_FLAGS:
			a.flags = u32(v)
		case ifaProto:
			a.proto = u8(v)
		}
		return nil
	})
	if !local.IsValid() {
		local = other
	}
	a.prefix = netip.PrefixFrom(local, bits)
	return a, err
}
