package overlay

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

func text(s plan.State) string {
	var b strings.Builder
	for o := range s.Objects() {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }
func addr(s string) netip.Addr     { return netip.MustParseAddr(s) }

// network is 10.5.0.0/16 and fd05::/64, of which this node gives out a block.
func network(kv ...string) cnm.Network {
	pool := func(subnet, gw, block string) cnm.Pool {
		return cnm.Pool{Subnet: prefix(subnet), Range: prefix(subnet), Gateway: addr(gw),
			Blocks: []netip.Prefix{prefix(block)}}
	}
	n := cnm.Network{
		ID: "3f2a91bc" + strings.Repeat("0", 56), Name: "web", Driver: "overlay", Scope: cnm.Cluster,
		Phase: cnm.Active, IPv4: true, IPv6: true,
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{prefix("10.5.0.0/16"), prefix("fd05::/64")}, VNI: 4097,
			Port: 4789},
		Pools: []cnm.Pool{pool("10.5.0.0/16", "10.5.0.1", "10.5.1.0/26"),
			pool("fd05::/64", "fd05::1", "fd05::1:0/112")},
		Options: map[string]string{},
	}
	for i := 0; i < len(kv); i += 2 {
		n.Options[kv[i]] = kv[i+1]
	}
	return n
}

func endpoint() cnm.Endpoint {
	return cnm.Endpoint{
		ID: "91bc3f2a" + strings.Repeat("1", 56), Network: network().ID, NetNS: "box", Phase: cnm.Active,
		MAC:   plan.MAC{0x02, 0x42, 10, 5, 1, 2},
		Addrs: []netip.Prefix{prefix("10.5.1.2/16"), prefix("fd05::1:2/64")},
		Ports: []cnm.PortMapping{{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1}},
	}
}

func peer() cnm.Peer {
	return cnm.Peer{
		ID: "3f2a91bc/77", Network: network().ID, Node: "node-b", Endpoint: true,
		Prefixes: []netip.Prefix{prefix("10.5.2.2/32"), prefix("fd05::2:2/128")},
		Addr4:    addr("192.0.2.2"), Addr6: addr("2001:db8::2"), MAC: plan.MAC{0x02, 0x42, 10, 5, 2, 2},
	}
}

// host is a node whose uplink has addresses of the families given.
func host(v4, v6 bool) cnm.Host {
	h := cnm.Host{MTU: 9000, Node: "node-a", Uplink: cnm.Uplink{Link: "eth0", MTU: 1500}}
	if v4 {
		h.Uplink.Addr4 = addr("192.0.2.1")
	}
	if v6 {
		h.Uplink.Addr6 = addr("2001:db8::1")
	}
	return h
}

func TestGolden(t *testing.T) {
	gone := network()
	gone.Cluster.Gone = true
	for name, c := range map[string]struct {
		n cnm.Network
		h cnm.Host
	}{
		"over-ipv4":   {network(), host(true, false)},
		"over-ipv6":   {network(), host(false, true)},
		"over-both":   {network("port", "8472", "mtu", "9000"), host(true, true)},
		"small-mtu":   {network("mtu", "1300"), host(true, true)},
		"no-icc":      {network("icc", "false", "masquerade", "false", "bridge-name", "br-web"), host(true, false)},
		"no-uplink":   {network(), host(false, false)},
		"no-cluster":  {gone, host(true, true)},
		"no-groups":   {network("multicast", "false"), host(true, false)},
		"third-party": {network("gateway-mode", "routed"), host(true, true)},
	} {
		t.Run(name, func(t *testing.T) {
			if err := (Driver{}).CheckNetwork(c.n); err != nil {
				t.Fatal(err)
			}
			s, err := Driver{}.RenderNetwork(c.n, c.h)
			if err != nil {
				t.Fatal(err)
			}
			e, err := Driver{}.RenderEndpoint(c.n, endpoint(), c.h)
			if err != nil {
				t.Fatal(err)
			}
			p, err := Driver{}.RenderPeer(c.n, peer(), c.h)
			if err != nil {
				t.Fatal(err)
			}
			copies, err := Driver{}.RenderNode(c.n, peer().Addr4, c.h)
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, name+".txt", "network\n"+text(s)+"\nendpoint\n"+text(e)+"\npeer\n"+text(p)+"\nnode\n"+
				text(copies))
		})
	}
}

func TestDeletingRendersNothing(t *testing.T) {
	n := network()
	n.Phase = cnm.Deleting
	s, err := Driver{}.RenderNetwork(n, host(true, true))
	p, err2 := Driver{}.RenderPeer(n, peer(), host(true, true))
	e, err3 := Driver{}.RenderEndpoint(n, endpoint(), host(true, true))
	c, err4 := Driver{}.RenderNode(n, peer().Addr4, host(true, true))
	if err := errors.Join(err, err2, err3, err4); err != nil || !s.Empty() || !p.Empty() || !e.Empty() || !c.Empty() {
		t.Errorf("%v\n%s%s%s%s", err, text(s), text(p), text(e), text(c))
	}
}

func TestEveryNodeHasLinksOfItsOwn(t *testing.T) {
	seen := map[plan.MAC]string{}
	for _, network := range []string{"n1", "n2"} {
		for _, node := range []string{"a", "b"} {
			for _, use := range []string{"bridge", "vxlan"} {
				m := mac(network, node, use)
				if m[0] != 2 || seen[m] != "" || m != mac(network, node, use) {
					t.Errorf("%s of %s on %s has %s, as has %s", use, network, node, m, seen[m])
				}
				seen[m] = network + node + use
			}
		}
	}
}

