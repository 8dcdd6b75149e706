package bridge_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/plan"
)

// firewalls are what a plan's rules can be in. Each must let through and stop the same.
func firewalls(t *testing.T, f func(*testing.T, kern.Config)) {
	for _, cfg := range []kern.Config{
		{Firewall: kern.Nftables},
		{Firewall: kern.Iptables, Variant: "legacy"},
		{Firewall: kern.Iptables, Variant: "nft"},
	} {
		t.Run(strings.TrimSuffix(cfg.Firewall+"-"+cfg.Variant, "-"), func(t *testing.T) { f(t, cfg) })
	}
}

// reach is who gets an answer of whom, by the other's own addresses. The same holds for both families, TCP and UDP.
// There are two containers each on front, on vault (internal), on quiet (icc=false) and on alone (isolated), and one
// each on back, on open (routed) and on bare (nat-unprotected).
func reach() map[string]string {
	return map[string]string{
		"host":    "front1 front2 back1 vault1 vault2 quiet1 quiet2 open1 bare1 outside",
		"outside": "host open1 bare1",
		"front1":  "host front2 outside",
		"front2":  "host front1 outside",
		"back1":   "host outside",
		"vault1":  "vault2",
		"vault2":  "vault1",
		"quiet1":  "host outside",
		"quiet2":  "host outside",
		"open1":   "host outside",
		"bare1":   "host outside",
		"alone1":  "alone2",
		"alone2":  "alone1",
	}
}

// published is who gets an answer by a port of the host's.
func published() []struct{ box, ports, from string } {
	return []struct{ box, ports, from string }{
		{"front1", "8081 9005 9115", "host outside front1 front2 back1 quiet1 quiet2 open1 bare1"},
		{"back1", "8082", "host outside front1 front2 back1 quiet1 quiet2 open1 bare1"},
		{"quiet1", "8083", "host outside front1 front2 back1 quiet1 quiet2 open1 bare1"},
		{"front1", "8084 9205", "outside"},
	}
}

// conformWorld makes the networks and containers of the suite.
func conformWorld(t *testing.T, cfg kern.Config, bridgeNetfilter bool) *world {
	w := newWorldOf(t, cfg, bridgeNetfilter)
	network := func(name string, options ...string) {
		w.network(name, func(n *cnm.Network) {
			if name == "alone" {
				isolated("gateway-mode", "isolated")(n)
			}
			n.Internal = n.Internal || name == "vault"
			n.Options = map[string]string{"source-validation": "false"} // iptables has none for IPv6
			for i := 0; i < len(options); i += 2 {
				n.Options[options[i]] = options[i+1]
			}
		})
	}
	network("front")
	network("back")
	network("vault")
	network("quiet", "icc", "false")
	network("open", "gateway-mode", "routed")
	network("bare", "gateway-mode", "nat-unprotected")
	network("alone", "gateway-mode", "isolated")
	only := []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("2001:db8::2/128")}
	publish := func(host, port, count uint16, from ...netip.Prefix) cnm.PortMapping {
		return cnm.PortMapping{Proto: plan.TCP, HostPort: host, Port: port, Count: count, From: from}
	}
	both := func(ports ...cnm.PortMapping) []cnm.PortMapping {
		for _, p := range slices.Clone(ports) {
			p.Proto = plan.UDP
			ports = append(ports, p)
		}
		return ports
	}
	w.box("front1", "front", 2, both(publish(8081, 80, 1), publish(9000, 9000, 11), publish(9110, 8995, 11),
		publish(8084, 80, 1, only...), publish(9200, 9200, 11, only...))...)
	w.box("front2", "front", 3)
	w.box("back1", "back", 2, both(publish(8082, 80, 1))...)
	w.box("vault1", "vault", 2)
	w.box("vault2", "vault", 3)
	w.box("quiet1", "quiet", 2, both(publish(8083, 80, 1))...)
	w.box("quiet2", "quiet", 3)
	w.box("open1", "open", 2)
	w.box("bare1", "bare", 2)
	w.box("alone1", "alone", 2)
	w.box("alone2", "alone", 3)
	w.converge()
	return w
}

