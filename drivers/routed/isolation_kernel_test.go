package routed_test

import (
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/plan"
)

func TestNetworksAreApart(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		first, second := w.network(d, 1, hosts, with(options, false)), w.network(d, 2, hosts, with(options, false))
		last := hosts[len(hosts)-1]
		a := w.box(d, first[1], 1)
		near, far := w.box(d, second[1], 1), w.box(d, second[last], last)
		w.converge()
		w.serve(w.at(near), 80)
		w.serve(w.at(far), 80)
		for f := range a.addrs {
			w.silent(w.at(a), on(near.addrs[f], 80))
			w.silent(w.at(a), on(far.addrs[f], 80))
			w.reaches(w.at(near), on(far.addrs[f], 80), w.at(far), near.addrs[f]) // the way itself is there
		}
	})
}

func TestNoTrafficBetweenEndpoints(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		options["icc"] = "false"
		networks := w.network(d, 1, hosts, with(options, false))
		last := hosts[len(hosts)-1]
		a, b := w.box(d, networks[1], 1),
			w.box(d, networks[last], last, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
		w.converge()
		w.serve(w.at(b), 80)
		u := w.hosts[1].host.Uplink
		for f, published := range []netip.Addr{w.hosts[last].host.Uplink.Addr4, w.hosts[last].host.Uplink.Addr6} {
			w.silent(w.at(a), on(b.addrs[f], 80))
			// as from anywhere outside
			w.reaches(w.at(a), on(published, 8080), w.at(b), []netip.Addr{u.Addr4, u.Addr6}[f])
		}
	})
}

// A sender that can put packets into a tunnel gets to its network, and nowhere else. The same attacks succeed
// where the rules are gone, which shows that nothing else stops them.
func TestTunnelIsNoWayElsewhere(t *testing.T) {
	d := drivers()[1]
	w := newWorld(t)
	first, second := w.network(d, 1, []int{1, 2}, nil), w.network(d, 2, []int{1, 2}, nil)
	a, other := w.box(d, first[1], 1), w.box(d, second[1], 1)
	w.converge()
	victim, attacker := w.host(1), w.host(2)
	// Answers would find their way, and no reverse path filter helps.
	w.in(victim.path, "sh", "-ec", `for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done
		ip route add 10.9.9.9 via 10.1.2.0 dev vlx-00000001 onlink
		ip -6 route add fd99::9 via fd01:0:0:2:: dev vly-00000001 onlink`)
	w.in(attacker.path, "sh", "-ec", `for f in /proc/sys/net/ipv4/conf/*/rp_filter; do echo 0 > $f; done
		nft delete table inet vethloom; ip addr add 10.9.9.9/32 dev lo; ip -6 addr add fd99::9/128 dev lo nodad
		ip route replace 10.2.1.0/24 via 10.1.1.0 dev vlx-00000001 onlink
		ip -6 route replace fd02:0:0:1::/64 via fd01:0:0:1:: dev vly-00000001 onlink`)
	attacks := []struct{ source, to string }{
		{"10.9.9.9", a.addrs[0].String()}, {"fd99::9", a.addrs[1].String()}, // a foreign source
		{"10.9.9.9", "10.1.1.1"}, {"fd99::9", "fd01:0:0:1::1"}, // to the host itself
		{"10.1.2.0", other.addrs[0].String()}, {"fd01:0:0:2::", other.addrs[1].String()}, // to another network
		{"10.2.2.0", a.addrs[0].String()}, {"fd02:0:0:2::", a.addrs[1].String()}, // from another network
	}
	ping := func(source, to string) bool {
		_, err := w.try(attacker.path, "ping", "-n", "-c1", "-W1", "-I", source, to)
		return err == nil
	}
	for _, good := range []struct{ source, to string }{{"10.1.2.0", a.addrs[0].String()},
		{"fd01:0:0:2::", "fd01:0:0:1::1"}} {
		if !ping(good.source, good.to) {
			t.Errorf("no ping from %s to %s, which is allowed", good.source, good.to)
		}
	}
	for _, c := range attacks {
		if ping(c.source, c.to) {
			t.Errorf("a packet from %s got to %s", c.source, c.to)
		}
	}
	w.in(victim.path, "nft", "delete", "table", "inet", plan.Table)
	for _, c := range attacks {
		if !ping(c.source, c.to) {
			t.Errorf("without the rules a packet from %s does not get to %s: the attack proves nothing", c.source, c.to)
		}
	}
}

// Another tool's policy DROP takes the accepts that bridges need, and no others.
func TestForwardPolicyDrop(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		for _, n := range w.hosts {
			n.host.Filters.Forward = true // as netd finds it
		}
		networks := w.network(d, 1, hosts, with(options, false))
		last := hosts[len(hosts)-1]
		a, b := w.box(d, networks[1], 1), w.box(d, networks[last], last)
		for _, n := range w.hosts {
			w.in(n.path, "sh", "-ec", "iptables -P FORWARD DROP; ip6tables -P FORWARD DROP")
		}
		w.converge()
		w.serve(w.at(b), 80)
		w.silent(w.at(a), on(b.addrs[0], 80))
		for _, n := range w.hosts {
			accepts, err := n.kernel.NeededAccepts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			n.add(plan.State{Accepts: accepts})
		}
		w.converge()
		for f := range a.addrs {
			w.reaches(w.at(a), on(b.addrs[f], 80), w.at(b), a.addrs[f])
		}
	})
}

// Tunnels carry both families of a network over an underlay of one.
func TestUnderlayOfOneFamily(t *testing.T) {
	for _, d := range drivers()[1:] {
		for family, six := range map[string]bool{"IPv4": false, "IPv6": true} {
			t.Run(d.Name()+"/"+family, func(t *testing.T) {
				w := newWorld(t)
				for _, n := range w.hosts {
					if six {
						n.host.Uplink.Addr4 = netip.Addr{}
					} else {
						n.host.Uplink.Addr6 = netip.Addr{}
					}
				}
				networks := w.network(d, 1, []int{1, 3}, nil)
				a, b := w.box(d, networks[1], 1), w.box(d, networks[3], 3)
				w.converge()
				w.serve(w.at(b), 80)
				for f := range a.addrs {
					w.reaches(w.at(a), on(b.addrs[f], 80), w.at(b), a.addrs[f])
					if _, err := w.ask(w.host(1), on(b.addrs[f], 80), patience); err != nil {
						t.Errorf("no way from the host to %s: %v", b.addrs[f], err)
					}
				}
			})
		}
	}
}

// A device that somebody deletes comes back with its entries.
func TestDeletedDevice(t *testing.T) {
	for _, d := range drivers()[1:] {
		t.Run(d.Name(), func(t *testing.T) {
			w := newWorld(t)
			networks := w.network(d, 1, []int{1, 3}, nil)
			a, b := w.box(d, networks[1], 1), w.box(d, networks[3], 3)
			w.converge()
			w.serve(w.at(b), 80)
			w.in(w.hosts[1].path, "sh", "-ec", deleteLinks("vl[txy]-"))
			w.converge()
			for f := range a.addrs {
				w.reaches(w.at(a), on(b.addrs[f], 80), w.at(b), a.addrs[f])
			}
		})
	}
}
