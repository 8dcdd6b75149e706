package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// lastVLAN is the largest identifier of a VLAN (IEEE 802.1Q: 12 bits, the last value reserved).
const lastVLAN = 4094

// macvlanModes are the values of IFLA_MACVLAN_MODE (enum macvlan_mode of linux/if_link.h).
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "bridge": 4, "passthru": 8}

func CheckLower(l plan.Link) error {
	switch {
	case l.Lower.Link == "":
		return errors.New("no link to sit on")
	case l.Kind == plan.VLAN && (l.Lower.Tag == 0 || l.Lower.Tag > lastVLAN):
		return fmt.Errorf("VLAN %d: want 1 to %d", l.Lower.Tag, lastVLAN)
	case l.Kind == plan.VLAN && l.NS != "":
		return errors.New("a VLAN is made on the host")
	case l.Kind == plan.Macvlan && macvlanModes[l.Lower.Mode] == 0:
		return fmt.Errorf("mode %q: want one of %q", l.Lower.Mode, plan.MacvlanModes())
	}
	return CheckLinkName(l.Lower.Link)
}

func lowerData(a *attr.Builder, l plan.Link) {
	if l.Kind == plan.VLAN {
		a.Bytes(unix.IFLA_VLAN_ID, binary.NativeEndian.AppendUint16(nil, l.Lower.Tag))
		return
	}
	a.U32(unix.IFLA_MACVLAN_MODE, macvlanModes[l.Lower.Mode])
}

func (l *Link) parseLower(b []byte) error {
	return attr.Each(b, func(kind uint16, v []byte) error {
		switch {
		case l.Kind == plan.VLAN && kind == unix.IFLA_VLAN_ID && len(v) == 2:
			l.Lower.Tag = binary.NativeEndian.Uint16(v)
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
