package routed_test

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/plan"
)

// eachDriver runs a test with every driver and the hosts it joins: those on one link, for plain routes,
// and all three where there is a tunnel or direct-routing=true.
func eachDriver(t *testing.T, f func(t *testing.T, d routed.Driver, hosts []int, options map[string]string)) {
	for _, d := range drivers() {
		for _, direct := range []string{"", "true"} {
			t.Run(fmt.Sprintf("%s/direct-routing=%s", d.Name(), direct), func(t *testing.T) {
				hosts, options := []int{1, 2, 3}, map[string]string{}
				if direct != "" {
					options["direct-routing"] = direct
				} else if d.Name() == "host-gw" {
					hosts = hosts[:2]
				}
				f(t, d, hosts, options)
			})
		}
	}
}

func with(options map[string]string, internal bool) func(*cnm.Network) {
	return func(n *cnm.Network) { n.Options, n.Internal = options, internal }
}

func TestContainersOfAllHosts(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		networks := w.network(d, 1, hosts, with(options, false))
		boxes := map[int]box{}
		for _, id := range hosts {
			boxes[id] = w.box(d, networks[id], id, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
		}
		w.converge()
		w.serve(w.outside(), 80)
		for _, id := range hosts {
			w.serve(w.at(boxes[id]), 80)
			w.serve(w.host(id), 7000)
		}
		for _, from := range hosts {
			for _, to := range hosts {
				a, b := boxes[from], boxes[to]
				for f := range a.addrs {
					if from != to { // addresses are kept, in both directions
						w.reaches(w.at(a), on(b.addrs[f], 80), w.at(b), a.addrs[f])
						if !w.pings(w.at(a), b.addrs[f], 1200) {
							t.Errorf("no ping from %s to %s", a, b.addrs[f])
						}
						gw := networks[to].Pools[f].Gateway
						w.reaches(w.at(a), on(gw, 7000), w.host(to), a.addrs[f])
						w.reaches(w.at(a), on(gw, 8080), w.at(b), a.addrs[f]) // published there
						if _, err := w.ask(w.host(from), on(b.addrs[f], 80), patience); err != nil {
							t.Errorf("no way from host %d to %s: %v", from, b, err)
						}
					}
				}
			}
			// The world outside sees the host; the host publishes.
			u := w.hosts[from].host.Uplink
			lan := 1 + from/3
			w.reaches(w.at(boxes[from]), on(lan4(lan, 254), 80), w.outside(), u.Addr4)
			w.reaches(w.at(boxes[from]), on(lan6(lan, 254), 80), w.outside(), u.Addr6)
			w.reaches(w.outside(), on(u.Addr4, 8080), w.at(boxes[from]), lan4(lan, 254))
			w.reaches(w.outside(), on(u.Addr6, 8080), w.at(boxes[from]), lan6(lan, 254))
			// A published port of its own: the answers must come back through the host.
			w.reaches(w.at(boxes[from]), on(u.Addr4, 8080), w.at(boxes[from]), networks[from].Pools[0].Gateway)
		}
	})
}

func TestFullPacketsFit(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		networks := w.network(d, 1, hosts, with(options, false))
		boxes := map[int]box{}
		for _, id := range hosts {
			boxes[id] = w.box(d, networks[id], id)
		}
		w.converge()
		state, err := d.RenderNetwork(networks[1], w.hosts[1].host)
		if err != nil {
			t.Fatal(err)
		}
		mtu := state.Links[0].MTU
		for _, to := range hosts[1:] {
			for f, header := range []int{28, 48} {
				from, a := w.at(boxes[1]), boxes[to].addrs[f]
				if !w.pings(from, a, mtu-header) {
					t.Errorf("a packet of %d bytes does not get to %s unfragmented", mtu, a)
				}
				if w.pings(from, a, mtu-header+1) {
					t.Errorf("a packet of %d bytes got to %s: the MTU of its link is %d", mtu+1, a, mtu)
				}
			}
		}
	})
}

func TestInternalNetworks(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		networks := w.network(d, 1, hosts, with(options, true))
		boxes := map[int]box{}
		for _, id := range hosts {
			boxes[id] = w.box(d, networks[id], id)
		}
		w.converge()
		w.serve(w.outside(), 80)
		for _, id := range hosts {
			w.serve(w.at(boxes[id]), 80)
		}
		w.in(w.outside().path, "ip", "route", "add", "10.1.0.0/16", "via", "192.0.2.1")
		a, b := boxes[1], boxes[hosts[len(hosts)-1]]
		for f := range a.addrs {
			w.reaches(w.at(a), on(b.addrs[f], 80), w.at(b), a.addrs[f])
			w.reaches(w.at(b), on(a.addrs[f], 80), w.at(a), b.addrs[f])
		}
		w.in(a.path(), "ip", "route", "add", "192.0.2.0/24", "via", "10.1.1.1") // as a container with the right might
		w.silent(w.at(a), on(lan4(1, 254), 80))
		w.silent(w.outside(), on(a.addrs[0], 80))
	})
}

// What nobody leased must not leave by the default route, with the container's own address.
func TestUnleasedGoesNowhere(t *testing.T) {
	eachDriver(t, func(t *testing.T, d routed.Driver, hosts []int, options map[string]string) {
		w := newWorld(t)
		networks := w.network(d, 1, hosts, with(options, false))
		a := w.box(d, networks[1], 1)
		w.converge()
		w.in(w.outside().path, "sh", "-ec", "ip addr add 10.1.99.9/32 dev lo; ip route add 10.1.1.0/24 via 192.0.2.1")
		w.serve(w.outside(), 80)
		w.silent(w.at(a), "10.1.99.9:80")
	})
}
