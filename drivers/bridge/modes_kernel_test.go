package bridge_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// options sets options by pairs of name and value.
func options(kv ...string) func(*cnm.Network) {
	return func(n *cnm.Network) {
		n.Options = map[string]string{}
		for i := 0; i < len(kv); i += 2 {
			n.Options[kv[i]] = kv[i+1]
		}
	}
}

// modeReach is what one family of a gateway mode lets pass.
type modeReach struct {
	masqueraded bool // outside sees the host
	open        bool // outside reaches every port
}

// familyReach checks a box "x" of a network, whose address is given, in one family.
func (w *world) familyReach(x netip.Addr, want modeReach) {
	w.tb.Helper()
	out, seen, hostPort := "192.0.2.2:80", "192.0.2.1", "192.0.2.1:8080"
	if x.Is6() {
		out, seen, hostPort = "[2001:db8::2]:80", "2001:db8::1", "[2001:db8::1]:8080"
	}
	if !want.masqueraded {
		seen = x.String()
	}
	to := netip.AddrPortFrom(x, 80).String()
	for _, proto := range []string{"tcp", "udp"} {
		if got := w.reaches("x", proto, out, "outside"); got != "outside saw "+seen {
			w.tb.Errorf("%s from %s: %q, want the outside to see %s", proto, x, got, seen)
		}
		from := ""
		if want.open {
			from = "x"
		}
		w.reaches("outside", proto, to, from)
		w.reaches("a", proto, to, "")
		w.reaches("", proto, to, "x")
	}
	if got := w.reaches("outside", "tcp", hostPort, "x"); !strings.HasSuffix(got, "saw 192.0.2.2") &&
		!strings.HasSuffix(got, "saw 2001:db8::2") {
		w.tb.Errorf("a published port: %q, want the client's own address", got)
	}
}

// Each family has its own gateway mode, by both kinds of names.
func TestGatewayModes(t *testing.T) {
	nat, unprotected := modeReach{masqueraded: true}, modeReach{masqueraded: true, open: true}
	routed := modeReach{open: true}
	for name, c := range map[string]struct {
		options []string
		v4, v6  modeReach
	}{
		"nat-unprotected": {[]string{"gateway-mode", "nat-unprotected"}, unprotected, unprotected},
		"routed IPv4":     {[]string{"gateway-mode-ipv4", "routed"}, routed, nat},
		"routed IPv6":     {[]string{"com.docker.network.bridge.gateway_mode_ipv6", "routed"}, nat, routed},
		"unprotected IPv6": {[]string{"gateway-mode", "routed", "gateway-mode-ipv6", "nat-unprotected"},
			routed, unprotected},
		"not masqueraded": {[]string{"gateway-mode-ipv4", "nat-unprotected", "masquerade", "false"}, routed,
			modeReach{}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, false)
			w.network("front", nil)
			w.network("mode", options(c.options...))
			w.box("a", "front", 2)
			w.box("x", "mode", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
			w.converge()
			w.serve("x", 80)
			w.serve("outside", 80)
			w.familyReach(netip.MustParseAddr("10.2.0.2"), c.v4)
			w.familyReach(netip.MustParseAddr("fd02::2"), c.v6)
		})
	}
}

// isolated makes a network as the controller makes those that have no gateway in some families.
func isolated(kv ...string) func(*cnm.Network) {
	return func(n *cnm.Network) {
		options(kv...)(n)
		n.Internal = true
		for i, p := range n.Pools {
			o := n.Options
			family := map[bool]string{true: "gateway-mode-ipv4", false: "gateway-mode-ipv6"}[p.Subnet.Addr().Is4()]
			if o["gateway-mode"] == "isolated" || o[family] == "isolated" {
				n.Pools[i].Gateway = netip.Addr{}
			}
		}
	}
}

// An isolated network is one that the host has no address on, in the families that are: who is on it reaches
// neighbours alone.
func TestIsolatedNetworks(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("alone", isolated("gateway-mode", "isolated"))
		w.network("half", isolated("gateway-mode-ipv6", "isolated"))
		w.box("i", "alone", 2)
		w.box("j", "alone", 1) // no gateway has this address
		w.box("h", "half", 2)
		w.converge()
		w.serve("j", 80)
		w.serve("", 7000)
		for _, bridge := range []string{"vlb-00000001", "vlb-00000002"} {
			if out := w.must("", "ip", "-6", "addr", "show", "dev", bridge); out != "" {
				t.Errorf("%s has an IPv6 address: %s", bridge, out)
			}
		}
		if out := w.must("", "ip", "-4", "addr", "show", "dev", "vlb-00000001"); out != "" {
			t.Errorf("the isolated network's bridge has an IPv4 address: %s", out)
		}
		for _, proto := range []string{"tcp", "udp"} {
			w.reaches("i", proto, "10.1.0.1:80", "j")
			w.reaches("i", proto, "[fd01::1]:80", "j")
			w.reaches("", proto, "10.1.0.1:80", "")
			w.reaches("outside", proto, "10.1.0.1:80", "")
			w.reaches("outside", proto, "[fd01::1]:80", "")
		}
		w.reaches("h", "tcp", "10.2.0.1:7000", "host")
		// Whoever makes himself a way out, and knows the bridge's hardware address, gets nowhere either.
		mac := strings.Fields(w.must("", "ip", "-br", "link", "show", "vlb-00000001"))[2]
		for _, c := range [][]string{
			{"ip", "route", "add", "192.0.2.1", "dev", "eth0"},
			{"ip", "route", "add", "default", "via", "10.1.0.9"},
			{"ip", "-6", "route", "add", "default", "via", "fd01::9"},
		} {
			w.must("i", c...)
		}
		w.pings("i", "192.0.2.1", false) // the host answers no ARP for its other addresses
		if out := w.must("i", "ip", "neigh", "show", "192.0.2.1"); strings.Contains(out, "lladdr") {
			t.Errorf("the host told its hardware address: %s", out)
		}
		for _, to := range []string{"10.1.0.9", "fd01::9"} {
			w.must("i", "ip", "neigh", "replace", to, "lladdr", mac, "dev", "eth0", "nud", "permanent")
		}
		for _, to := range []string{"192.0.2.9:7000", "192.0.2.2:80", "[2001:db8::1]:7000", "[2001:db8::2]:80",
			"10.2.0.2:80", "10.2.0.1:7000"} {
			w.reaches("i", "tcp", to, "")
			w.reaches("i", "udp", to, "")
		}
	})
}
