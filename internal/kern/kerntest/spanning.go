package kerntest

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// spanning adds what networks across hosts are made of.
func (g *generator) spanning() {
	type device struct {
		vni  uint32
		port uint16
	}
	used := map[device]bool{}
	for i := range 3 {
		v := plan.VXLANDevice{
			VNI: pick(g, "vni", uint32(1), 2), Port: pick(g, "vxlan port", uint16(4789), 8472),
			Local: pick(g, "local", netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2"),
				netip.MustParseAddr("2001:db8::1")),
			Proxy: g.chance(50, "proxy"),
		}
		if d := (device{v.VNI, v.Port}); g.chance(60, "vxlan") && !used[d] {
			used[d] = true
			g.vxlan(i, v)
		}
	}
	for i := range 2 {
		if g.chance(50, "tun") {
			g.tun(i)
		}
	}
}

// vxlan makes a device that is a port of a bridge or has addresses of its own. Now and then
// it has the name that a veth pair has in other states.
func (g *generator) vxlan(i int, v plan.VXLANDevice) {
	l := plan.Link{
		Name: fmt.Sprintf("vl%d", i+3), Owner: plan.Owner(fmt.Sprintf("network/%d", i+3)), Kind: plan.VXLAN,
		MTU: pick(g, "mtu", 0, 1400, 1450), Up: g.chance(80, "up"), MAC: g.mac(30 + i), VXLAN: v,
	}
	if g.taken[l.Key()] {
		return
	}
	g.taken[l.Key()] = true
	if len(g.bridges) > 0 && g.chance(50, "port") {
		l.Master = pick(g, "master", g.bridges...)
		l.Port = g.port()
	}
	g.s.Links = append(g.s.Links, l)
	g.behind(l, 30+i)
	if l.Up && l.Master == "" {
		g.furnish(l.NS, l.Name, 30+i)
	}
	remotes := []netip.Addr{netip.MustParseAddr("192.0.2.8"), netip.MustParseAddr("192.0.2.9")}
	if v.Local.Is6() {
		remotes = []netip.Addr{netip.MustParseAddr("2001:db8::8"), netip.MustParseAddr("2001:db8::9")}
	}
	for n, dst := range remotes {
		if g.chance(40, "default entry") {
			g.s.FDB = append(g.s.FDB, plan.FDBEntry{Link: l.Name, Dst: dst})
		}
		if g.chance(60, "entry") {
			g.s.FDB = append(g.s.FDB, plan.FDBEntry{Link: l.Name, MAC: plan.MAC{2, 0, 0, 0, 4, byte(n)},
				Dst: pick(g, "remote", remotes...)})
		}
		if l.Up && g.chance(40, "neighbour") {
			g.s.Neighs = append(g.s.Neighs,
				plan.Neigh{Link: l.Name, IP: netip.MustParseAddr(fmt.Sprintf("fd00:99::%d", n)),
					MAC: plan.MAC{2, 0, 0, 0, 4, pick(g, "mac", byte(1), 2)}})
		}
	}
}

func (g *generator) tun(i int) {
	l := plan.Link{
		Name: fmt.Sprintf("vt%d", i), Owner: plan.Owner(fmt.Sprintf("network/%d", 40+i)), Kind: plan.TUN,
		MTU: pick(g, "mtu", 0, 1400, 1472), Up: g.chance(80, "up"),
	}
	if len(g.ns) > 0 && g.chance(10, "not in the fabric") {
		l.NS = pick(g, "namespace", g.ns...)
	}
	g.s.Links = append(g.s.Links, l)
	g.tuns[l.Name] = true
	if l.Up {
		g.furnish(l.NS, l.Name, 40+i)
	}
	if l.NS != "" || !g.chance(70, "tunnel") {
		return
	}
	t := plan.Tunnel{Link: l.Name, Local: netip.MustParseAddr(pick(g, "local", "192.0.2.1", "2001:db8::1")),
		Port: pick(g, "tunnel port", uint16(8285), 8286), Plain: g.chance(50, "plain")}
	for n := range 2 {
		if g.chance(60, "inside") {
			t.Inside = append(t.Inside, netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 40+i, n)))
		}
	}
	g.s.Tunnels = append(g.s.Tunnels, t)
	for n := range 3 {
		if g.chance(50, "remote") {
			g.s.TunnelPeers = append(g.s.TunnelPeers,
				plan.TunnelPeer{Link: l.Name, Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", 40+i, 10+n)),
					Dst: netip.MustParseAddr(pick(g, "remote address", "192.0.2.8", "192.0.2.9"))})
		}
	}
}
