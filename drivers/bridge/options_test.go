package bridge

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
)

func TestDecodeOptions(t *testing.T) {
	base := Options{Masquerade: true, ICC: true, SourceValidation: true, FastPath: true, Mode4: NAT, Mode6: NAT}
	change := func(f func(*Options)) Options { o := base; f(&o); return o }
	for _, c := range []struct {
		given map[string]string
		want  Options
	}{
		{nil, base},
		{map[string]string{"mtu": "9000"}, change(func(o *Options) { o.MTU = 9000 })},
		{map[string]string{"com.docker.network.driver.mtu": "1400"}, change(func(o *Options) { o.MTU = 1400 })},
		{map[string]string{"fastpath": "off"}, change(func(o *Options) { o.FastPath = false })},
		{map[string]string{"icc": "false"}, change(func(o *Options) { o.ICC = false })},
		{map[string]string{"com.docker.network.bridge.enable_icc": "0"}, change(func(o *Options) { o.ICC = false })},
		{map[string]string{"com.docker.network.bridge.enable_ip_masquerade": "false"},
			change(func(o *Options) { o.Masquerade = false })},
		{map[string]string{"source-validation": "false"}, change(func(o *Options) { o.SourceValidation = false })},
		{map[string]string{"host-binding": "127.0.0.1"},
			change(func(o *Options) { o.HostBinding = netip.MustParseAddr("127.0.0.1") })},
		{map[string]string{"com.docker.network.bridge.host_binding_ipv4": "::ffff:192.0.2.1"},
			change(func(o *Options) { o.HostBinding = netip.MustParseAddr("192.0.2.1") })},
		{map[string]string{"gateway-mode": "routed"},
			change(func(o *Options) { o.Mode4, o.Mode6 = Routed, Routed })},
		{map[string]string{"gateway-mode": "isolated", "com.docker.network.bridge.gateway_mode_ipv4": "routed"},
			change(func(o *Options) { o.Mode4, o.Mode6 = Routed, Isolated })},
		{map[string]string{"gateway-mode-ipv6": "nat-unprotected", "masquerade": "true"},
			change(func(o *Options) { o.Mode6 = NATUnprotected })},
		{map[string]string{"com.docker.network.bridge.name": "exactly15bytes_"},
			change(func(o *Options) { o.BridgeName = "exactly15bytes_" })},
	} {
		got, err := DecodeOptions(c.given)
		if err != nil {
			t.Errorf("%v: %v", c.given, err)
		}
		if d := cmp.Diff(c.want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
			cmpopts.IgnoreUnexported(Options{})); d != "" {
			t.Errorf("%v: %s", c.given, d)
		}
	}
}