// conformAddrs are the addresses of the suite's boxes.
func conformAddrs() map[string][]string {
	out := map[string][]string{"host": {"192.0.2.1", "[2001:db8::1]"}, "outside": {"192.0.2.2", "[2001:db8::2]"}}
	for i, boxes := range [][]string{{"front1", "front2"}, {"back1"}, {"vault1", "vault2"}, {"quiet1", "quiet2"},
		{"open1"}, {"bare1"}, {"alone1", "alone2"}} {
		for j, box := range boxes {
			out[box] = []string{fmt.Sprintf("10.%d.0.%d", i+1, j+2), fmt.Sprintf("[fd0%d::%d]", i+1, j+2)}
		}
	}
	return out
}

// probe is one question, and who must answer: "" nobody.
type probe struct{ from, network, to, box string }

// TestFirewallConformance asks from everywhere to everywhere, with each firewall.
func TestFirewallConformance(t *testing.T) {
	firewalls(t, func(t *testing.T, cfg kern.Config) { conforms(t, conformWorld(t, cfg, false)) })
}

// TestFramesConform lets frames within a network run through the rules of iptables too.
func TestFramesConform(t *testing.T) {
	w := conformWorld(t, kern.Config{Firewall: kern.Iptables, Variant: "legacy"}, true)
	w.serve("front2", 80)
	w.serve("quiet2", 80)
	var probes []probe
	for _, to := range []string{"10.1.0.3:80", "[fd01::3]:80"} {
		probes = append(probes, probe{"front1", "tcp", to, "front2"}, probe{"front1", "udp", to, "front2"})
	}
	for _, to := range []string{"10.4.0.3:80", "[fd04::3]:80"} {
		probes = append(probes, probe{"quiet1", "tcp", to, ""}, probe{"quiet1", "udp", to, ""})
	}
	w.askAll(probes)
}

func conforms(t *testing.T, w *world) {
	t.Helper()
	for box := range conformAddrs() {
		w.serve(hostName(box), 80)
	}
	w.serve("front1", 9005)
	w.serve("front1", 9000) // 9115 leads there
	w.serve("front1", 9205)
	// One that makes itself a way out has none all the same.
	w.must("vault1", "ip", "route", "add", "default", "via", "10.3.0.1")
	w.must("vault1", "ip", "-6", "route", "add", "default", "via", "fd03::1")
	w.askAll(conformProbes())
	w.sourcesSeen()
}

// hostName is the name of a box in the world: the host's has none.
func hostName(box string) string {
	if box == "host" {
		return ""
	}
	return box
}

func conformProbes() []probe {
	var out []probe
	add := func(from, addr, port, box string, answers bool) {
		if !answers {
			box = ""
		}
		for _, network := range []string{"tcp", "udp"} {
			if network == "udp" && box == "host" && from != "outside" {
				continue // it answers from the gateway's address, whichever was asked
			}
			out = append(out, probe{hostName(from), network, addr + ":" + port, box})
		}
	}
	for from, reached := range reach() {
		for box, addrs := range conformAddrs() {
			if box == from {
				continue
			}
			for _, a := range addrs {
				add(from, a, "80", box, slices.Contains(strings.Fields(reached), box))
			}
		}
		for _, p := range published() {
			for _, a := range conformAddrs()["host"] {
				for port := range strings.FieldsSeq(p.ports) {
					add(from, a, port, p.box, slices.Contains(strings.Fields(p.from), from))
				}
			}
		}
	}
	// Loopback, and the gateway of an internal network, which is all of the host that it reaches.
	for _, a := range []string{"127.0.0.1", "127.9.9.9", "[::1]"} {
		add("host", a, "8081", "front1", true)
	}
	add("vault1", "10.3.0.1", "80", "host", true)
	add("vault1", "[fd03::1]", "80", "host", true)
	return out
}

