package bridge_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

func option(name, value string) func(*cnm.Network) {
	return func(n *cnm.Network) { n.Options = map[string]string{name: value} }
}

// bothNetfilters runs a test with bridged frames hidden from and shown to the
// host's IPv4 firewall.
func bothNetfilters(t *testing.T, f func(*testing.T, *world)) {
	for _, on := range []bool{false, true} {
		t.Run(fmt.Sprintf("bridge-nf-call-iptables=%v", on), func(t *testing.T) { f(t, newWorld(t, on)) })
	}
}

func TestContainersReachEachOther(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("front", nil)
		w.network("back", nil)
		w.network("quiet", option("icc", "false"))
		w.box("a", "front", 2)
		w.box("b", "front", 3)
		w.box("c", "back", 2)
		w.box("q", "quiet", 2)
		w.box("r", "quiet", 3)
		w.converge()
		for _, box := range []string{"a", "b", "c", "q", "r"} {
			w.serve(box, 80)
		}
		w.serve("", 7000)
		w.serve("outside", 80)
		w.pings("a", "10.1.0.3", true)
		w.pings("a", "fd01::3", true)
		w.reaches("a", "tcp", "10.1.0.3:80", "b")
		w.reaches("a", "tcp", "[fd01::3]:80", "b")
		w.reaches("", "tcp", "10.1.0.3:80", "b")
		w.reaches("", "tcp", "[fd01::3]:80", "b")
		w.reaches("a", "tcp", "10.1.0.1:7000", "host")
		for _, p := range []string{"tcp", "udp"} { // hidden behind the host's address
			if got := w.reaches("a", p, "192.0.2.2:80", "outside"); !strings.HasSuffix(got, "saw 192.0.2.1") {
				t.Errorf("outside %s", got)
			}
			if got := w.reaches("a", p, "[2001:db8::2]:80", "outside"); !strings.HasSuffix(got, "saw 2001:db8::1") {
				t.Errorf("outside %s", got)
			}
		}
		for _, to := range []string{"10.2.0.2:80", "[fd02::2]:80"} { // another network, and from outside
			w.reaches("a", "tcp", to, "")
			w.reaches("outside", "tcp", to, "")
		}
		w.pings("a", "10.2.0.2", false)
		w.pings("outside", "fd01::2", false)
		w.reaches("q", "tcp", "10.3.0.3:80", "") // icc off
		w.reaches("q", "udp", "[fd03::3]:80", "")
		w.pings("q", "10.3.0.1", true)
		w.reaches("q", "tcp", "192.0.2.2:80", "outside")
	})
}

func TestInternalAndRoutedNetworks(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("front", nil)
		w.network("vault", func(n *cnm.Network) { n.Internal = true })
		w.network("open", option("gateway-mode", "routed"))
		w.box("a", "front", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
		w.box("i", "vault", 2)
		w.box("j", "vault", 3)
		w.box("o", "open", 2)
		w.converge()
		for _, box := range []string{"a", "i", "j", "o", "outside"} {
			w.serve(box, 80)
		}
		w.serve("", 7000)
		if got := w.must("i", "ip", "route"); strings.Contains(got, "default") {
			t.Errorf("an internal container has a default route: %s", got)
		}
		// One that makes itself a way out has none all the same.
		w.must("i", "ip", "route", "add", "default", "via", "10.2.0.1")
		w.must("i", "ip", "-6", "route", "add", "default", "via", "fd02::1")
		w.reaches("i", "tcp", "10.2.0.3:80", "j")
		w.reaches("i", "tcp", "[fd02::3]:80", "j")
		w.pings("i", "10.2.0.1", true)
		w.pings("i", "fd02::1", true)
		w.reaches("i", "tcp", "[fd02::1]:7000", "host")
		for _, to := range []string{"192.0.2.1:7000", "192.0.2.2:80", "10.1.0.1:7000", "10.1.0.2:80", "10.2.0.1:8080",
			"192.0.2.1:8080", "[2001:db8::1]:7000", "[2001:db8::2]:80"} {
			w.reaches("i", "tcp", to, "")
		}
		w.reaches("a", "tcp", "10.2.0.3:80", "")
		w.reaches("outside", "tcp", "[fd02::3]:80", "")

		// Routed: known outside by its own address, closed to other networks.
		if got := w.reaches("o", "tcp", "192.0.2.2:80", "outside"); !strings.HasSuffix(got, "saw 10.3.0.2") {
			t.Errorf("outside %s, want the container's own address", got)
		}
		w.reaches("outside", "tcp", "10.3.0.2:80", "o")
		w.reaches("outside", "udp", "[fd03::2]:80", "o")
		w.reaches("a", "tcp", "10.3.0.2:80", "")
	})
}

