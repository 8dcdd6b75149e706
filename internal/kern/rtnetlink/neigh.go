package rtnetlink

import (
	"encoding/binary"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// ndaProtocol is NDA_PROTOCOL: who made a neighbour entry (kernel 5.2).
const ndaProtocol = 12

func neighMsg(family byte, index uint32, flags byte) *attr.Builder {
	a := attr.After(unix.SizeofNdMsg)
	a.B[0] = family
	putIndex(a.B[4:], index)
	binary.NativeEndian.PutUint16(a.B[8:], unix.NUD_PERMANENT)
	a.B[10] = flags
	return a
}

func NewNeigh(n plan.Neigh, index uint32) Request {
	a := neighMsg(Family(n.IP), index, 0)
	a.Bytes(unix.NDA_DST, n.IP.AsSlice())
	a.Bytes(unix.NDA_LLADDR, n.MAC[:])
	a.U8(ndaProtocol, plan.Protocol)
	return Request{Kind: unix.RTM_NEWNEIGH, flags: createOrReplaceFlag, Data: a.B}
}

func DelNeigh(n plan.Neigh, index uint32) Request {
	a := neighMsg(Family(n.IP), index, 0)
	a.Bytes(unix.NDA_DST, n.IP.AsSlice())
	return Request{Kind: unix.RTM_DELNEIGH, Data: a.B, Settled: []unix.Errno{unix.ENOENT, unix.ENODEV}}
}

// NewFDB adds a forwarding entry to the device itself, or to its bridge. Only the zero address of a device has
// several destinations, so only there is an entry added to others.
func NewFDB(f plan.FDBEntry, index uint32) Request {
	a := fdbMsg(f, index)
	flags := createOrReplaceFlag
	switch {
	case f.MAC == plan.MAC{}:
		flags = netlink.Create | netlink.Append
	case f.Yields:
		flags = netlink.Create | netlink.Excl
	}
	return Request{Kind: unix.RTM_NEWNEIGH, flags: flags, Data: a.B}
}

func DelFDB(f plan.FDBEntry, index uint32) Request {
	return Request{Kind: unix.RTM_DELNEIGH, Data: fdbMsg(f, index).B, Settled: []unix.Errno{unix.ENOENT, unix.ENODEV}}
}

func fdbMsg(f plan.FDBEntry, index uint32) *attr.Builder {
	if !f.Dst.IsValid() {
		// A permanent entry of a bridge is an address of the bridge itself; one that does not age says "no ARP".
		a := neighMsg(unix.AF_BRIDGE, index, unix.NTF_MASTER)
		binary.NativeEndian.PutUint16(a.B[8:], unix.NUD_NOARP)
		a.Bytes(unix.NDA_LLADDR, f.MAC[:])
		return a
	}
	a := neighMsg(unix.AF_BRIDGE, index, unix.NTF_SELF)
	a.Bytes(unix.NDA_LLADDR, f.MAC[:])
	a.Bytes(unix.NDA_DST, f.Dst.AsSlice())
	return a
}

// Neighbour is an observed neighbour or forwarding entry.
type Neighbour struct {
	Index     uint32
	Permanent bool       // does not age
	Static    bool       // a forwarding entry of a bridge, for the link as its port, that does not age
	IP        netip.Addr // the zero value in entries of a bridge
	MAC       plan.MAC
	Proto     uint8
}

func ParseNeigh(b []byte) (Neighbour, error) {
	if len(b) < unix.SizeofNdMsg {
		return Neighbour{}, ErrShort
	}
	state := binary.NativeEndian.Uint16(b[8:])
	n := Neighbour{
		Index:     attr.U32(b[4:]),
		Permanent: state&unix.NUD_PERMANENT != 0,
		Static: b[0] == unix.AF_BRIDGE && b[10]&unix.NTF_SELF == 0 && state&(unix.NUD_PERMANENT|unix.NUD_NOARP) ==
			unix.NUD_NOARP,
	}
	err := attr.Each(b[unix.SizeofNdMsg:], func(kind uint16, v []byte) error {
		switch kind {
		case unix.NDA_DST:
			n.IP, _ = netip.AddrFromSlice(v)
		case unix.NDA_LLADDR:
			if len(v) == len(n.MAC) {
				n.MAC = plan.MAC(v)
			}
		case ndaProtocol:
			n.Proto = attr.U8(v)
		}
		return nil
	})
	return n, err
}

// DumpNeighs reads the permanent neighbour entries that carry our mark.
func (c *Conn) DumpNeighs(each func(Neighbour) error) error {
	return c.Dump(unix.RTM_GETNEIGH, make([]byte, unix.SizeofNdMsg), func(b []byte) error {
		n, err := ParseNeigh(b)
		if err != nil || !n.Permanent || n.Proto != plan.Protocol {
			return err
		}
		return each(n)
	})
}

// DumpFDB reads the permanent entries of devices that forward by destination, and the static ones of bridges.
func (c *Conn) DumpFDB(each func(Neighbour) error) error {
	h := make([]byte, unix.SizeofNdMsg)
	h[0] = unix.AF_BRIDGE
	return c.Dump(unix.RTM_GETNEIGH, h, func(b []byte) error {
		n, err := ParseNeigh(b)
		self := err == nil && n.Permanent && b[10]&unix.NTF_SELF != 0 && n.IP.IsValid()
		if !self && !n.Static {
			return err
		}
		return each(n)
	})
}
