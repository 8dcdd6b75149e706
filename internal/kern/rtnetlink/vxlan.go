package rtnetlink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// maxVNI is the largest VXLAN network identifier (RFC 7348 section 5: 24 bits).
const maxVNI = 1<<24 - 1

func CheckVXLAN(v plan.VXLANDevice) error {
	switch {
	case v.VNI > maxVNI:
		return fmt.Errorf("VXLAN identifier %d: want 0 to %d", v.VNI, maxVNI)
	case v.Port == 0:
		return errors.New("VXLAN port 0: want 1 to 65535")
	case !v.Local.IsValid() || v.Local.IsUnspecified() || v.Local.IsMulticast() || v.Local.Is4In6():
		return fmt.Errorf("VXLAN source address %q: want an address of this host", v.Local)
	}
	return nil
}

// vxlanData is what a VXLAN device is made with. It names no lower device: the routes to its
// remotes decide, so that neither the end nor a new name of a host's link touches it.
func vxlanData(a *attr.Builder, v plan.VXLANDevice) {
	a.U32(unix.IFLA_VXLAN_ID, v.VNI)
	a.Bytes(unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, v.Port))
	a.U8(unix.IFLA_VXLAN_LEARNING, 0)
	a.U8(unix.IFLA_VXLAN_PROXY, bit(v.Proxy))
	if v.Local.Is4() {
		a.Bytes(unix.IFLA_VXLAN_LOCAL, v.Local.AsSlice())
		a.U8(unix.IFLA_VXLAN_UDP_CSUM, 0)
		return
	}
	a.Bytes(unix.IFLA_VXLAN_LOCAL6, v.Local.AsSlice())
	a.U8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, 0)
	a.U8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1)
}

// parseVXLAN reads a VXLAN device, ours or not. What is not as we make it, because somebody
// changed it, is odd.
func (l *Link) parseVXLAN(b []byte) error {
	v := &l.VXLAN
	learning, csum4, zeroTX, zeroRX := true, true, false, false
	err := attr.Each(b, func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_VXLAN_ID:
			v.VNI = attr.U32(value)
		case unix.IFLA_VXLAN_PORT:
			if len(value) == 2 {
				v.Port = binary.BigEndian.Uint16(value)
			}
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			v.Local, _ = netip.AddrFromSlice(value)
		case unix.IFLA_VXLAN_PROXY:
			v.Proxy = attr.U8(value) != 0
		case unix.IFLA_VXLAN_LEARNING:
			learning = attr.U8(value) != 0
		case unix.IFLA_VXLAN_UDP_CSUM:
			csum4 = attr.U8(value) != 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX:
			zeroTX = attr.U8(value) != 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
			zeroRX = attr.U8(value) != 0
		case unix.IFLA_VXLAN_LINK:
			l.odd = l.odd || attr.U32(value) != 0
		case unix.IFLA_VXLAN_GROUP, unix.IFLA_VXLAN_GROUP6, unix.IFLA_VXLAN_GBP, unix.IFLA_VXLAN_GPE:
			l.odd = true
		}
		return nil
	})
	if v.Local.Is4() {
		l.odd = l.odd || csum4
	} else {
		l.odd = l.odd || zeroTX || !zeroRX
	}
	l.odd = l.odd || learning
	return err
}

// Device is what a plan is compared with: the zero value, which no plan has, for an odd one.
func (l *Link) Device() plan.VXLANDevice {
	if l.Kind != plan.VXLAN || l.odd {
		return plan.VXLANDevice{}
	}
	return l.VXLAN
}
