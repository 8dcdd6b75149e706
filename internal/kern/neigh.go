package kern

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// ndaProtocol is NDA_PROTOCOL: who made a neighbour entry (kernel 5.2).
const ndaProtocol = 12

func neighMsg(family byte, index uint32, flags byte) *builder {
	a := header(unix.SizeofNdMsg)
	a.b[0] = family
	putIndex(a.b[4:], index)
	binary.NativeEndian.PutUint16(a.b[8:], unix.NUD_PERMANENT)
	a.b[10] = flags
	return a
}

func newNeigh(n plan.Neigh, index uint32) request {
	a := neighMsg(family(n.IP), index, 0)
	a.bytes(unix.NDA_DST, n.IP.AsSlice())
	a.bytes(unix.NDA_LLADDR, n.MAC[:])
	a.u8(ndaProtocol, plan.Protocol)
	return request{kind: unix.RTM_NEWNEIGH, flags: createOrReplaceFlag, data: a.b}
}

func delNeigh(n plan.Neigh, index uint32) request {
	a := neighMsg(family(n.IP), index, 0)
	a.bytes(unix.NDA_DST, n.IP.AsSlice())
	return request{kind: unix.RTM_DELNEIGH, data: a.b, settled: []unix.Errno{unix.ENOENT, unix.ENODEV}}
}

// newFDB adds a forwarding entry to the device itself. Only the zero address has
// several destinations, so only there is an entry added to others.
func newFDB(f plan.FDBEntry, index uint32) request {
	a := fdbMsg(f, index)
	flags := createOrReplaceFlag
	if f.MAC == (plan.MAC{}) {
		flags = netlink.Create | netlink.Append
	}
	return request{kind: unix.RTM_NEWNEIGH, flags: flags, data: a.b}
}

func delFDB(f plan.FDBEntry, index uint32) request {
	return request{kind: unix.RTM_DELNEIGH, data: fdbMsg(f, index).b, settled: []unix.Errno{unix.ENOENT, unix.ENODEV}}
}

func fdbMsg(f plan.FDBEntry, index uint32) *builder {
	a := neighMsg(unix.AF_BRIDGE, index, unix.NTF_SELF)
	a.bytes(unix.NDA_LLADDR, f.MAC[:])
	a.bytes(unix.NDA_DST, f.Dst.AsSlice())
	return a
}

// neighbour is an observed neighbour or forwarding entry.
type neighbour struct {
	index     uint32
	permanent bool
	self      bool
	ip        netip.Addr
	mac       plan.MAC
	proto     uint8
}

func parseNeigh(b []byte) (neighbour, error) {
	if len(b) < unix.SizeofNdMsg {
		return neighbour{}, errShort
	}
	n := neighbour{
		index:     u32(b[4:]),
		permanent: binary.NativeEndian.Uint16(b[8:])&unix.NUD_PERMANENT != 0,
		self:      b[10]&unix.NTF_SELF != 0,
	}
	err := eachAttr(b[unix.SizeofNdMsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.NDA_DST:
			n.ip, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			if len(v) == len(n.mac) {
				n.mac = plan.MAC(v)
			}
		case ndaProtocol:
			n.proto = u8(v)
		}
		return nil
	})
	return n, err
}

// dumpNeighs reads the permanent neighbour entries that carry our mark.
func (c *conn) dumpNeighs(each func(neighbour) error) error {
	return c.dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), func(b []byte) error {
		n, err := parseNeigh(b)
		if err != nil || !n.permanent || n.proto != plan.Protocol {
			return err
		}
		return each(n)
	})
}

// dumpFDB reads the permanent entries of devices that forward by destination.
func (c *conn) dumpFDB(each func(neighbour) error) error {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = unix.AF_BRIDGE
	return c.dump(unix.RTM_GETNEIGH, h, func(b []byte) error {
		n, err := parseNeigh(b)
		if err != nil || !n.permanent || !n.self || !n.ip.IsValid() {
			return err
		}
		return each(n)
	})
}
