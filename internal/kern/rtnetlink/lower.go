package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// lastVLAN is the largest identifier of a VLAN (IEEE 802.1Q: 12 bits, the last value reserved).
const lastVLAN = 4094

// macvlanModes are the values of IFLA_MACVLAN_MODE (enum macvlan_mode of linux/if_link.h).
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

// Attributes and values of ipvlan (linux/if_link.h).
const (
	ipvlanMode  = 1 // IFLA_IPVLAN_MODE
	ipvlanFlags = 2 // IFLA_IPVLAN_FLAGS
)

var (
	ipvlanModeValues = map[string]uint16{"l2": 0, "l3": 1, "l3s": 2}
	ipvlanFlagValues = map[string]uint16{"bridge": 0, "private": 1, "vepa": 2}
)

func CheckLower(l plan.Link) error {
	switch {
	case l.Lower.Link == "":
		return errors.New("no link to sit on")
	case l.Kind == plan.VLAN && (l.Lower.Tag == 0 || l.Lower.Tag > lastVLAN):
		return fmt.Errorf("VLAN %d: want 1 to %d", l.Lower.Tag, lastVLAN)
	case l.Kind == plan.VLAN && l.NS != "":
		return errors.New("a VLAN is made on the host")
	case l.Kind == plan.IPvlan && !(slices.Contains(plan.IPvlanModes(), l.Lower.Mode) &&
		slices.Contains(plan.IPvlanFlags(), l.Lower.Flag)):
		return fmt.Errorf("mode %q, flag %q: want one of %q and one of %q", l.Lower.Mode, l.Lower.Flag,
			plan.IPvlanModes(), plan.IPvlanFlags())
	case l.Kind == plan.Macvlan && macvlanModes[l.Lower.Mode] == 0:
		return fmt.Errorf("mode %q: want one of %q", l.Lower.Mode, plan.MacvlanModes())
	}
	return CheckLinkName(l.Lower.Link)
}

func lowerData(a *attr.Builder, l plan.Link) {
	u16 := func(attribute uint16, v uint16) { a.Bytes(attribute, binary.NativeEndian.AppendUint16(nil, v)) }
	switch l.Kind {
	case plan.VLAN:
		u16(unix.IFLA_VLAN_ID, l.Lower.Tag)
		return
	case plan.IPvlan:
		u16(ipvlanMode, ipvlanModeValues[l.Lower.Mode])
		u16(ipvlanFlags, ipvlanFlagValues[l.Lower.Flag])
		return
	}
	a.U32(unix.IFLA_MACVLAN_MODE, macvlanModes[l.Lower.Mode])
}

func (l *Link) parseLower(b []byte) error {
	return attr.Each(b, func(kind uint16, v []byte) error {
		switch {
		case l.Kind == plan.VLAN && kind == unix.IFLA_VLAN_ID && len(v) == 2:
			l.Lower.Tag = binary.NativeEndian.Uint16(v)
		case l.Kind == plan.IPvlan && kind == ipvlanMode && len(v) == 2:
			l.Lower.Mode = nameOf(ipvlanModeValues, binary.NativeEndian.Uint16(v))
		case l.Kind == plan.IPvlan && kind == ipvlanFlags && len(v) == 2:
			l.Lower.Flag = nameOf(ipvlanFlagValues, binary.NativeEndian.Uint16(v))
		case l.Kind == plan.Macvlan && kind == unix.IFLA_MACVLAN_MODE:
			for name, mode := range macvlanModes {
				if mode == attr.U32(v) {
					l.Lower.Mode = name
				}
			}
		}
		return nil
	})
}

func nameOf(values map[string]uint16, value uint16) string {
	for name, v := range values {
		if v == value {
			return name
		}
	}
	return ""
}
