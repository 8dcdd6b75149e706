package bridge_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Static routes lead to what is behind a router on the network, for endpoints that provide their sandbox's default
// route and for others, and by the address that was asked.
func TestStaticRoutes(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("front", options("source-validation", "false",
			"routes", "10.99.0.0/24,via=10.1.0.5 10.98.0.1/32 fd99::/64,via=fd01::5 fd98::1/128"))
		w.network("vault", func(n *cnm.Network) {
			options("source-validation", "false", "routes", "10.97.0.0/24,via=10.2.0.5")(n)
			n.Internal = true
		})
		w.network("other", nil)
		w.box("r", "front", 5)
		w.add(plan.State{Namespaces: []plan.Namespace{{Name: "plain"}, {Name: "second"}}})
		w.add(w.endpoint("front", 2, cnm.Endpoint{NetNS: "plain", Plain: true}))
		w.add(w.endpoint("front", 3, cnm.Endpoint{NetNS: "second", Index: 1}))
		w.add(w.endpoint("other", 2, cnm.Endpoint{NetNS: "second", Plain: true}))
		w.box("i", "vault", 2)
		w.box("ir", "vault", 5)
		w.converge()
		for _, a := range []string{"10.99.0.1/32", "10.98.0.1/32", "fd99::1/128", "fd98::1/128"} {
			w.must("r", "ip", "addr", "add", a, "dev", "eth0", "nodad")
		}
		w.must("ir", "ip", "addr", "add", "10.97.0.1/32", "dev", "lo")
		w.serve("r", 80)
		w.serve("ir", 80)
		for from, seen := range map[string]string{"plain": "2", "second": "3"} {
			for _, to := range []string{"10.99.0.1:80", "10.98.0.1:80", "[fd99::1]:80", "[fd98::1]:80"} {
				got := w.reaches(from, "tcp", to, "r")
				if !strings.HasSuffix(got, "saw 10.1.0."+seen) && !strings.HasSuffix(got, "saw fd01::"+seen) {
					t.Errorf("from %s to %s: %q", from, to, got)
				}
			}
		}
		w.reaches("i", "tcp", "10.97.0.1:80", "ir")
		if out := w.must("r", "ip", "route", "show", "10.99.0.0/24"); out != "" {
			t.Errorf("the router has a route to itself: %s", out)
		}
	})
}