func TestDecodeOptionsRefuses(t *testing.T) {
	for _, c := range []struct {
		given map[string]string
		want  []string // parts of the error
	}{
		{map[string]string{"mtv": "1500"},
			[]string{`"mtv"`, `did you mean "mtu"`, "host-binding, icc, masquerade, mtu"}},
		{map[string]string{"com.docker.network.bridge.enable_ic": "1"},
			[]string{`did you mean "com.docker.network.bridge.enable_icc"`}},
		{map[string]string{"": "x"}, []string{`unknown option ""`}},
		{map[string]string{"zzz": "x"}, []string{`unknown option "zzz": driver bridge knows`}},
		{map[string]string{"mtu": "67"}, []string{`mtu="67"`, "68 to 65535"}},
		{map[string]string{"mtu": "65536"}, []string{"68 to 65535"}},
		{map[string]string{"mtu": "1500 "}, []string{"68 to 65535"}},
		{map[string]string{"mtu": "1400", "com.docker.network.driver.mtu": "1400"},
			[]string{"are the same", "give one"}},
		{map[string]string{"icc": "perhaps"}, []string{`icc="perhaps"`, "true or false"}},
		{map[string]string{"host-binding": "localhost"}, []string{"IP address"}},
		{map[string]string{"host-binding": "fe80::1%eth0"}, []string{"IP address"}},
		{map[string]string{"gateway-mode": "bridge"}, []string{"nat, nat-unprotected, routed or isolated"}},
		{map[string]string{"gateway-mode": "routed", "masquerade": "true"}, []string{"does not masquerade"}},
		{map[string]string{"gateway-mode-ipv4": "isolated", "gateway-mode-ipv6": "routed", "masquerade": "true"},
			[]string{"does not masquerade"}},
		{map[string]string{"routes": "10.9.0.0"}, []string{"SUBNET[,via=ADDRESS]"}},
		{map[string]string{"routes": "10.9.0.0/16 via 10.7.0.5"}, []string{"SUBNET[,via=ADDRESS]"}},
		{map[string]string{"routes": "10.9.0.0/16,10.7.0.5"}, []string{"want via=ADDRESS"}},
		{map[string]string{"routes": "10.9.0.0/16,via=router"}, []string{"want via=ADDRESS"}},
		{map[string]string{"routes": "fd09::/64,via=fe80::1%eth0"}, []string{"want via=ADDRESS"}},
		{map[string]string{"routes": "10.9.0.5/16"}, []string{"did you mean 10.9.0.0/16?"}},
		{map[string]string{"routes": "0.0.0.0/0,via=10.7.0.5"}, []string{"--gateway"}},
		{map[string]string{"routes": "224.0.0.0/8"}, []string{"not one of unicast"}},
		{map[string]string{"routes": "fe80::/64"}, []string{"not one of unicast"}},
		{map[string]string{"routes": "10.9.0.0/16,via=fd07::5"}, []string{"both of one family"}},
		{map[string]string{"routes": "10.9.0.0/16 10.9.0.0/16,via=10.7.0.5"}, []string{"two routes to 10.9.0.0/16"}},
		{map[string]string{"bridge-name": "sixteen_bytes_xx"}, []string{"1 to 15 bytes"}},
		{map[string]string{"bridge-name": ""}, []string{"1 to 15 bytes"}},
		{map[string]string{"bridge-name": "a/b"}, []string{"printable"}},
		{map[string]string{"bridge-name": "vl*"}, []string{"printable"}},
		{map[string]string{"bridge-name": "brü"}, []string{"printable"}},
		{map[string]string{"bridge-name": "all"}, []string{"kernel"}},
		{map[string]string{"bridge-name": "vlb-01234567"}, []string{"vlb-, vle-", "choose"}},
		{map[string]string{"bridge-name": "vlt-01234567"}, []string{"vlb-, vle-", "choose"}},
	} {
		_, err := DecodeOptions(c.given)
		if err == nil {
			t.Errorf("%v: accepted", c.given)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q lacks %q", c.given, err, part)
			}
		}
	}
}