// askAll asks many at a time: what is dropped takes a while to tell.
func (w *world) askAll(probes []probe) {
	w.tb.Helper()
	type result struct {
		probe
		got string
	}
	results := make(chan result, len(probes))
	slots := make(chan struct{}, 64)
	var all sync.WaitGroup
	for _, p := range probes {
		all.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			patience := await.Patience
			if p.box == "" {
				patience = 300 * time.Millisecond // what is dropped stays silent
			}
			results <- result{p, w.ask(p.from, p.network, p.to, netip.Addr{}, patience)}
		})
	}
	all.Wait()
	close(results)
	for r := range results {
		if who, _, _ := strings.Cut(r.got, " saw "); who != r.box {
			w.tb.Errorf("%s from %q to %s: got %q, want an answer of %q", r.network, r.from, r.to, r.got, r.box)
		}
	}
}

// sourcesSeen checks whose address the other end sees.
func (w *world) sourcesSeen() {
	w.tb.Helper()
	for _, c := range []struct{ from, to, sees string }{
		{"front1", "192.0.2.2:80", "192.0.2.1"}, // masqueraded
		{"front1", "[2001:db8::2]:80", "2001:db8::1"},
		{"open1", "192.0.2.2:80", "10.5.0.2"}, // routed
		{"open1", "[2001:db8::2]:80", "fd05::2"},
		{"bare1", "192.0.2.2:80", "192.0.2.1"},     // masqueraded all the same
		{"outside", "192.0.2.1:8081", "192.0.2.2"}, // the client's is kept
		{"outside", "[2001:db8::1]:9005", "2001:db8::2"},
		{"front1", "10.1.0.3:80", "10.1.0.2"},
		{"front1", "192.0.2.1:8081", "10.1.0.1"}, // a hairpin
		{"", "127.0.0.1:8081", "10.1.0.1"},
		{"", "[::1]:8081", "fd01::1"},
		{"", "192.0.2.1:8081", "192.0.2.1"}, // the host itself, by another of its addresses
		{"", "[2001:db8::1]:8081", "2001:db8::1"},
		{"front2", "192.0.2.1:8081", "10.1.0.1"}, // a neighbour
		{"front2", "[2001:db8::1]:8081", "fd01::1"},
		{"back1", "192.0.2.1:8081", "10.1.0.1"}, // another network
		{"back1", "[2001:db8::1]:8081", "fd01::1"},
	} {
		if got := w.reaches(c.from, "tcp", c.to, w.answerer(c.to)); !strings.HasSuffix(got, " saw "+c.sees) {
			w.tb.Errorf("from %q to %s: %q, want it to see %s", c.from, c.to, got, c.sees)
		}
	}
}

func (w *world) answerer(to string) string {
	switch {
	case strings.HasSuffix(to, ":8081"), strings.HasSuffix(to, ":9005"):
		return "front1"
	case strings.HasPrefix(to, "10.1.0.3"):
		return "front2"
	}
	return "outside"
}

// TestFirewallsValidateSources is [TestSourceValidation] without IPv6, which iptables has none for.
func TestFirewallsValidateSources(t *testing.T) {
	firewalls(t, func(t *testing.T, cfg kern.Config) {
		w := newWorldOf(t, cfg, false)
		for _, name := range []string{"front", "lax"} {
			w.network(name, func(n *cnm.Network) {
				n.IPv6, n.Pools = false, n.Pools[:1]
				n.Options = map[string]string{"source-validation": fmt.Sprint(name == "front")}
			})
		}
		w.box("a", "front", 2)
		w.box("b", "front", 3)
		w.box("la", "lax", 2)
		w.box("lb", "lax", 3)
		w.converge()
		w.serve("a", 80)
		w.serve("la", 80)
		for _, c := range []struct {
			victim, attacker, net4 string
			passes                 bool
		}{{"a", "b", "10.1.0.", false}, {"la", "lb", "10.2.0.", true}} {
			w.must(c.attacker, "ip", "addr", "add", c.net4+"66/24", "dev", "eth0")
			patience := 300 * time.Millisecond
			if c.passes {
				patience = await.Patience
			}
			got := w.ask(c.attacker, "tcp", c.net4+"2:80", netip.MustParseAddr(c.net4+"66"), patience)
			if (got != "") != c.passes {
				t.Errorf("from a false source: got %q, want through=%v", got, c.passes)
			}
			w.poisonsARP(c.attacker, c.net4, c.passes)
			w.teachesBridge(c.victim, c.attacker, c.passes)
			w.changesMAC(c.victim, c.attacker, c.net4, c.passes)
		}
	})
}
