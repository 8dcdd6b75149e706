package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

// nftText is a ruleset as input of nft -f, so that a golden can be loaded by hand.
func nftText(r plan.Ruleset) string {
	var b strings.Builder
	for _, family := range []plan.Family{plan.Inet, plan.BridgeTable} {
		cut := func(s string) string { return strings.TrimPrefix(s, string(family)+" ") }
		var body strings.Builder
		for _, s := range r.Sets {
			if s.Family == family {
				fmt.Fprintf(&body, "\t%s\n", cut(s.String()))
			}
		}
		for _, c := range r.Chains {
			if c.Family != family {
				continue
			}
			fmt.Fprintf(&body, "\tchain %s {\n", c.Name)
			if c.Base != (plan.Base{}) {
				fmt.Fprintf(&body, "\t\t%s\n", c.Base)
			}
			for _, rule := range c.Rules {
				fmt.Fprintf(&body, "\t\t%s\n", rule)
			}
			body.WriteString("\t}\n")
		}
		if body.Len() > 0 {
			fmt.Fprintf(&b, "table %s %s {\n%s}\n", family, plan.Table, body.String())
		}
		for _, e := range r.Elements {
			if e.Family == family {
				fmt.Fprintf(&b, "add element %s %s %s\n", family, plan.Table,
					strings.TrimPrefix(cut(e.String()), "element "))
			}
		}
	}
	return b.String()
}

func stateText(s plan.State) string {
	var b strings.Builder
	lines(&b, s.Links)
	lines(&b, s.Members)
	lines(&b, s.Addrs)
	lines(&b, s.Routes)
	lines(&b, s.FDB)
	lines(&b, s.Shapers)
	lines(&b, s.Redirects)
	lines(&b, s.Sysctls)
	lines(&b, s.Ports)
	return b.String() + nftText(s.Rules)
}

func lines[O any](b *strings.Builder, objects []O) {
	for _, o := range objects {
		fmt.Fprintf(b, "%v\n", o)
	}
}

func testNetwork() cnm.Network {
	return cnm.Network{
		ID: "3f2a91bc" + strings.Repeat("0", 56), Name: "front", Driver: "bridge", Scope: cnm.Local,
		IPv4: true, IPv6: true, Phase: cnm.Active,
		Pools: []cnm.Pool{
			{Subnet: netip.MustParsePrefix("10.7.0.0/24"), Range: netip.MustParsePrefix("10.7.0.0/24"),
				Gateway: netip.MustParseAddr("10.7.0.1")},
			{Subnet: netip.MustParsePrefix("fd07::/64"), Range: netip.MustParsePrefix("fd07::/64"),
				Gateway: netip.MustParseAddr("fd07::1")},
		},
	}
}

func testEndpoint() cnm.Endpoint {
	return cnm.Endpoint{
		ID: "91bc3f2a" + strings.Repeat("1", 56), Network: testNetwork().ID, NetNS: "box", Phase: cnm.Active,
		MAC:   plan.MAC{0x02, 0x42, 10, 7, 0, 2},
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.7.0.2/24"), netip.MustParsePrefix("fd07::2/64")},
	}
}

func onlyIPv4(n cnm.Network) cnm.Network {
	n.IPv6, n.Pools = false, n.Pools[:1]
	return n
}

func with(n cnm.Network, kv ...string) cnm.Network {
	n.Options = map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		n.Options[kv[i]] = kv[i+1]
	}
	return n
}

func TestFabricGolden(t *testing.T) {
	golden.Equal(t, "fabric.nft", nftText(firewall.Base(firewall.Config{}).Rules))
	full := firewall.Base(firewall.Config{AcceptRA: []string{"eth0", "wlan0"}, BridgeNetfilterOff: true})
	golden.Equal(t, "fabric-sysctls.txt", stateText(plan.State{Sysctls: full.Sysctls}))
	if got := firewall.Base(firewall.Config{NoIPv6: true, AcceptRA: []string{"eth0"}}).Sysctls; len(got) != 1 {
		t.Errorf("without IPv6 there is only ip_forward to set, got %v", got)
	}
}