func TestCheckNetworkRefuses(t *testing.T) {
	pool := func(subnet, gw string) cnm.Pool {
		p := cnm.Pool{Subnet: netip.MustParsePrefix(subnet), Range: netip.MustParsePrefix(subnet)}
		if gw != "" {
			p.Gateway = netip.MustParseAddr(gw)
		}
		return p
	}
	ranged := pool("10.7.0.0/24", "10.7.0.1")
	ranged.Range = netip.MustParsePrefix("10.8.0.0/25")
	for want, change := range map[string]func(*cnm.Network){
		"unknown option":        func(n *cnm.Network) { n.Options = map[string]string{"x": "y"} },
		"neither IPv4 nor IPv6": func(n *cnm.Network) { n.IPv4, n.IPv6 = false, false },
		"at least 1280":         func(n *cnm.Network) { n.Options = map[string]string{"mtu": "1279"} },
		"leave out gateway-mode=routed or internal": func(n *cnm.Network) {
			n.Internal, n.Options = true, map[string]string{"gateway-mode": "routed"}
		},
		"leave out gateway-mode=nat-unprotected or": func(n *cnm.Network) {
			n.Internal, n.Options = true, map[string]string{"gateway-mode-ipv6": "nat-unprotected"}
		},
		"make another one": func(n *cnm.Network) {
			n.Internal, n.Options = true, map[string]string{"gateway-mode-ipv4": "isolated"}
		},
		"a subnet of the network itself": func(n *cnm.Network) {
			n.Options = map[string]string{"routes": "10.7.0.0/25,via=10.7.0.5"}
		},
		"in no subnet of the network": func(n *cnm.Network) {
			n.Options = map[string]string{"routes": "10.9.0.0/16,via=10.8.0.5"}
		},
		"address of the subnet itself": func(n *cnm.Network) {
			n.Options = map[string]string{"routes": "fd09::/64,via=fd07::"}
		},
		"10.9.0.0/16: its family is switched off": func(n *cnm.Network) {
			n.IPv4, n.Pools, n.Options = false, n.Pools[1:], map[string]string{"routes": "10.9.0.0/16"}
		},
		"make it internal too": func(n *cnm.Network) {
			n.Options = map[string]string{"gateway-mode-ipv4": "isolated"}
		},
		"10.7.0.0/24 and 10.7.0.128/25 overlap": func(n *cnm.Network) {
			n.Pools = append(n.Pools, pool("10.7.0.128/25", "10.7.0.129"))
		},
		"beyond its length":     func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("10.7.0.5/24", "10.7.0.1")} },
		"switched off":          func(n *cnm.Network) { n.IPv6 = false },
		"one address":           func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("10.7.0.5/32", "")} },
		"not one of unicast":    func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("224.0.0.0/8", "")} },
		"is not inside the":     func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("10.7.0.0/24", "10.8.0.1")} },
		"did you mean 10.7.0.1": func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("10.7.0.0/24", "10.7.0.0")} },
		"broadcast":             func(n *cnm.Network) { n.Pools = []cnm.Pool{pool("10.7.0.0/24", "10.7.0.255")} },
		"ip-range":              func(n *cnm.Network) { n.Pools = []cnm.Pool{ranged} },
	} {
		n := testNetwork()
		n.Pools = slices.Clone(n.Pools)
		change(&n)
		err := Driver{}.CheckNetwork(n)
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
	for _, good := range []cnm.Pool{pool("10.7.0.0/31", "10.7.0.0"), pool("fd00::/127", "fd00::"),
		pool("10.0.0.0/8", "10.255.255.254"), pool("fd00::/64", "fd00::1")} {
		n := testNetwork()
		n.Pools = []cnm.Pool{good}
		if err := (Driver{}).CheckNetwork(n); err != nil {
			t.Errorf("%s: %v", good.Subnet, err)
		}
	}
}

func TestOutboundRefuses(t *testing.T) {
	internal := with(testNetwork(), "outbound-ip", "192.0.2.9")
	internal.Internal = true
	cluster := with(testNetwork(), "outbound-ip", "192.0.2.9")
	cluster.Scope = cnm.Cluster
	for want, n := range map[string]cnm.Network{
		"nothing leaves an internal network":         internal,
		"the other nodes of the cluster do not have": cluster,
		"what leaves keeps its address": with(testNetwork(), "outbound-ip", "192.0.2.9", "masquerade",
			"false"),
		"want an IPv4 address of this host": with(testNetwork(), "outbound-ip", "2001:db8::9"),
		"want an IPv6 address of this host": with(testNetwork(), "outbound-ip6", "fe80::1"),
		`option "outbound-ip" are the same: give one`: with(testNetwork(), "outbound-ip", "192.0.2.9",
			"com.docker.network.host_ipv4", "192.0.2.9"),
	} {
		if err := (Driver{}).CheckNetwork(n); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", n.Options, err, want)
		}
	}
	e := testEndpoint()
	e.Outbound = []netip.Addr{netip.MustParseAddr("192.0.2.9")}
	err := Driver{}.CheckEndpoint(with(testNetwork(), "gateway-mode", "routed"), e)
	if err == nil || !strings.Contains(err.Error(), "nothing is masqueraded") {
		t.Errorf("on a routed network: %v", err)
	}
}

