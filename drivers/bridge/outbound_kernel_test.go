package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/plan"
)

// What the outside sees of a container is the address that was chosen: for it, or else for its network.
func TestOutboundAddresses(t *testing.T) {
	firewalls(t, func(t *testing.T, cfg kern.Config) {
		w := newWorldOf(t, cfg, false)
		more := []string{"2001:db8::9/64", "2001:db8::a/64"}
		for _, a := range more {
			w.add(plan.State{Addrs: []plan.Addr{{Link: "up0", Prefix: netip.MustParsePrefix(a)}}})
		}
		w.network("front", func(n *cnm.Network) {
			n.Options = map[string]string{"outbound-ip": "192.0.2.9", "outbound-ip6": "2001:db8::9",
				"source-validation": "false"}
		})
		w.network("back", option("source-validation", "false"))
		w.box("a", "front", 2)
		own := func(addrs ...string) cnm.Endpoint {
			var e cnm.Endpoint
			for _, a := range addrs {
				e.Outbound = append(e.Outbound, netip.MustParseAddr(a))
			}
			return e
		}
		for name, at := range map[string]struct {
			network string
			e       cnm.Endpoint
		}{"b": {"front", own("192.0.2.1", "2001:db8::a")}, "c": {"back", own("192.0.2.9", "2001:db8::9")},
			"d": {"back", own()}} {
			w.add(plan.State{Namespaces: []plan.Namespace{{Name: plan.NetNS(name)}}})
			at.e.NetNS = plan.NetNS(name)
			w.add(w.endpoint(at.network, 3+len(at.e.Outbound)*10, at.e))
		}
		w.converge()
		w.serve("outside", 80)
		w.serve("a", 80)
		for box, want := range map[string][2]string{
			"a": {"192.0.2.9", "2001:db8::9"}, "b": {"192.0.2.1", "2001:db8::a"}, "c": {"192.0.2.9", "2001:db8::9"},
			"d": {"192.0.2.1", ""}, // the link's
		} {
			for i, to := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
				for _, network := range []string{"tcp", "udp"} {
					got := w.reaches(box, network, to, "outside")
					if want[i] != "" && !strings.HasSuffix(got, "saw "+want[i]) {
						t.Errorf("%s from %s: outside %s, want %s", network, box, got, want[i])
					}
				}
			}
		}
		// Neighbours know each other by their own addresses.
		if got := w.reaches("b", "tcp", "10.1.0.2:80", "a"); !strings.HasSuffix(got, "saw 10.1.0.23") {
			t.Errorf("a neighbour %s", got)
		}
	})
}
