package kerntest

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// fastPath has some of the fabric's pairs and VXLAN devices take part in the fast path. Ways to other nodes need routes
// to them, and are left out.
func (g *generator) fastPath() {
	const network plan.FastNetwork = "1c34db1e81d200aa"
	if !g.chance(70, "fast path") {
		return
	}
	f := &g.s.Fast
	f.Counters = append(f.Counters, plan.FastCounter{Network: network})
	f.Tunnels = append(f.Tunnels, plan.FastTunnel{Port: 8472, Way: plan.FastVXLAN},
		plan.FastTunnel{Port: 8472, Way: plan.FastVXLAN, Network: network, VNI: pick(g, "fast VNI", uint32(7), 8),
			Self: netip.MustParseAddr("192.0.2.1"), MAC: plan.MAC{2, 0, 0, 0, 0, 1}, Routed: g.chance(50, "routed")})
	for i, l := range g.s.Links {
		if l.Kind == plan.VXLAN && l.NS == "" && g.chance(70, "bridged") {
			f.Programs = append(f.Programs, plan.FastProgram{Link: l.Name, Network: network, Bridged: true,
				MAC: plan.MAC{2, 0, 0, 0, 0, pick(g, "bridge", byte(1), 2)}})
		}
		if l.Kind != plan.Veth || l.NS != "" || !g.chance(70, "fast endpoint") {
			continue
		}
		e := plan.FastEndpoint{Network: network, Link: l.Name, MAC: plan.MAC{2, 0, 0, 0, 1, byte(i)},
			Via: plan.MAC{2, 0, 0, 0, 0, 2}, MTU: pick(g, "fast MTU", 1400, 1500), Publishes: g.chance(50, "publishes"),
			Slow: g.chance(20, "slow")}
		for _, a := range []string{"10.9.0.%d", "fd09::%d"} {
			e.Addr, e.Plain = netip.MustParseAddr(fmt.Sprintf(a, i+1)), g.chance(50, "plain")
			f.Endpoints = append(f.Endpoints, e)
			if e.Publishes {
				f.Ports = append(f.Ports, plan.FastPort{Network: network, Addr: e.Addr, Proto: plan.TCP,
					Port: pick(g, "fast port", uint16(80), 443)})
			}
		}
		if g.chance(80, "fast program") {
			p := plan.FastProgram{Link: l.Name, Network: network, MAC: e.MAC}
			if g.chance(20, "uplink") {
				p.Network, p.MAC = "", plan.MAC{}
			}
			f.Programs = append(f.Programs, p)
		}
	}
}