func TestEndpointRefuses(t *testing.T) {
	port := func(p cnm.PortMapping) func(*cnm.Network, *cnm.Endpoint) {
		return func(_ *cnm.Network, e *cnm.Endpoint) { e.Ports = []cnm.PortMapping{p} }
	}
	web := cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1}
	for want, change := range map[string]func(*cnm.Network, *cnm.Endpoint){
		"host itself":   func(_ *cnm.Network, e *cnm.Endpoint) { e.NetNS = "" },
		"31 endpoints":  func(_ *cnm.Network, e *cnm.Endpoint) { e.Index = 31 },
		"-1000 to 1000": func(_ *cnm.Network, e *cnm.Endpoint) { e.GwPriority = 1001 },
		"no MAC":        func(_ *cnm.Network, e *cnm.Endpoint) { e.MAC = plan.MAC{} },
		"group address": func(_ *cnm.Network, e *cnm.Endpoint) { e.MAC = plan.MAC{1} },
		"in no subnet":  func(_ *cnm.Network, e *cnm.Endpoint) { e.Addrs[0] = netip.MustParsePrefix("10.8.0.2/24") },
		"is internal":   func(n *cnm.Network, e *cnm.Endpoint) { n.Internal, e.Ports = true, []cnm.PortMapping{web} },
		"no address of that": func(_ *cnm.Network, e *cnm.Endpoint) {
			e.Addrs, e.Ports = e.Addrs[1:], []cnm.PortMapping{
				{Proto: plan.TCP, HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 1, Port: 1, Count: 1}}
		},
		"has no address":  func(_ *cnm.Network, e *cnm.Endpoint) { e.Addrs, e.Ports = nil, []cnm.PortMapping{web} },
		"use tcp, udp":    port(cnm.PortMapping{Proto: "icmp", HostPort: 1, Port: 1, Count: 1}),
		"no host port":    port(cnm.PortMapping{Proto: plan.TCP, HostPort: 0, Port: 1, Count: 1}),
		"beyond the last": port(cnm.PortMapping{Proto: plan.TCP, HostPort: 65535, Port: 1, Count: 2}),
		"multicast": port(cnm.PortMapping{Proto: plan.TCP, HostIP: netip.MustParseAddr("224.0.0.1"), HostPort: 1,
			Port: 1, Count: 1}),
	} {
		n, e := testNetwork(), testEndpoint()
		change(&n, &e)
		_, err := Driver{}.RenderEndpoint(n, e, cnm.Host{})
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("render: want an error with %q, got %v", want, err)
		}
		if err := (Driver{}).CheckEndpoint(n, e); !errors.Is(err, cnm.ErrInvalid) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("check: want an error with %q, got %v", want, err)
		}
	}
	e := testEndpoint()
	e.Ports = []cnm.PortMapping{{Proto: plan.TCP, Port: 80, Count: 1, Dynamic: true}}
	if err := (Driver{}).CheckEndpoint(testNetwork(), e); err != nil {
		t.Errorf("a port still to be chosen: %v", err)
	}
}

func TestDeletingRendersNothing(t *testing.T) {
	n, e := testNetwork(), testEndpoint()
	e.Phase = cnm.Deleting
	if s, err := (Driver{}).RenderEndpoint(n, e, cnm.Host{}); err != nil || stateText(s) != "" {
		t.Errorf("endpoint: %v\n%s", err, stateText(s))
	}
	n.Phase = cnm.Deleting
	if s, err := (Driver{}).RenderNetwork(n, cnm.Host{}); err != nil || stateText(s) != "" {
		t.Errorf("network: %v\n%s", err, stateText(s))
	}
}

