package remote

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

// far is a network of a plugin with an endpoint on it.
func far() (cnm.Network, cnm.Endpoint) {
	pool := func(subnet, gateway string) cnm.Pool {
		return cnm.Pool{Subnet: netip.MustParsePrefix(subnet), Range: netip.MustParsePrefix(subnet),
			Gateway: netip.MustParseAddr(gateway)}
	}
	n := cnm.Network{ID: "3f2a91bc" + strings.Repeat("0", 56), Name: "far", Driver: "p", Scope: cnm.Local, IPv4: true,
		IPv6: true, Phase: cnm.Active, Options: map[string]string{"color": "blue"},
		Pools: []cnm.Pool{pool("10.7.0.0/24", "10.7.0.1"), pool("fd00:7::/64", "fd00:7::1")}}
	e := cnm.Endpoint{ID: "91bc3f2a" + strings.Repeat("1", 56), Network: n.ID, Sandbox: "s", NetNS: "box",
		Phase: cnm.Active, Plain: true,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/24"), netip.MustParsePrefix("fd00:7::2/64")}}
	return n, e
}

func TestGolden(t *testing.T) {
	n, e := far()
	internal := n
	internal.Internal = true
	given := cnm.Given{Link: "veth7", Prefix: "tun", After: 12, MAC: plan.MAC{2, 0, 0, 0, 0, 7},
		Gateways: []netip.Addr{netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("fd00:7::9")},
		Routes: []cnm.GivenRoute{{Dst: netip.MustParsePrefix("192.0.2.0/24")},
			{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("10.7.0.3")}}}
	for name, c := range map[string]struct {
		n cnm.Network
		g cnm.Given
	}{"whole": {n, given}, "bare": {n, cnm.Given{Link: "veth7"}}, "internal": {internal, given}} {
		t.Run(name, func(t *testing.T) {
			s, err := Driver{Plugin: "p"}.RenderGiven(c.n, e, c.g, cnm.Host{})
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for o := range s.Objects() {
				fmt.Fprintln(&b, o)
			}
			golden.Equal(t, name+".txt", b.String())
		})
	}
}

func TestCheckEndpoint(t *testing.T) {
	n, e := far()
	host, sources, many := e, e, e
	host.NetNS = ""
	sources.Ports = []cnm.PortMapping{{Port: 80, Count: 1, From: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}
	many.Ports = []cnm.PortMapping{{Port: 1000, Count: 2000}}
	for want, e := range map[string]cnm.Endpoint{"the host itself": host, "for which sources": sources,
		"1024 at most": many} {
		err := Driver{Plugin: "p"}.CheckEndpoint(n, e)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if _, err := (Driver{Plugin: "p"}).RenderEndpoint(n, e, cnm.Host{}); err == nil {
		t.Error("an endpoint that the plugin has not made is rendered")
	}
}

func TestPrefixes(t *testing.T) {
	for prefix, ok := range map[string]bool{"": true, "eth": true, "eth0-": true, "a_b": true, "a.b": false,
		"eth1": false, "thirteenbytes": false, "a/b": false, "a b": false, "é": false, "\x00": false, "..": false} {
		var g cnm.Given
		if err := takePrefix(prefix, &g); (err == nil) != ok || ok && g.Prefix != prefix {
			t.Errorf("%q: %v, %q", prefix, err, g.Prefix)
		}
	}
}

// Whatever is answered to Join, what is taken of it can be rendered, and its gateways are unicast addresses.
func FuzzJoined(f *testing.F) {
	f.Add([]byte(`{"InterfaceName": {"SrcName": "x", "DstPrefix": "eth"}, "Gateway": "10.7.0.1"}`))
	f.Add([]byte(`{"InterfaceName": {"SrcName": "x"},
		"StaticRoutes": [{"Destination": "::/0", "NextHop": "fd00:7::1"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var j plugin.Joined
		if json.Unmarshal(body, &j) != nil {
			return
		}
		n, e := far()
		var g cnm.Given
		if takeJoined(j, e, &g) != nil {
			return
		}
		s, err := Driver{Plugin: "p"}.RenderGiven(n, e, g, cnm.Host{})
		if err != nil {
			t.Fatalf("%+v: %v", g, err)
		}
		for _, l := range s.Links {
			if len(l.Name) > maxLink || len(l.Given.Name) > maxLink || strings.Contains(l.Given.Name, "/") {
				t.Errorf("link %q from %q", l.Name, l.Given.Name)
			}
		}
		for _, a := range g.Gateways {
			if !unicast(a) || a.Zone() != "" {
				t.Errorf("gateway %s", a)
			}
		}
	})
}

// What can be reached by a route on the link may be a gateway; a default route by a next hop is one.
func TestJoinedRoutes(t *testing.T) {
	_, e := far()
	e.Addrs = []netip.Prefix{netip.MustParsePrefix("10.7.0.2/32"), netip.MustParsePrefix("fd00:7::2/64")}
	var g cnm.Given
	err := takeJoined(plugin.Joined{InterfaceName: plugin.InterfaceName{SrcName: "cali1"}, Gateway: "169.254.1.1",
		StaticRoutes: []plugin.StaticRoute{
			{Destination: "0.0.0.0/0", NextHop: "169.254.1.1"},
			{Destination: "::/0", NextHop: "fd00:7::1"},
			{Destination: "10.9.0.0/16", NextHop: "169.254.1.1"},
			{Destination: "169.254.1.1/32", RouteType: plugin.OnLink},
		}}, e, &g)
	want := "[169.254.1.1 fd00:7::1] [{169.254.1.1/32 invalid IP} {10.9.0.0/16 169.254.1.1}]"
	if got := fmt.Sprint(g.Gateways, g.Routes); err != nil || got != want {
		t.Errorf("%s, %v; want %s", got, err, want)
	}
	e.MAC = plan.MAC{2, 0, 0, 0, 0, 1}
	if m, err := takeInterface(plugin.Interface{Address: "10.7.0.2/32"}, e); err != nil || m != e.MAC {
		t.Errorf("an address that is the endpoint's: %v, %v", m, err)
	}
}

// What a plugin is told is what its protocol has.
func TestConfigs(t *testing.T) {
	n, e := far()
	n.Internal = true
	n.Pools[0].Aux = map[string]netip.Addr{"r": netip.MustParseAddr("10.7.0.9")}
	e.Ports = []cnm.PortMapping{{Proto: plan.UDP, HostIP: netip.MustParseAddr("192.0.2.1"), HostPort: 5000, Port: 50,
		Count: 2}}
	golden.Equal(t, "told.txt", fmt.Sprintf("%+v\n%+v\n%+v\n", networkConfig(n), endpointConfig(n, e).Options,
		*endpointConfig(n, e).Interface))
}