func TestPublishedPorts(t *testing.T) {
	at := netip.MustParseAddr
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("front", nil)
		w.network("back", nil)
		w.box("a", "front", 2,
			cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1},
			cnm.PortMapping{Proto: plan.UDP, HostPort: 8080, Port: 80, Count: 1},
			cnm.PortMapping{Proto: plan.TCP, HostPort: 9000, Port: 9000, Count: 11},
			cnm.PortMapping{Proto: plan.UDP, HostPort: 9100, Port: 8995, Count: 11},
			cnm.PortMapping{Proto: plan.TCP, HostIP: at("127.0.0.1"), HostPort: 8443, Port: 80, Count: 1},
			cnm.PortMapping{Proto: plan.TCP, HostIP: at("::1"), HostPort: 8443, Port: 80, Count: 1},
			cnm.PortMapping{Proto: plan.TCP, HostIP: at("192.0.2.9"), HostPort: 8444, Port: 80, Count: 1},
		)
		w.box("b", "front", 3)
		w.box("c", "back", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8446, Port: 80, Count: 1})
		w.converge()
		w.serve("a", 80)
		w.serve("c", 80)
		w.serve("a", 9005)

		for _, from := range []string{"", "a", "b", "c", "outside"} {
			to := []string{"192.0.2.1", "192.0.2.9", "[2001:db8::1]"}
			if from == "" {
				to = append(to, "127.0.0.1", "127.9.9.9", "[::1]", "10.1.0.1", "10.2.0.1", "[fd01::1]")
			}
			for _, host := range to {
				w.reaches(from, "tcp", host+":8080", "a")
				w.reaches(from, "udp", host+":8080", "a")
				w.reaches(from, "tcp", host+":9005", "a")
				w.reaches(from, "udp", host+":9110", "a")
			}
		}
		for _, from := range []string{"a", "b", "c"} { // by the gateway
			w.reaches(from, "tcp", "10.1.0.1:8080", "a")
			w.reaches(from, "tcp", "[fd01::1]:8080", "a")
		}
		for _, host := range []string{"127.0.0.1", "[::1]", "192.0.2.1"} { // another bridge's
			w.reaches("", "tcp", host+":8446", "c")
		}
		// The client's address is kept for those outside.
		if got := w.reaches("outside", "tcp", "192.0.2.1:8080", "a"); got != "a saw 192.0.2.2" {
			t.Errorf("got %q, want the client's own address", got)
		}
		w.publishedOnOneAddress()
	})
}

