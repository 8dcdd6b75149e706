package kern

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/netns"
	"github.com/vethloom/vethloom/plan"
)

// announce tells the neighbours of a sandbox's new addresses where those are: who has known them by another hardware
// address would go on sending there for up to a minute.
func (s *session) announce() error {
	fresh := map[plan.NetNS][]plan.Addr{}
	for _, op := range s.ops {
		if a, ok := op.Object.(plan.Addr); ok && op.Verb == plan.Create && a.NS != "" {
			fresh[a.NS] = append(fresh[a.NS], a)
		}
	}
	for ns, addrs := range fresh {
		fd, err := s.fd(ns)
		if err == nil {
			err = netns.Enter(fd, func() error { return sendAnnouncements(addrs) })
		}
		if err != nil {
			return fmt.Errorf("announce the addresses of %s: %w", ns, err)
		}
	}
	return nil
}

// sendAnnouncements sends from the caller's namespace. A link that is gone or down needs none.
func sendAnnouncements(addrs []plan.Addr) error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	links := map[string]*net.Interface{}
	for _, a := range addrs {
		link := links[a.Link]
		if link == nil {
			if link, err = net.InterfaceByName(a.Link); err != nil {
				continue
			}
			links[a.Link] = link
		}
		ethernet := link.Flags&net.FlagBroadcast != 0 && len(link.HardwareAddr) == len(plan.MAC{})
		if link.Flags&net.FlagUp == 0 || !ethernet {
			continue
		}
		frame, err := announcement(a.Prefix.Addr(), plan.MAC(link.HardwareAddr))
		if err != nil {
			return err
		}
		err = unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
		if err != nil && err != unix.ENETDOWN && err != unix.ENXIO {
			return os.NewSyscallError("sendto", err)
		}
	}
	return nil
}

// announcement is a frame that says where an address is: an ARP announcement (RFC 5227 section 3), or an unsolicited
// neighbour advertisement that overrides (RFC 4861 section 7.2.6).
func announcement(a netip.Addr, mac plan.MAC) ([]byte, error) {
	if a.Is4() {
		ip := a.As4()
		f := header(plan.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
		f = append(f, 0, 1, 8, 0, 6, 4, 0, 1) // a request for an IPv4 address on Ethernet (RFC 826)
		f = append(append(f, mac[:]...), ip[:]...)
		return append(append(f, make([]byte, len(mac))...), ip[:]...), nil
	}
	const override = 0x20
	all, ip := netip.IPv6LinkLocalAllNodes(), a.As16()
	body := append([]byte{override, 0, 0, 0}, ip[:]...)
	body = append(append(body, 2, 1), mac[:]...) // target link-layer address, of 8 bytes
	m := icmp.Message{Type: ipv6.ICMPTypeNeighborAdvertisement, Body: &icmp.RawBody{Data: body}}
	payload, err := m.Marshal(icmp.IPv6PseudoHeader(a.AsSlice(), all.AsSlice()))
	if err != nil {
		return nil, fmt.Errorf("write a neighbour advertisement: %w", err)
	}
	f := header(plan.MAC{0x33, 0x33, 0, 0, 0, 1}, mac, unix.ETH_P_IPV6)
	f = append(f, 6<<4, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(payload)))
	f = append(f, unix.IPPROTO_ICMPV6, 255) // the hop limit shows that no router has passed it on
	f = append(append(f, ip[:]...), all.AsSlice()...)
	return append(f, payload...), nil
}

func header(to, from plan.MAC, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 86), to[:]...), from[:]...), kind)
}
