package bridge_test

import (
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// A network without IPv4 does by IPv6 all that others do.
func TestIPv6OnlyNetworks(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		six := func(n *cnm.Network) { n.IPv4, n.Pools = false, n.Pools[1:] }
		w.network("front", six)
		w.network("back", six)
		w.network("vault", func(n *cnm.Network) { six(n); n.Internal = true })
		w.network("open", func(n *cnm.Network) { options("gateway-mode", "routed")(n); six(n) })
		w.box("a", "front", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1},
			cnm.PortMapping{Proto: plan.UDP, HostPort: 8080, Port: 80, Count: 1})
		w.box("b", "front", 3)
		w.box("c", "back", 2)
		w.box("i", "vault", 2)
		w.box("j", "vault", 3)
		w.box("o", "open", 2)
		w.converge()
		for _, box := range []string{"a", "c", "j", "o", "outside"} {
			w.serve(box, 80)
		}
		for _, of := range []string{"vlb-00000001", "vlb-00000003"} {
			if out := w.must("", "ip", "-4", "addr", "show", "dev", of); out != "" {
				t.Errorf("%s has an IPv4 address: %s", of, out)
			}
		}
		if out := w.must("a", "ip", "-4", "addr", "show", "dev", "eth0"); out != "" {
			t.Errorf("a has an IPv4 address: %s", out)
		}
		for _, proto := range []string{"tcp", "udp"} {
			w.reaches("b", proto, "[fd01::2]:80", "a")
			w.reaches("i", proto, "[fd03::3]:80", "j")
			w.reaches("b", proto, "[2001:db8::2]:80", "outside")
			w.reaches("outside", proto, "[fd04::2]:80", "o")
			for _, from := range []string{"", "a", "b", "c", "outside"} {
				w.reaches(from, proto, "[2001:db8::1]:8080", "a")
			}
			w.reaches("", proto, "[::1]:8080", "a")
			w.reaches("outside", proto, "192.0.2.1:8080", "") // held, and led nowhere
			w.reaches("b", proto, "[fd02::2]:80", "")
			w.reaches("outside", proto, "[fd01::2]:80", "")
			w.reaches("i", proto, "[2001:db8::2]:80", "")
		}
	})
}
