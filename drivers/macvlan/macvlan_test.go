package macvlan

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

func network(kv ...string) cnm.Network {
	pool := func(subnet, gateway string) cnm.Pool {
		return cnm.Pool{Subnet: netip.MustParsePrefix(subnet), Range: netip.MustParsePrefix(subnet),
			Gateway: netip.MustParseAddr(gateway), Aux: map[string]netip.Addr{}}
	}
	n := cnm.Network{ID: "3f2a91bc" + strings.Repeat("0", 56), Name: "lan", Driver: name, Scope: cnm.Local,
		IPv4: true, IPv6: true, Phase: cnm.Active, Options: map[string]string{},
		Pools: []cnm.Pool{pool("192.0.2.0/24", "192.0.2.254"), pool("2001:db8::/64", "2001:db8::fe")}}
	n.Pools[0].Aux["host"] = netip.MustParseAddr("192.0.2.250")
	n.Pools[1].Aux["host"] = netip.MustParseAddr("2001:db8::fa")
	for i := 0; i < len(kv); i += 2 {
		n.Options[kv[i]] = kv[i+1]
	}
	return n
}

func onLAN() cnm.Endpoint {
	return cnm.Endpoint{ID: "91bc3f2a" + strings.Repeat("1", 56), Network: network().ID, NetNS: "box",
		Phase: cnm.Active,
		Plain: true, MAC: plan.MAC{0x02, 0x42, 192, 0, 2, 7},
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64")}}
}

func TestGolden(t *testing.T) {
	e := onLAN()
	leased := e
	leased.Addrs = e.Addrs[:1]
	leased.Leased = &cnm.Leased{Router: netip.MustParseAddr("192.0.2.99"), Routes: []cnm.GivenRoute{
		{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.98")},
		{Dst: netip.MustParsePrefix("203.0.113.0/24")}}}
	for name, n := range map[string]cnm.Network{
		"leased":        network("parent", "eth0"),
		"plain":         network("parent", "eth0"),
		"private-vlan":  network("parent", "eth0.100", "mode", "private", "mtu", "1400"),
		"passthru":      network("parent", "eth0.100", "vlan", "none", "mode", "passthru"),
		"host":          network("parent", "eth0", "host-access", "true"),
		"host-addrs":    network("parent", "eth0", "vlan", "7", "host-access", "192.0.2.250,2001:db8::fa"),
		"host-not-here": network("parent", "eth0", "host-access", "false", "com.docker.network.driver.mtu", "9000"),
	} {
		t.Run(name, func(t *testing.T) {
			e := e
			if name == "leased" {
				e = leased
			}
			sameAsGolden(t, Driver{}, name, n, e)
		})
	}
}

// sameAsGolden compares what a driver renders of a network and an endpoint.
func sameAsGolden(t *testing.T, d cnm.Driver, name string, n cnm.Network, e cnm.Endpoint) {
	t.Helper()
	if err := d.CheckNetwork(n); err != nil {
		t.Fatal(err)
	}
	h := cnm.Host{Addrs: []netip.Prefix{netip.MustParsePrefix("10.0.0.1/8"), netip.MustParsePrefix("192.0.2.1/24")}}
	var b strings.Builder
	for _, render := range []func() (plan.State, error){
		func() (plan.State, error) { return d.RenderNetwork(n, h) },
		func() (plan.State, error) { return d.RenderEndpoint(n, e, h) },
	} {
		s, err := render()
		if err != nil {
			t.Fatal(err)
		}
		for o := range s.Objects() {
			fmt.Fprintln(&b, o)
		}
		b.WriteString("\n")
	}
	golden.Equal(t, name+".txt", b.String())
}

func TestCheckNetworkRefuses(t *testing.T) {
	for _, c := range []struct {
		n    cnm.Network
		want string
	}{
		{network(), "-o parent=eth0"},
		{network("parent", "a/b"), "not the name of a link"},
		{network("parent", "vlb-12345678"), "not a link to a LAN"},
		{network("parent", "lo"), "not a link to a LAN"},
		{network("parent", "eth0", "mode", "l2"), "bridge, private, vepa, passthru"},
		{network("parent", "eth0", "vlan", "0"), "1 to 4094"},
		{network("parent", "eth0", "vlan", "4095"), "1 to 4094"},
		{network("parent", "eth0", "mtu", "1000"), "at least 1280"},
		{network("parent", "eth0", "duplicate-detection", "perhaps"), "want true or false"},
		{network("parent", "eth0", "paernt", "eth1"), "unknown option"},
		{network("parent", "eth0", "host-access", "maybe"), "want true, false"},
		{network("parent", "eth0", "host-access", "192.0.2.9"), "--aux-address host=192.0.2.9"},
		{network("parent", "eth0", "host-access", "192.0.2.254"), "is the gateway"},
		{network("parent", "eth0", "host-access", "10.0.0.9"), "in no subnet"},
		{network("parent", "eth0", "host-access", "192.0.2.250,192.0.2.250"), "second address"},
		{network("parent", "eth0", "host-access", "true", "mode", "private"), "leave one of the two out"},
	} {
		if err := (Driver{}).CheckNetwork(c.n); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.n.Options, err, c.want)
		}
	}
}
