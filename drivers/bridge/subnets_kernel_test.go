package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// further gives a network a second subnet of each family.
func further(n *cnm.Network) {
	for _, s := range []string{"10.50.0.0/24", "fd50::/64"} {
		p := netip.MustParsePrefix(s)
		pool := cnm.Pool{Subnet: p, Range: p}
		if !n.Internal {
			pool.Gateway = p.Addr().Next()
		}
		n.Pools = append(n.Pools, pool)
	}
}

// Containers in different subnets of a network are neighbours, and each subnet leads out by a gateway of its own.
func TestSeveralSubnetsOfANetwork(t *testing.T) {
	second := []netip.Prefix{netip.MustParsePrefix("10.50.0.2/24"), netip.MustParsePrefix("fd50::2/64")}
	for _, internal := range []bool{false, true} {
		t.Run(map[bool]string{false: "bridge", true: "internal"}[internal], func(t *testing.T) {
			bothNetfilters(t, func(t *testing.T, w *world) {
				w.network("wide", func(n *cnm.Network) { n.Internal = internal; further(n) })
				w.network("other", nil)
				w.box("a", "wide", 2)
				w.box("o", "other", 2)
				w.add(plan.State{Namespaces: []plan.Namespace{{Name: "b"}}})
				e := cnm.Endpoint{NetNS: "b", Addrs: second}
				if !internal {
					e.Ports = []cnm.PortMapping{{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1}}
				}
				w.add(w.endpoint("wide", 9, e))
				w.converge()
				for _, box := range []string{"a", "b", "outside"} {
					w.serve(box, 80)
				}
				for _, c := range [][3]string{
					{"a", "10.50.0.2:80", "b saw 10.1.0.2"}, {"a", "[fd50::2]:80", "b saw fd01::2"},
					{"b", "10.1.0.2:80", "a saw 10.50.0.2"}, {"b", "[fd01::2]:80", "a saw fd50::2"},
				} {
					for _, proto := range []string{"tcp", "udp"} {
						if got := w.reaches(c[0], proto, c[1], c[2][:1]); got != c[2] {
							t.Errorf("%s from %s to %s: %q, want %q", proto, c[0], c[1], got, c[2])
						}
					}
				}
				w.reaches("o", "tcp", "10.50.0.2:80", "")
				w.reaches("outside", "tcp", "[fd50::2]:80", "")
				if internal {
					w.reaches("b", "tcp", "192.0.2.2:80", "")
					return
				}
				w.pings("b", "10.50.0.1", true)
				for _, to := range []string{"192.0.2.2:80", "[2001:db8::2]:80"} {
					got := w.reaches("b", "tcp", to, "outside")
					if !strings.HasSuffix(got, "saw 192.0.2.1") && !strings.HasSuffix(got, "saw 2001:db8::1") {
						t.Errorf("outside: %q, want the host's address", got)
					}
				}
				for _, to := range []string{"192.0.2.1:8080", "[2001:db8::1]:8080"} {
					w.reaches("outside", "tcp", to, "b")
					w.reaches("a", "tcp", to, "b")
				}
			})
		})
	}
}
