package routed

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/backend/hostgw"
	"github.com/vethloom/vethloom/backend/udp"
	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

func text(s plan.State) string {
	var b strings.Builder
	for o := range s.Objects() {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

func drivers() []Driver {
	return []Driver{{hostgw.Backend{}}, {vxlan.Backend{}}, {udp.Backend{}}}
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// network is 10.5.0.0/16, of which this node has 10.5.1.0/24; with IPv6 also fd05::/48 and fd05:0:0:1::/64.
func network(d Driver, ipv6 bool, kv ...string) cnm.Network {
	pool := func(subnet, gw string) cnm.Pool {
		return cnm.Pool{Subnet: prefix(subnet), Range: prefix(subnet), Gateway: addr(gw)}
	}
	n := cnm.Network{
		ID: "3f2a91bc" + strings.Repeat("0", 56), Name: "web", Driver: d.Name(), Scope: cnm.Cluster, Phase: cnm.Active,
		IPv4: true, IPv6: ipv6,
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{prefix("10.5.0.0/16")}, VNI: 7},
		Pools:   []cnm.Pool{pool("10.5.1.0/24", "10.5.1.1")}, Options: map[string]string{},
	}
	if ipv6 {
		n.Cluster.Subnets = append(n.Cluster.Subnets, prefix("fd05::/48"))
		n.Pools = append(n.Pools, pool("fd05:0:0:1::/64", "fd05:0:0:1::1"))
	}
	for i := 0; i < len(kv); i += 2 {
		n.Options[kv[i]] = kv[i+1]
	}
	return n
}

// host is a node whose uplink has addresses of the families given.
func host(v4, v6 bool) cnm.Host {
	h := cnm.Host{MTU: 1500, Node: "node-a", Uplink: cnm.Uplink{Link: "eth0", MTU: 1500}}
	if v4 {
		h.Uplink.Addr4, h.Uplink.OnLink = addr("192.0.2.1"), append(h.Uplink.OnLink, prefix("192.0.2.0/24"))
	}
	if v6 {
		h.Uplink.Addr6, h.Uplink.OnLink = addr("2001:db8::1"), append(h.Uplink.OnLink, prefix("2001:db8::/64"))
	}
	return h
}

// peer has the lease that a node like this one would write. Its addresses are on the link, or behind a router.
func peer(t *testing.T, d Driver, n cnm.Network, h cnm.Host, near bool) cnm.Peer {
	t.Helper()
	h.Node = "node-b"
	v4, v6 := addr("192.0.2.2"), addr("2001:db8::2")
	if !near {
		v4, v6 = addr("198.51.100.2"), addr("2001:db8:2::2")
	}
	if h.Uplink.Addr4.IsValid() {
		h.Uplink.Addr4 = v4
	}
	if h.Uplink.Addr6.IsValid() {
		h.Uplink.Addr6 = v6
	}
	attrs, err := d.Attrs(n, h)
	if err != nil {
		t.Fatal(err)
	}
	l := subnet.Lease{Subnet: prefix("10.5.2.0/24"), Key: "10.5.2.0-24", Attrs: attrs}
	if n.IPv6 {
		l.Subnet6, l.Key = prefix("fd05:0:0:2::/64"), "10.5.2.0-24&fd05:0:0:2::-64"
	}
	p, err := d.Peer(n, l)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestGolden(t *testing.T) {
	for _, d := range drivers() {
		for name, c := range map[string]struct {
			n    cnm.Network
			h    cnm.Host
			near bool
		}{
			"v4":         {network(d, false), host(true, false), true},
			"dual":       {network(d, true), host(true, true), true},
			"direct":     {network(d, true, "direct-routing", "true"), host(true, true), true},
			"direct-far": {network(d, true, "direct-routing", "true"), host(true, true), false},
			"internal": {func() cnm.Network { n := network(d, true); n.Internal = true; return n }(),
				host(true, true), true},
			"no-icc": {network(d, false, "icc", "false", "masquerade", "false", "mtu", "1300"), host(true, false),
				true},
		} {
			t.Run(d.Name()+"/"+name, func(t *testing.T) {
				if err := d.CheckNetwork(c.n); err != nil {
					t.Fatal(err)
				}
				shared, err := d.RenderNetwork(c.n, c.h)
				if err != nil {
					t.Fatal(err)
				}
				p := peer(t, d, c.n, c.h, c.near)
				way, err := d.RenderPeer(c.n, p, c.h)
				if err != nil {
					t.Fatal(err)
				}
				attrs, err := d.Attrs(c.n, c.h)
				if err != nil {
					t.Fatal(err)
				}
				value, err := json.Marshal(attrs)
				if err != nil {
					t.Fatal(err)
				}
				golden.Equal(t, d.Name()+"-"+name+".txt", fmt.Sprintf("# network\n%s# peer %v\n%s# lease\n%s\n",
					text(shared), p.Prefixes, text(way), value))
			})
		}
	}
}

func TestEndpointGolden(t *testing.T) {
	d := drivers()[1]
	n := network(d, true)
	n.Internal = true
	e := cnm.Endpoint{
		ID: "91bc3f2a" + strings.Repeat("1", 56), NetNS: "box", Phase: cnm.Active, MAC: plan.MAC{2, 0x42, 10, 5, 1, 9},
		Addrs: []netip.Prefix{prefix("10.5.1.9/24"), prefix("fd05:0:0:1::9/64")},
	}
	s, err := d.RenderEndpoint(n, e, host(true, true))
	if err != nil {
		t.Fatal(err)
	}
	golden.Equal(t, "endpoint-internal.txt", text(s))
}

// Whatever the underlay's family, the tunnels carry both of the network's.
func TestUnderlayOfOneFamilyGolden(t *testing.T) {
	for _, d := range drivers()[1:] {
		for name, h := range map[string]cnm.Host{"underlay4": host(true, false), "underlay6": host(false, true)} {
			n := network(d, true)
			shared, err := d.RenderNetwork(n, h)
			if err != nil {
				t.Fatal(err)
			}
			way, err := d.RenderPeer(n, peer(t, d, n, h, false), h)
			if err != nil {
				t.Fatal(err)
			}
			shared.Rules, shared.Sysctls = plan.Ruleset{}, nil
			golden.Equal(t, d.Name()+"-"+name+".txt", text(shared)+"# peer\n"+text(way))
		}
	}
}
