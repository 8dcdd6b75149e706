package kern

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// maxVNI is the largest VXLAN network identifier (RFC 7348 section 5: 24 bits).
const maxVNI = 1<<24 - 1

func checkVXLAN(v plan.VXLANDevice) error {
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
func vxlanData(a *builder, v plan.VXLANDevice) {
	a.u32(unix.IFLA_VXLAN_ID, v.VNI)
	a.bytes(unix.IFLA_VXLAN_PORT, binary.BigEndian.AppendUint16(nil, v.Port))
	a.u8(unix.IFLA_VXLAN_LEARNING, 0)
	a.u8(unix.IFLA_VXLAN_PROXY, bit(v.Proxy))
	if v.Local.Is4() {
		a.bytes(unix.IFLA_VXLAN_LOCAL, v.Local.AsSlice())
		a.u8(unix.IFLA_VXLAN_UDP_CSUM, 0)
		return
	}
	a.bytes(unix.IFLA_VXLAN_LOCAL6, v.Local.AsSlice())
	a.u8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX, 0)
	a.u8(unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX, 1)
}

// parseVXLAN reads a VXLAN device, ours or not. What is not as we make it, because somebody
// changed it, is odd.
func (l *link) parseVXLAN(b []byte) error {
	v := &l.vxlan
	learning, csum4, zeroTX, zeroRX := true, true, false, false
	err := eachAttr(b, func(kind uint16, value []byte) error {
		switch kind {
		case unix.IFLA_VXLAN_ID:
			v.VNI = u32(value)
		case unix.IFLA_VXLAN_PORT:
			if len(value) == 2 {
				v.Port = binary.BigEndian.Uint16(value)
			}
		case unix.IFLA_VXLAN_LOCAL, unix.IFLA_VXLAN_LOCAL6:
			v.Local, _ = netip.AddrFromSlice(value)
		case unix.IFLA_VXLAN_PROXY:
			v.Proxy = u8(value) != 0
		case unix.IFLA_VXLAN_LEARNING:
			learning = u8(value) != 0
		case unix.IFLA_VXLAN_UDP_CSUM:
			csum4 = u8(value) != 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_TX:
			zeroTX = u8(value) != 0
		case unix.IFLA_VXLAN_UDP_ZERO_CSUM6_RX:
			zeroRX = u8(value) != 0
		case unix.IFLA_VXLAN_LINK:
			l.odd = l.odd || u32(value) != 0
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

// device is what a plan is compared with: the zero value, which no plan has, for an odd one.
func (l *link) device() plan.VXLANDevice {
	if l.kind != plan.VXLAN || l.odd {
		return plan.VXLANDevice{}
	}
	return l.vxlan
}

// explain adds to an error what the kernel does not say: who is in the way.
func (s *session) explain(op plan.Op, err error) error {
	if r, ok := op.Object.(plan.Route); ok && op.Verb == plan.Create && errnoIs(err, unix.EEXIST) {
		return s.explainRoute(r, err)
	}
	l, ok := op.Object.(plan.Link)
	if !ok || l.Kind != plan.VXLAN || op.Verb == plan.Delete || !errnoIs(err, unix.EEXIST, unix.EADDRINUSE) {
		return err
	}
	c, dialErr := s.conn(l.NS)
	if dialErr != nil {
		return err
	}
	var rivals []link
	named := false
	dumpErr := c.dumpLinks(func(o link) {
		named = named || o.name == l.Name
		if o.kind == plan.VXLAN && o.name != l.Name && o.vxlan.Port == l.VXLAN.Port {
			rivals = append(rivals, o)
		}
	})
	switch {
	case dumpErr != nil:
		return errors.Join(err, dumpErr)
	case errnoIs(err, unix.EADDRINUSE):
		return s.portInUse(l, rivals, err)
	case named:
		return fmt.Errorf("a link of that name is there already: %w", err)
	}
	for _, r := range rivals {
		if r.vxlan.VNI == l.VXLAN.VNI {
			return fmt.Errorf("the host's VXLAN device %s already has identifier %d on UDP port %d; "+
				"choose another identifier or port, or %s: %w", r.name, l.VXLAN.VNI, l.VXLAN.Port, removal(r.name), err)
		}
	}
	return fmt.Errorf("a VXLAN device that was moved to another network namespace already has identifier %d on UDP port %d; "+
		"choose another identifier or port, or remove it: %w", l.VXLAN.VNI, l.VXLAN.Port, err)
}

// removal is how to get rid of a device that somebody else made: flanneld leaves its own when it ends, and makes it
// again while it runs.
func removal(device string) string {
	if strings.HasPrefix(device, "flannel.") || strings.HasPrefix(device, "flannel-v6.") {
		return "stop flanneld and `ip link del " + device + "`"
	}
	return "`ip link del " + device + "`"
}

// portInUse names the process, or else the VXLAN device, that has a device's port. Devices
// share a port only when they take the same kinds of packets in.
func (s *session) portInUse(l plan.Link, rivals []link, err error) error {
	addr := netip.IPv4Unspecified()
	if l.VXLAN.Local.Is6() {
		addr = netip.IPv6Unspecified()
	}
	taken := &plan.PortTakenError{Port: plan.PortHold{NS: l.NS, Addr: addr, Proto: plan.UDP, From: l.VXLAN.Port, To: l.VXLAN.Port}}
	entered := s.k.enter(l.NS, func() error {
		taken.By = usedBy(plan.UDP, l.VXLAN.Port)
		return nil
	})
	if taken.By == "" && len(rivals) > 0 {
		taken.By = "the VXLAN device " + rivals[0].name
		err = fmt.Errorf("choose another port, or %s: %w", removal(rivals[0].name), err)
	}
	return errors.Join(fmt.Errorf("open the UDP port of the VXLAN device: %w: %w", taken, err), entered)
}