// publishedOnOneAddress checks that a port of one host address answers there and nowhere else.
func (w *world) publishedOnOneAddress() {
	w.tb.Helper()
	w.reaches("", "tcp", "127.0.0.1:8443", "a")
	w.reaches("", "tcp", "[::1]:8443", "a")
	w.reaches("outside", "tcp", "192.0.2.9:8444", "a")
	w.reaches("", "tcp", "192.0.2.9:8444", "a")
	for from, to := range map[string]string{"": "127.0.0.1:8444", "outside": "192.0.2.1:8444", "b": "10.1.0.1:8443",
		"c": "192.0.2.1:8443"} {
		w.reaches(from, "tcp", to, "")
	}
	w.reaches("outside", "tcp", "[2001:db8::1]:8443", "")
	// A neighbour that sends for 127.0.0.1 over the wire.
	w.must("outside", "ip", "addr", "del", "127.0.0.1/8", "dev", "lo")
	w.must("outside", "ip", "route", "add", "127.0.0.1/32", "via", "192.0.2.1", "src", "192.0.2.2")
	w.must("outside", "sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
	w.must("", "sysctl", "-qw", "net.ipv4.conf.up0.route_localnet=1")
	w.reaches("outside", "tcp", "127.0.0.1:8443", "")
}

// The rules that docs/networks.md shows, in a table of the user's own.
func TestOwnFirewallComesFirst(t *testing.T) {
	w := newWorld(t, false)
	w.network("front", nil)
	w.box("a", "front", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
	w.converge()
	w.serve("a", 80)
	w.serve("outside", 80)
	w.reaches("outside", "tcp", "192.0.2.1:8080", "a")
	w.must("", "nft", `table inet mine {
		chain published {
			type filter hook prerouting priority -150; policy accept;
			ct state established,related accept
			fib daddr type local tcp dport 8080 ip saddr != { 127.0.0.0/8, 198.51.100.0/24 } drop
		}
		chain leaving {
			type filter hook forward priority -10; policy accept;
			iifname "vlb-*" oifname != "vlb-*" ip daddr 192.0.0.0/8 drop
		}
	}`)
	w.reaches("outside", "tcp", "192.0.2.1:8080", "")
	w.reaches("", "tcp", "127.0.0.1:8080", "a")
	w.reaches("a", "tcp", "192.0.2.2:80", "")
	w.reaches("a", "tcp", "[2001:db8::2]:80", "outside")
}

// The network with the highest priority provides the default route, and the
// next one takes over when it goes.
func TestGatewayPriority(t *testing.T) {
	w := newWorld(t, false)
	w.network("front", nil)
	w.network("back", nil)
	w.network("vault", func(n *cnm.Network) { n.Internal = true })
	w.box("a", "front", 2)
	w.add(w.endpoint("vault", 2, cnm.Endpoint{NetNS: "a", Index: 2, GwPriority: 1000}))
	without := w.want
	w.add(w.endpoint("back", 2, cnm.Endpoint{NetNS: "a", Index: 1, GwPriority: 1}))
	by := func(family, to string) string {
		fields := strings.Fields(w.must("a", "ip", family, "route", "get", to))
		return fields[slices.Index(fields, "via")+1]
	}
	for _, step := range []struct {
		want   plan.State
		v4, v6 string
	}{{w.want, "10.2.0.1", "fd02::1"}, {without, "10.1.0.1", "fd01::1"}} {
		w.want = step.want
		w.converge()
		if got := by("-4", "192.0.2.2"); got != step.v4 {
			t.Errorf("IPv4 goes by %s, want %s", got, step.v4)
		}
		if got := by("-6", "2001:db8::2"); got != step.v6 {
			t.Errorf("IPv6 goes by %s, want %s", got, step.v6)
		}
		w.pings("a", "192.0.2.2", true)
		w.pings("a", "2001:db8::2", true)
	}
}

// A builtin network, which nobody asked for, hides no route of the host's to its subnet while nothing is on it.
func TestUnusedBuiltinNetworkHidesNothing(t *testing.T) {
	w := newWorld(t, false)
	w.network("bridge", func(n *cnm.Network) { n.Builtin = true })
	w.network("asked", nil)
	w.converge()
	for _, subnet := range []string{"10.1.0.0/24", "10.2.0.0/24"} {
		w.must("", "ip", "route", "add", subnet, "via", "192.0.2.2", "metric", "50")
	}
	leads := func(to, by string) {
		t.Helper()
		await.True(t, to+" is reached "+by, func() bool {
			return strings.Contains(w.must("", "ip", "route", "get", to), by)
		})
	}
	leads("10.1.0.9", "via 192.0.2.2")
	leads("10.2.0.9", "dev vlb-00000002")
	w.box("a", "bridge", 2)
	w.converge()
	leads("10.1.0.2", "dev vlb-00000001")
	w.pings("", "10.1.0.2", true)
}

// A box that takes the addresses of another one, with another hardware address, is reached at once: it announces them.
func TestAddressesOfANewEndpointAreAnnounced(t *testing.T) {
	w := newWorld(t, false)
	w.network("front", nil)
	w.box("a", "front", 2)
	base := w.want
	w.box("b", "front", 3)
	w.converge()
	for _, to := range []string{"10.1.0.3", "fd01::3"} {
		w.pings("a", to, true)
		w.pings("", to, true)
	}
	known := func(mac plan.MAC) bool {
		for _, box := range []string{"a", ""} {
			for _, to := range []string{"10.1.0.3", "fd01::3"} {
				if !strings.Contains(w.must(box, "ip", "neigh", "show", to), mac.String()) {
					return false
				}
			}
		}
		return true
	}
	if !known(plan.MAC{2, 0x42, 0, 0, 1, 3}) {
		t.Fatal("the first box is known to nobody: the test shows nothing")
	}
	w.want = base
	w.converge()
	next := plan.MAC{2, 0x42, 0, 0, 1, 77}
	s := w.endpoint("front", 3, cnm.Endpoint{NetNS: "c"})
	for i := range s.Links {
		s.Links[i].Peer.MAC = next
	}
	for i := range s.FDB {
		s.FDB[i].MAC = next
	}
	for i, e := range s.Rules.Elements {
		for k, key := range e.Keys {
			if key == (plan.MAC{2, 0x42, 0, 0, 1, 3}).String() {
				s.Rules.Elements[i].Keys[k] = next.String()
			}
		}
	}
	w.add(plan.State{Namespaces: []plan.Namespace{{Name: "c"}}})
	w.add(s)
	w.converge()
	await.True(t, "the neighbours know it by the new address", func() bool { return known(next) })
}