func TestHostWithoutIPv6(t *testing.T) {
	h := cnm.Host{NoIPv6: true}
	n, e := onlyIPv4(testNetwork()), testEndpoint()
	e.Addrs, e.Ports = e.Addrs[:1], []cnm.PortMapping{{Proto: plan.TCP, HostPort: 80, Port: 80, Count: 1}}
	a, err := Driver{}.RenderNetwork(n, h)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Driver{}.RenderEndpoint(n, e, h)
	if err != nil {
		t.Fatal(err)
	}
	if text := stateText(a) + stateText(b); strings.Contains(text, "ipv6/") || strings.Contains(text, "[::]") ||
		!strings.Contains(text, "0.0.0.0:80") {
		t.Errorf("want nothing of IPv6:\n%s", text)
	}
	if _, err := (Driver{}).RenderNetwork(testNetwork(), h); err == nil ||
		!strings.Contains(err.Error(), "ipv6.disable=1") {
		t.Errorf("a network with IPv6: got %v", err)
	}
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		option string
		ipv6   bool
		host   int
		want   int
	}{{"", true, 1450, 1450}, {"", true, 0, 1500}, {"", true, 1000, 1280}, {"", false, 1000, 1000},
		{"1300", true, 9000, 1300}} {
		n := testNetwork()
		n.IPv6 = c.ipv6
		o := Options{}
		if c.option != "" {
			o, _ = DecodeOptions(map[string]string{"mtu": c.option})
		}
		if got := o.mtu(n, cnm.Host{MTU: c.host}); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

// The kernel takes the lowest metric: higher priority first, then the lower index.
func TestMetricOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) cnm.Endpoint {
			return cnm.Endpoint{GwPriority: rapid.IntRange(-1000, 1000).Draw(t, name+" priority"),
				Index: rapid.IntRange(0, cnm.MaxIndex).Draw(t, name+" index")}
		}
		a, b := draw("a"), draw("b")
		before := a.GwPriority > b.GwPriority || a.GwPriority == b.GwPriority && a.Index < b.Index
		if got := Metric(a) < Metric(b); got != before {
			t.Fatalf("metrics %d and %d", Metric(a), Metric(b))
		}
	})
}

// A render is a function of its input: the same every time, whatever order a map
// is walked in, with every element's key of its set's length.
func TestRenderIsDeterministic(t *testing.T) {
	keys := map[string]plan.Set{}
	for _, s := range firewall.Base(firewall.Config{}).Rules.Sets {
		keys[string(s.Family)+" "+s.Name] = s
	}
	options := map[string][]string{
		"mtu": {"1280", "9000"}, "icc": {"true", "false"}, "masquerade": {"false"},
		"source-validation": {"true", "false"},
		"host-binding":      {"127.0.0.1", "::1"}, "bridge-name": {"br0"}, "gateway-mode": {"nat", "routed"},
		"gateway-mode-ipv6": {"nat-unprotected", "isolated"},
	}
	rapid.Check(t, func(t *rapid.T) {
		n, e := testNetwork(), testEndpoint()
		n.Internal = rapid.Bool().Draw(t, "internal")
		chosen := map[string]string{}
		for _, name := range slices.Sorted(maps.Keys(options)) {
			if rapid.Bool().Draw(t, name) {
				chosen[name] = rapid.SampledFrom(options[name]).Draw(t, name+" value")
			}
		}
		e.Ports = rapid.SliceOfN(rapid.Custom(drawPort), 0, 4).Draw(t, "ports")
		render := func() (string, error) {
			n.Options = map[string]string{}
			for k, v := range chosen {
				n.Options[k] = v
			}
			a, err := Driver{}.RenderNetwork(n, cnm.Host{MTU: 1500})
			if err != nil {
				return "", err
			}
			b, err := Driver{}.RenderEndpoint(n, e, cnm.Host{MTU: 1500})
			for _, el := range append(a.Rules.Elements, b.Rules.Elements...) {
				s, ok := keys[string(el.Family)+" "+el.Set]
				if !ok || len(s.KeyTypes) != len(el.Keys) || len(s.Data) != len(el.Data) || el.Owner == "" {
					t.Fatalf("element %s does not fit set %s", el, s)
				}
			}
			return stateText(a) + stateText(b), err
		}
		first, err1 := render()
		second, err2 := render()
		if first != second || (err1 == nil) != (err2 == nil) {
			t.Fatalf("two renders differ: %v, %v\n%s\n%s", err1, err2, first, second)
		}
	})
}

func drawPort(t *rapid.T) cnm.PortMapping {
	return cnm.PortMapping{
		Proto: rapid.SampledFrom([]plan.L4{plan.TCP, plan.UDP, plan.SCTP}).Draw(t, "proto"),
		HostIP: rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1"),
			netip.IPv4Unspecified()}).Draw(t, "host"),
		HostPort: rapid.Uint16Range(1, 60000).Draw(t, "from"),
		Port:     rapid.Uint16Range(1, 60000).Draw(t, "to"),
		Count:    rapid.Uint16Range(1, 20).Draw(t, "count"),
	}
}