func TestNetworkGolden(t *testing.T) {
	internal := testNetwork()
	internal.Internal = true
	isolated := with(testNetwork(), "gateway-mode-ipv4", "isolated")
	isolated.Internal, isolated.Pools = true, slices.Clone(isolated.Pools)
	isolated.Pools[0].Gateway = netip.Addr{}
	noGateway := testNetwork()
	noGateway.Pools = slices.Clone(noGateway.Pools)
	for i := range noGateway.Pools {
		noGateway.Pools[i].Gateway = netip.Addr{}
	}
	for name, n := range map[string]cnm.Network{
		"dual":       testNetwork(),
		"v4":         onlyIPv4(testNetwork()),
		"internal":   internal,
		"no-gateway": noGateway,
		"routed":     with(testNetwork(), "gateway-mode", "routed", "mtu", "9000"),
		"isolated":   isolated,
		"mixed":      with(testNetwork(), "gateway-mode", "nat-unprotected", "gateway-mode-ipv6", "routed"),
		"outbound": with(testNetwork(), "com.docker.network.host_ipv4", "192.0.2.9", "outbound-ip6",
			"2001:db8::9"),
		"lan":       with(testNetwork(), "parent", "eth1", "icc", "false"),
		"lan-vlan":  with(testNetwork(), "parent", "eth1.100", "mtu", "9000"),
		"unmanaged": with(testNetwork(), "bridge-name", "br0", "unmanaged", "true"),
		"no-icc":    with(testNetwork(), "icc", "false", "masquerade", "false", "bridge-name", "br-front"),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Driver{}.RenderNetwork(n, cnm.Host{MTU: 1450})
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, "network-"+name+".txt", stateText(s))
		})
	}
}

func TestEndpointGolden(t *testing.T) {
	published := testEndpoint()
	published.Ports = []cnm.PortMapping{
		{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1},
		{Proto: plan.UDP, HostPort: 5300, Port: 53, Count: 2},
		{Proto: plan.TCP, HostPort: 9000, Port: 9000, Count: 11},
		{Proto: plan.SCTP, HostPort: 3868, Port: 3868, Count: 1},
		{Proto: plan.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8443, Port: 443, Count: 1},
		{Proto: plan.TCP, HostIP: netip.MustParseAddr("::1"), HostPort: 8443, Port: 443, Count: 1},
		{Proto: plan.TCP, HostIP: netip.IPv4Unspecified(), HostPort: 8081, Port: 81, Count: 1},
		{Proto: plan.TCP, HostPort: 8082, Port: 82, Count: 1, From: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"),
			netip.MustParsePrefix("fd00::/8")}},
		{Proto: plan.UDP, HostPort: 9100, Port: 9100, Count: 3, From: []netip.Prefix{
			netip.MustParsePrefix("10.0.0.0/8")}},
	}
	outbound := testEndpoint()
	outbound.Outbound = []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
	limited := testEndpoint()
	limited.RateIn, limited.RateOut = 100_000_000, 64_000
	half := testEndpoint()
	half.Addrs, half.Ports, half.Index, half.GwPriority = half.Addrs[:1], published.Ports[:1], 2, 10
	internal := testNetwork()
	internal.Internal = true
	for name, c := range map[string]struct {
		n cnm.Network
		e cnm.Endpoint
	}{
		"dual":      {testNetwork(), testEndpoint()},
		"published": {testNetwork(), published},
		"v4":        {onlyIPv4(testNetwork()), half},
		"routes": {with(testNetwork(), "routes", "10.9.0.0/16,via=10.7.0.5 fd09::/48,via=fd07::5 10.8.0.1/32"),
			testEndpoint()},
		"bound":    {with(onlyIPv4(testNetwork()), "host-binding", "127.0.0.1"), half},
		"internal": {internal, testEndpoint()},
		"outbound": {testNetwork(), outbound},
		"limited":  {testNetwork(), limited},
		"no-icc":   {with(testNetwork(), "icc", "false", "source-validation", "false"), testEndpoint()},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Driver{}.RenderEndpoint(c.n, c.e, cnm.Host{})
			if err != nil {
				t.Fatal(err)
			}
			golden.Equal(t, "endpoint-"+name+".txt", stateText(s))
		})
	}
}