// What is for many goes to no address that the device's tunnels cannot end at, and none of this node's own.
func TestNodesThatGetCopies(t *testing.T) {
	for to, want := range map[string]string{
		"192.0.2.2": "fdb 00:00:00:00:00:00 dev vlx-3f2a91bc dst 192.0.2.2\n", "192.0.2.1": "", "2001:db8::2": "",
		"0.0.0.0": "", "127.0.0.1": "", "224.0.0.1": "",
	} {
		if s, err := (Driver{}).RenderNode(network(), addr(to), host(true, true)); err != nil || text(s) != want {
			t.Errorf("%s gives %q, %v; want %q", to, text(s), err, want)
		}
	}
	s, err := Driver{}.RenderNode(network("icc", "false"), addr("192.0.2.2"), host(true, true))
	if err != nil || !s.Empty() {
		t.Errorf("endpoints that reach none elsewhere send %s: %v", text(s), err)
	}
}

func TestTunnel(t *testing.T) {
	for _, c := range []struct {
		n    cnm.Network
		want cnm.TunnelRequest
	}{
		{network(), cnm.TunnelRequest{Kind: "vxlan", FirstVNI: 1 << 16, LastVNI: 1<<24 - 1, Port: 4789}},
		{network("vni", "77", "port", "8472"), cnm.TunnelRequest{Kind: "vxlan", VNI: 77, FirstVNI: 1 << 16,
			LastVNI: 1<<24 - 1, Port: 8472}},
	} {
		if got, err := (Driver{}).Tunnel(c.n); err != nil || got != c.want {
			t.Errorf("%v: got %+v, %v", c.n.Options, got, err)
		}
	}
}

func TestCheckNetworkRefuses(t *testing.T) {
	overlapping := network()
	overlapping.Pools = append(overlapping.Pools, cnm.Pool{Subnet: prefix("10.5.8.0/24")})
	several := network()
	several.Pools = append(several.Pools, cnm.Pool{Subnet: prefix("10.6.0.0/24"), Gateway: addr("10.6.0.1")})
	if err := (Driver{}).CheckNetwork(several); err != nil {
		t.Errorf("several subnets: %v", err)
	}
	for _, c := range []struct {
		n    cnm.Network
		want string
	}{
		{network("vni", "0"), `option vni="0": want a number from 1 to 16777215`},
		{network("vni", "16777216"), "want a number from 1 to 16777215"},
		{network("vni", "4097,4098"), "want a number"},
		{network("port", "65536"), `option port="65536": want a number from 1 to 65535`},
		{network("port", "-1"), "want a number"},
		{network("vnid", "7"), `unknown option "vnid" (did you mean "vni"?): driver overlay knows bridge-name, `},
		{network("mtu", "10"), `option mtu="10"`},
		{network("mtu", "1200"), "IPv6 needs at least 1280"},
		{network("vni", "5", "com.docker.network.driver.overlay.vxlanid_list", "6"), "are the same"},
		{overlapping, "subnets 10.5.0.0/16 and 10.5.8.0/24 overlap"},
	} {
		err := Driver{}.CheckNetwork(c.n)
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want %q", c.n.Options, err, c.want)
		}
	}
}

func TestRenderPeerRefuses(t *testing.T) {
	for _, c := range []struct {
		change func(*cnm.Peer)
		h      cnm.Host
		want   string
	}{
		{func(p *cnm.Peer) { p.Endpoint = false }, host(true, true), "lease"},
		{func(p *cnm.Peer) { p.MAC = plan.MAC{} }, host(true, true), "no MAC"},
		{func(p *cnm.Peer) { p.MAC[0] = 0xff }, host(true, true), "group address"},
		{func(p *cnm.Peer) { p.MAC = mac(network().ID, "node-a", "bridge") }, host(true, true), "link of this node"},
		{func(p *cnm.Peer) { p.Addr4 = addr("192.0.2.1") }, host(true, true), "this node's own"},
		{func(p *cnm.Peer) { p.Addr6 = addr("2001:db8::1") }, host(true, true), "this node's own"},
		{func(p *cnm.Peer) { p.Addr4 = netip.Addr{} }, host(true, true),
			"no IPv4 address, and this node's tunnels end at 192.0.2.1"},
		{func(p *cnm.Peer) { p.Addr6 = netip.Addr{} }, host(false, true),
			"no IPv6 address, and this node's tunnels end at 2001:db8::1"},
		{func(p *cnm.Peer) { p.Addr4 = addr("224.0.0.1") }, host(true, true), "no IPv4 address"},
		{func(p *cnm.Peer) { p.Prefixes[0] = prefix("10.6.0.1/32") }, host(true, true), "10.6.0.1 is in no subnet"},
		{func(p *cnm.Peer) { p.Prefixes[0] = prefix("10.5.0.1/32") }, host(true, true), "the network's gateway"},
		{func(p *cnm.Peer) { p.Prefixes[0] = prefix("10.5.2.0/24") }, host(true, true), "not one address"},
		{func(p *cnm.Peer) { p.MAC = mac(network().ID, "node-b", "bridge") }, host(true, true), "its node's bridge"},
		{func(p *cnm.Peer) { *p = peerBlocks(); p.Prefixes[0] = prefix("10.5.2.2/32") }, host(true, true), "no block"},
		{func(p *cnm.Peer) { *p = peerBlocks(); p.Prefixes[0] = prefix("10.4.0.0/15") }, host(true, true),
			"in no subnet"},
		{func(p *cnm.Peer) { *p = peerBlocks(); p.Prefixes[0] = prefix("10.5.0.0/15") }, host(true, true),
			"no part of the network's subnet 10.5.0.0/16"},
	} {
		p := peer()
		c.change(&p)
		_, err := Driver{}.RenderPeer(network(), p, c.h)
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), c.want) ||
			!strings.Contains(err.Error(), "node-b") {
			t.Errorf("got %v, want %q", err, c.want)
		}
	}
}
