package packet

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plan"
)

// Lengths in bytes of headers, and of an ARP packet for IPv4 on Ethernet.
const (
	etherLen = 14
	arpLen   = 28
	ipv6Len  = 40
)

// The hop limit of neighbour discovery shows that no router has passed a packet on (RFC 4861 section 7.1).
const fromTheLink = 255

// Announcement is a frame that says where an address is: an ARP announcement (RFC 5227 section 3), or an unsolicited
// neighbour advertisement that overrides (RFC 4861 section 7.2.6).
func Announcement(a netip.Addr, mac plan.MAC) ([]byte, error) {
	if a.Is4() {
		return arpRequest(mac, a, a), nil
	}
	const override = 0x20
	ip := a.As16()
	body := append([]byte{override, 0, 0, 0}, ip[:]...)
	body = append(append(body, 2, 1), mac[:]...) // target link-layer address, of 8 bytes
	return discovery(mac, a, netip.IPv6LinkLocalAllNodes(), ipv6.ICMPTypeNeighborAdvertisement, body)
}

// Probe is a frame that asks whether anybody has an address: an ARP probe (RFC 5227 section 2.1.1), or the neighbour
// solicitation of duplicate address detection (RFC 4862 section 5.4.2).
func Probe(a netip.Addr, mac plan.MAC) ([]byte, error) {
	if a.Is4() {
		return arpRequest(mac, netip.IPv4Unspecified(), a), nil
	}
	ip := a.As16()
	solicited := netip.MustParseAddr("ff02::1:ff00:0").As16() // RFC 4291 section 2.7.1
	copy(solicited[13:], ip[13:])
	body := append(make([]byte, 4, 20), ip[:]...)
	return discovery(mac, netip.IPv6Unspecified(), netip.AddrFrom16(solicited), ipv6.ICMPTypeNeighborSolicitation, body)
}

// arpRequest is a request for an IPv4 address on Ethernet (RFC 826).
func arpRequest(mac plan.MAC, sender, target netip.Addr) []byte {
	f := append(header(plan.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP), 0, 1, 8, 0, 6, 4, 0, 1)
	f = append(append(f, mac[:]...), sender.AsSlice()...)
	return append(append(f, make([]byte, len(mac))...), target.AsSlice()...)
}

// discovery is a message of neighbour discovery to a multicast address.
func discovery(mac plan.MAC, from, to netip.Addr, kind ipv6.ICMPType, body []byte) ([]byte, error) {
	m := icmp.Message{Type: kind, Body: &icmp.RawBody{Data: body}}
	payload, err := m.Marshal(icmp.IPv6PseudoHeader(from.AsSlice(), to.AsSlice()))
	if err != nil {
		return nil, fmt.Errorf("write a message of neighbour discovery: %w", err)
	}
	group := to.As16()
	f := header(plan.MAC{0x33, 0x33, group[12], group[13], group[14], group[15]}, mac, unix.ETH_P_IPV6)
	f = append(f, 6<<4, 0, 0, 0)
	f = binary.BigEndian.AppendUint16(f, uint16(len(payload)))
	f = append(f, unix.IPPROTO_ICMPV6, fromTheLink)
	f = append(append(f, from.AsSlice()...), to.AsSlice()...)
	return append(f, payload...), nil
}

func header(to, from plan.MAC, kind uint16) []byte {
	return binary.BigEndian.AppendUint16(append(append(make([]byte, 0, 86), to[:]...), from[:]...), kind)
}

// claimed is the address that a frame claims for its sender: as the one that it has, or that it is about to have. It is
// the zero value for every other frame. Whoever sends false ones can send right ones too, so checksums are not looked
// at.
func claimed(f []byte) netip.Addr {
	if len(f) < etherLen {
		return netip.Addr{}
	}
	body := f[etherLen:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		return claimedARP(body)
	case unix.ETH_P_IPV6:
		return claimedDiscovery(body)
	}
	return netip.Addr{}
}

func claimedARP(b []byte) netip.Addr {
	if len(b) < arpLen || string(b[:6]) != "\x00\x01\x08\x00\x06\x04" { // for IPv4 on Ethernet
		return netip.Addr{}
	}
	sender, target := netip.AddrFrom4([4]byte(b[14:])), netip.AddrFrom4([4]byte(b[24:]))
	if sender.IsUnspecified() && b[6] == 0 && b[7] == 1 { // a probe of somebody else's
		return target
	}
	return sender
}

func claimedDiscovery(b []byte) netip.Addr {
	const message = 24 // type, code, checksum, flags and target
	if len(b) < ipv6Len+message || b[6] != unix.IPPROTO_ICMPV6 || b[7] != fromTheLink ||
		binary.BigEndian.Uint16(b[4:]) < message {
		return netip.Addr{}
	}
	from, target := netip.AddrFrom16([16]byte(b[8:])), netip.AddrFrom16([16]byte(b[ipv6Len+8:]))
	probe := b[ipv6Len] == byte(ipv6.ICMPTypeNeighborSolicitation) && from.IsUnspecified()
	if b[ipv6Len+1] == 0 && (probe || b[ipv6Len] == byte(ipv6.ICMPTypeNeighborAdvertisement)) {
		return target
	}
	return netip.Addr{}
}
