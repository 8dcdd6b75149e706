package kern_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// TestVXLANCarries sends packets between two hosts, over IPv4 and over IPv6, and does to the
// host's own link what must not touch the devices.
func TestVXLANCarries(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	converge(t, k, plan.State{Namespaces: []plan.Namespace{{Name: "far"}}})
	env.Sh(`
		ip link add up0 type veth peer name up1 netns ` + env.RunDir + `/netns/far
		ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up
	`)
	env.RunIn("far", "sh", "-ec",
		"ip addr add 192.0.2.2/24 dev up1; ip addr add 2001:db8::2/64 dev up1 nodad; ip link set up1 up")
	want := plan.State{Namespaces: []plan.Namespace{{Name: "far"}}}
	// Each host has a device per family of the underlay, with one route, one neighbour and
	// one forwarding entry for the other.
	for _, c := range []struct {
		name, near, far string
		vni             uint32
	}{{"vlf-4", "192.0.2.1", "192.0.2.2", 1}, {"vlf-6", "2001:db8::1", "2001:db8::2", 2}} {
		for _, side := range []struct {
			ns            plan.NetNS
			local, remote string
			own, other    byte
		}{{"", c.near, c.far, 1, 2}, {"far", c.far, c.near, 2, 1}} {
			four, six := func(n byte) string { return "10." + string('0'+byte(c.vni)) + "." + string('0'+n) + ".0" },
				func(n byte) string {
					return "fd00:" + string('0'+byte(c.vni)) + ":" + string('0'+n) + "::"
				}
			mac := func(n byte) plan.MAC { return plan.MAC{2, 9, 0, 0, byte(c.vni), n} }
			want.Links = append(want.Links, plan.Link{NS: side.ns, Name: c.name, Owner: "network/1", Kind: plan.VXLAN,
				MTU: 1430, Up: true,
				MAC: mac(side.own), VXLAN: plan.VXLANDevice{VNI: c.vni, Port: 8472, Local: addr(side.local)}})
			want.FDB = append(want.FDB, plan.FDBEntry{NS: side.ns, Link: c.name, MAC: mac(side.other),
				Dst: addr(side.remote)})
			for _, inner := range []func(byte) string{four, six} {
				own, other := addr(inner(side.own)), addr(inner(side.other))
				host, net := own.BitLen(), 24
				if own.Is6() {
					net = 64
				}
				p, err := other.Prefix(net)
				if err != nil {
					t.Fatal(err)
				}
				ownPrefix, err := own.Prefix(host)
				if err != nil {
					t.Fatal(err)
				}
				want.Addrs = append(want.Addrs, plan.Addr{NS: side.ns, Link: c.name, Prefix: ownPrefix})
				want.Neighs = append(want.Neighs, plan.Neigh{NS: side.ns, Link: c.name, IP: other,
					MAC: mac(side.other)})
				want.Routes = append(want.Routes, plan.Route{NS: side.ns, Dst: p, Via: other, Link: c.name,
					OnLink: true, Src: own})
			}
		}
	}
	converge(t, k, want)
	settled(t, k, want)
	pings := func(when string) {
		t.Helper()
		for _, to := range []string{"10.1.2.0", "10.2.2.0", "fd00:1:2::", "fd00:2:2::"} {
			if out := env.Sh("ping -c1 -W5 -s 1000 " + to + " || true"); !strings.Contains(out, " 0% packet loss") {
				t.Errorf("%s: %s is not reached:\n%s", when, to, out)
			}
		}
	}
	pings("at first")
	env.Sh("ip link set up0 down; ip link set up0 name up9; ip link set up9 up; ip addr replace 2001:db8::1/64 dev " +
		"up9 nodad")
	settled(t, k, want)
	pings("after the host's link was down and got another name")
	env.Sh(`ip link del up9
		ip link add up0 type veth peer name up1 netns ` + env.RunDir + `/netns/far
		ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up`)
	env.RunIn("far", "sh", "-ec",
		"ip addr add 192.0.2.2/24 dev up1; ip addr add 2001:db8::2/64 dev up1 nodad; ip link set up1 up")
	settled(t, k, want)
	pings("after the host has got another link")
	env.Sh("ip link del up0")
}
