package routed

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

// TestFastGolden renders what a network of each backend has on the fast path.
func TestFastGolden(t *testing.T) {
	fast := func(s plan.State) string { return text(plan.State{Fast: s.Fast}) }
	e := cnm.Endpoint{
		ID: "91bc3f2a" + strings.Repeat("1", 56), NetNS: "box", Phase: cnm.Active, MAC: plan.MAC{2, 0x42, 10, 5, 1, 9},
		Addrs: []netip.Prefix{prefix("10.5.1.9/24"), prefix("fd05:0:0:1::9/64")},
	}
	for _, d := range drivers() {
		for name, c := range map[string]struct {
			n cnm.Network
			h cnm.Host
		}{
			"both":      {network(d, true), host(true, true)},
			"underlay6": {network(d, true), host(false, true)},
			"direct":    {network(d, true, "direct-routing", "true"), host(true, true)},
			"off":       {network(d, true, "fastpath", "off"), host(true, true)},
		} {
			t.Run(d.Name()+"/"+name, func(t *testing.T) {
				c.h.Fast = true
				shared, err := d.RenderNetwork(c.n, c.h)
				if err != nil {
					t.Fatal(err)
				}
				own, err := d.RenderEndpoint(c.n, e, c.h)
				if err != nil {
					t.Fatal(err)
				}
				if why := d.SlowPath(c.n, e, c.h); (why == "") != (fast(own) != "") ||
					name == "off" && !strings.Contains(why, "fastpath=off") {
					t.Errorf("slow by %q, with %q", why, fast(own))
				}
				p := peer(t, d, c.n, c.h, true)
				if d.Name() == "host-gw" && name == "underlay6" {
					p.Prefixes = p.Prefixes[1:] // routes carry their own family
				}
				way, err := d.RenderPeer(c.n, p, c.h)
				if err != nil {
					t.Fatal(err)
				}
				golden.Equal(t, "fast-"+d.Name()+"-"+name+".txt", fmt.Sprintf("# network\n%s# endpoint\n%s# peer\n%s",
					fast(shared), fast(own), fast(way)))
			})
		}
	}
}
