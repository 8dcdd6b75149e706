package routed

import (
	"fmt"
	"net/netip"
	"slices"
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

// TestRulesAtTheUplink tells what takes the fast path where rules of others are about the link to other nodes: nothing
// that has no tunnel, and nothing at all where a chain is at it.
func TestRulesAtTheUplink(t *testing.T) {
	for _, d := range drivers() {
		n, h := network(d, true), host(true, true)
		h.Fast = true
		for name, c := range map[string]struct {
			f     cnm.Filters
			peers func(plan.FastWay) bool
		}{
			"none":   {cnm.Filters{}, func(plan.FastWay) bool { return true }},
			"a rule": {cnm.Filters{Links: []string{"eth0"}}, func(w plan.FastWay) bool { return w != plan.FastPlain }},
			"IPsec":  {cnm.Filters{IPsec: true}, func(plan.FastWay) bool { return false }},
			"a chain": {cnm.Filters{Links: []string{"eth0"}, Devices: []string{"eth0"}},
				func(plan.FastWay) bool { return false }},
		} {
			h.Filters = cnm.Filters{}
			all, err := d.RenderPeer(n, peer(t, d, n, h, true), h)
			if err != nil {
				t.Fatal(err)
			}
			var want []plan.FastPeer
			for _, p := range all.Fast.Peers {
				if c.peers(p.Way) {
					want = append(want, p)
				}
			}
			h.Filters = c.f
			s, err := d.RenderPeer(n, peer(t, d, n, h, true), h)
			if err != nil || len(all.Fast.Peers) == 0 || !slices.Equal(s.Fast.Peers, want) {
				t.Errorf("%s, %s: %v, %v; want %v", d.Name(), name, s.Fast.Peers, err, want)
			}
			s, err = d.RenderNetwork(n, h)
			if err != nil || len(s.Fast.Programs) > 0 == (c.f.IPsec || c.f.At("eth0")) {
				t.Errorf("%s, %s: programs %v, %v", d.Name(), name, s.Fast.Programs, err)
			}
		}
	}
}
