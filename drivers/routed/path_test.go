package routed

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// The size of a probe is what the network sends, and it fits the uplink with what the tunnel adds, whatever the
// families and whether the peer is on the link or behind a router.
func TestPaths(t *testing.T) {
	const hostgw, vxlan, udp = 0, 1, 2
	for _, c := range []struct {
		driver int
		h      cnm.Host
		ipv6   bool
		near   bool
		kv     []string
		want   string
	}{
		{hostgw, host(true, false), false, true, nil, "10.5.2.1 mtu 1500 outer invalid AddrPort"},
		{hostgw, host(true, false), false, true, []string{"mtu", "1400"}, "10.5.2.1 mtu 1400 outer invalid AddrPort"},
		// Nothing leads to a peer behind a router, and a probe is to say so.
		{hostgw, host(true, false), false, false, nil, "10.5.2.1 mtu 1500 outer invalid AddrPort"},
		{hostgw, host(true, false), false, true, []string{"direct-routing", "true"},
			"10.5.2.0 mtu 1450 outer invalid AddrPort"},
		// Through the tunnel, though the driver is host-gw.
		{hostgw, host(true, false), false, false, []string{"direct-routing", "true"},
			"10.5.2.0 mtu 1450 outer 198.51.100.2:4000"},
		{vxlan, host(true, false), false, true, nil, "10.5.2.0 mtu 1450 outer 192.0.2.2:4000"},
		{vxlan, host(true, true), true, true, nil, "10.5.2.0 mtu 1430 outer 192.0.2.2:4000"},
		{vxlan, host(true, false), false, true, []string{"direct-routing", "true"},
			"10.5.2.0 mtu 1450 outer invalid AddrPort"},
		{udp, host(true, false), false, true, nil, "10.5.2.0 mtu 1472 outer 192.0.2.2:4000"},
		{udp, host(true, false), false, true, []string{"mtu", "1300"}, "10.5.2.0 mtu 1300 outer 192.0.2.2:4000"},
		// Over IPv6 the outer header is 20 bytes longer.
		{udp, host(false, true), false, true, nil, "10.5.2.0 mtu 1452 outer [2001:db8::2]:4000"},
	} {
		d := drivers()[c.driver]
		n := network(d, c.ipv6, c.kv...)
		n.Cluster.Port = 4000
		p, err := d.Path(n, peer(t, d, n, c.h, c.near), c.h)
		if got := fmt.Sprintf("%s mtu %d outer %s", p.Addr, p.MTU, p.Outer); err != nil || got != c.want {
			t.Errorf("%s %v, near: %v: %s, %v, want %s", d.Name(), c.kv, c.near, got, err, c.want)
		}
		mtu, overhead, err := d.Sizes(n, c.h)
		if err != nil || mtu != p.MTU || mtu+overhead > c.h.Uplink.MTU {
			t.Errorf("%s %v: packets of %d bytes and %d around them, %v; the uplink has %d", d.Name(), c.kv, mtu,
				overhead, err, c.h.Uplink.MTU)
		}
	}
}

func TestNoPath(t *testing.T) {
	for _, d := range drivers() {
		n := network(d, false)
		p := peer(t, d, n, host(true, false), true)
		n.Cluster.Gone = true
		if path, err := d.Path(n, p, host(true, false)); err != nil || path != (cnm.Path{}) {
			t.Errorf("%s, a network that is gone: %+v, %v", d.Name(), path, err)
		}
		if path, err := d.Path(network(d, false), p, cnm.Host{MTU: 1500}); err != nil || path != (cnm.Path{}) {
			t.Errorf("%s, no uplink: %+v, %v", d.Name(), path, err)
		}
	}
}
