package host

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/internal/kern/packet"
	"github.com/vethloom/vethloom/plan"
)

// InUse are those of the addresses that somebody on a LAN has, with the hardware address there. The LAN is asked by a
// link of the host's, which takes 300 ms; what the host itself has on any link counts too, as of the zero address. The
// error is a [plan.NoLinkError] when there is no such link.
func (h *Host) InUse(ctx context.Context, link string, addrs []netip.Addr) (map[netip.Addr]plan.MAC, error) {
	own, err := h.Addresses(ctx)
	if err != nil {
		return nil, err
	}
	used := map[netip.Addr]plan.MAC{}
	var ask []netip.Addr
	for _, a := range addrs {
		if slices.Contains(own, a) {
			used[a] = plan.MAC{}
		} else {
			ask = append(ask, a)
		}
	}
	if len(ask) == 0 || len(used) > 0 { // other addresses will be asked for anyway
		return used, nil
	}
	if used, err = packet.InUse(ctx, h.fd, link, ask); err != nil {
		return nil, fmt.Errorf("ask the LAN of %s who has %v: %w", link, ask, err)
	}
	return used, nil
}

// DHCP opens a connection for a client of DHCP on a LAN, who has the hardware address there. The error is a
// [plan.NoLinkError] when there is no such link.
func (h *Host) DHCP(link string, mac plan.MAC) (net.PacketConn, error) {
	const client = 68 // RFC 2131 section 4.1
	return packet.ListenUDP(h.fd, link, mac, client)
}
