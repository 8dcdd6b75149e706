package routed

import (
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

func TestNothingWithoutSubnet(t *testing.T) {
	for _, d := range drivers() {
		n := network(d, true)
		n.Pools = nil
		deleting := network(d, true)
		deleting.Phase = cnm.Deleting
		for _, n := range []cnm.Network{n, deleting} {
			s, err := d.RenderNetwork(n, host(true, true))
			if err != nil || !s.Empty() {
				t.Errorf("%s: %v\n%s", d.Name(), err, text(s))
			}
			p, err := d.RenderPeer(n, cnm.Peer{Prefixes: []netip.Prefix{prefix("10.5.2.0/24")}}, host(true, true))
			if err != nil || !p.Empty() {
				t.Errorf("%s: %v\n%s", d.Name(), err, text(p))
			}
		}
	}
}

// A node that has lost its uplink, or its network, keeps its own endpoints connected and nothing else.
func TestBridgeAlone(t *testing.T) {
	plain, err := bridge.DecodeOptions(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range drivers() {
		gone := network(d, true)
		gone.Cluster.Gone = true
		for name, c := range map[string]struct {
			n cnm.Network
			h cnm.Host
		}{"gone": {gone, host(true, true)}, "no uplink": {network(d, true), cnm.Host{MTU: 1500, Node: "node-a"}}} {
			s, err := d.RenderNetwork(c.n, c.h)
			if err != nil {
				t.Fatal(err)
			}
			alone, err := bridge.RenderNetwork(c.n, plain, cnm.Host{MTU: 1500})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(text(alone), text(s)); diff != "" {
				t.Errorf("%s, %s: %s", d.Name(), name, diff)
			}
			p, err := d.RenderPeer(c.n, cnm.Peer{Prefixes: []netip.Prefix{prefix("10.5.2.0/24")}}, c.h)
			if err != nil || !p.Empty() {
				t.Errorf("%s, %s: %v\n%s", d.Name(), name, err, text(p))
			}
		}
		if _, err := d.Attrs(network(d, true), cnm.Host{}); !errors.Is(err, cnm.ErrUnavailable) {
			t.Errorf("%s: a lease without an uplink: %v", d.Name(), err)
		}
	}
}

// Every element fits a set of the fabric's, and every endpoint's MTU leaves room for the tunnel.
func TestElementsFitTheFabric(t *testing.T) {
	sets := map[string]plan.Set{}
	for _, s := range firewall.Base(firewall.Config{}).Rules.Sets {
		if err := s.Validate(); err != nil {
			t.Error(err)
		}
		sets[string(s.Family)+" "+s.Name] = s
	}
	for _, d := range drivers() {
		n := network(d, true, "direct-routing", "true")
		n.Internal = true
		s, err := d.RenderNetwork(n, host(true, true))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range s.Rules.Elements {
			if err := e.Validate(sets[string(e.Family)+" "+e.Set]); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestMTU(t *testing.T) {
	for _, c := range []struct {
		driver int
		h      cnm.Host
		ipv6   bool
		kv     []string
		want   int
	}{
		{0, host(true, true), true, nil, 1500},
		{0, host(true, false), false, []string{"direct-routing", "true"}, 1450},
		{0, host(true, true), true, []string{"direct-routing", "true"}, 1430},
		{1, host(true, false), true, nil, 1450},
		{1, host(true, true), false, nil, 1450},
		{1, host(true, true), true, nil, 1430},
		{1, host(false, true), false, nil, 1430},
		{1, host(true, false), false, []string{"mtu", "1400"}, 1400},
		{1, host(true, false), false, []string{"mtu", "9000"}, 1450},
		{1, cnm.Host{MTU: 1300, Node: "a", Uplink: cnm.Uplink{Link: "eth0", MTU: 1300, Addr4: addr("192.0.2.1")}},
			true, nil, 1280},
		{2, host(true, true), true, nil, 1472},
		{2, host(false, true), true, nil, 1452},
	} {
		d := drivers()[c.driver]
		n := network(d, c.ipv6, c.kv...)
		s, err := d.RenderNetwork(n, c.h)
		if err != nil {
			t.Fatal(err)
		}
		e := cnm.Endpoint{
			ID: strings.Repeat("9", 64), NetNS: "box", Phase: cnm.Active, MAC: plan.MAC{2, 1},
			Addrs: []netip.Prefix{prefix("10.5.1.9/24")},
		}
		inner, err := d.RenderEndpoint(n, e, c.h)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range append(s.Links, inner.Links...) {
			want := c.want
			if l.Kind == plan.VXLAN && len(c.kv) > 1 && c.kv[0] == "mtu" {
				want = 1450
			}
			if l.MTU != want {
				t.Errorf("%s %v: %s has MTU %d, want %d", d.Name(), c.kv, l.Name, l.MTU, want)
			}
		}
		if env, err := d.Env(network(d, c.ipv6, c.kv...), c.h); err != nil || env.MTU != c.want {
			t.Errorf("%s %v: the file has MTU %d, %v, want %d", d.Name(), c.kv, env.MTU, err, c.want)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	hostgw, vxlan, udp := drivers()[0], drivers()[1], drivers()[2]
	for _, c := range []struct {
		d    Driver
		kv   []string
		want []string
	}{
		{vxlan, []string{"vnl", "1"}, []string{`unknown option "vnl"`, `did you mean "vni"`,
			"driver vxlan knows bridge-name, direct-routing, fastpath, flannel.prefix,",
			"subnet-length, subnet-length6, vni"}},
		{udp, []string{"vni", "1"}, []string{`unknown option "vni"`, "driver udp knows", "offload"}},
		{hostgw, []string{"offload", "off"}, []string{`unknown option "offload"`, "driver host-gw knows"}},
		{hostgw, []string{"port", "9"}, []string{"option port=9", "direct-routing=true"}},
		{hostgw, []string{"vni", "9", "direct-routing", "false"}, []string{"option vni=9", "leave the option out"}},
		{vxlan, []string{"vni", "0"}, []string{`vni="0"`, "1 to 16777215"}},
		{vxlan, []string{"vni", "16777216"}, []string{"1 to 16777215"}},
		{udp, []string{"port", "65536"}, []string{`port="65536"`, "1 to 65535"}},
		{udp, []string{"offload", "no"}, []string{"on or off"}},
		{udp, []string{"direct-routing", "maybe"}, []string{"true or false"}},
		{udp, []string{"subnet-length", "31"}, []string{"1 to 30"}},
		{udp, []string{"subnet-length", "17"}, []string{"subnet-length", "SubnetLen 17", "want 18 at least"}},
		{udp, []string{"subnet-length6", "64"}, []string{"turn the family on"}},
		{udp, []string{"flannel.prefix", "coreos.com"}, []string{"/coreos.com/network"}},
		{udp, []string{"flannel.prefix", "/a/../b"}, []string{"/coreos.com/network"}},
		{udp, []string{"subnet-env", "/run/subnet.env"}, []string{`unknown option "subnet-env"`}}, // a node's setting
		{udp, []string{"mtu", "67"}, []string{"68 to 65535"}},
		{udp, []string{"routes", "10.9.0.0/16"}, []string{"option routes", "overlay"}},
		{udp, []string{"gateway-mode-ipv4", "isolated"}, []string{"leads by the gateway", "overlay"}},
		{udp, []string{"masquerade", "true", "gateway-mode", "routed"}, []string{"does not masquerade"}},
	} {
		err := c.d.CheckNetwork(network(c.d, false, c.kv...))
		if !errors.Is(err, cnm.ErrInvalid) {
			t.Errorf("%v: %v", c.kv, err)
			continue
		}
		for _, part := range c.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: %q lacks %q", c.kv, err, part)
			}
		}
	}
}

func TestPeersRefused(t *testing.T) {
	hostgw, vxlan := drivers()[0], drivers()[1]
	good := func(d Driver) cnm.Peer { return peer(t, d, network(d, false), host(true, false), true) }
	for want, c := range map[string]struct {
		d      Driver
		change func(*cnm.Peer)
	}{
		"node node-b (198.51.100.9)": {hostgw, func(p *cnm.Peer) { p.Addr4 = addr("198.51.100.9") }},
		"198.51.100.8 is not on the link eth0; use a network of driver vxlan or udp, or make this one with -o " +
			"direct-routing=true": {
			hostgw, func(p *cnm.Peer) { p.Addr4 = addr("198.51.100.8") }},
		"no IPv4 addresses in common":    {hostgw, func(p *cnm.Peer) { p.Addr4 = netip.Addr{} }},
		"no VXLAN devices over a common": {vxlan, func(p *cnm.Peer) { p.MAC = plan.MAC{} }},
		`reached by the backend "udp"`:   {vxlan, func(p *cnm.Peer) { p.Backend = "udp" }},
		"192.0.2.1 is this node's own":   {vxlan, func(p *cnm.Peer) { p.Addr4 = addr("192.0.2.1") }},
		"10.6.0.0/24 is not inside": {vxlan,
			func(p *cnm.Peer) { p.Prefixes = []netip.Prefix{prefix("10.6.0.0/24")} }},
		"10.0.0.0/8 is not inside": {vxlan,
			func(p *cnm.Peer) { p.Prefixes = []netip.Prefix{prefix("10.0.0.0/8")} }},
		"10.5.1.128/25 overlaps 10.5.1.0": {vxlan,
			func(p *cnm.Peer) { p.Prefixes = []netip.Prefix{prefix("10.5.1.128/25")} }},
	} {
		p := good(c.d)
		c.change(&p)
		_, err := c.d.RenderPeer(network(c.d, false), p, host(true, false))
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

// Leases of flanneld's, as they stand in etcd.
func TestLeasesOfFlannel(t *testing.T) {
	vxlan := drivers()[1]
	n := network(vxlan, true)
	n.Cluster.VNI = 1
	const key = "10.5.2.0-24&fd05:0:0:2::-64"
	const head = `{"PublicIP":"192.0.2.7","PublicIPv6":"2001:db8::7","BackendType":"vxlan","BackendData":`
	read := func(value string) (cnm.Peer, error) {
		l, err := subnet.ParseLease(key, []byte(value))
		if err != nil {
			t.Fatal(err)
		}
		return vxlan.Peer(n, l)
	}
	got, err := read(head + `{"VNI":1,"VtepMAC":"9a:d2:e1:5b:5e:4c"},` +
		`"BackendV6Data":{"VNI":1,"VtepMAC":"9a:d2:e1:5b:5e:4d"}}`)
	want := cnm.Peer{
		ID: cnm.PeerID(n.ID, key), Network: n.ID, Prefixes: []netip.Prefix{prefix("10.5.2.0/24"),
			prefix("fd05:0:0:2::/64")},
		Addr4: addr("192.0.2.7"), Addr6: addr("2001:db8::7"), MAC: plan.MAC{0x9a, 0xd2, 0xe1, 0x5b, 0x5e, 0x4c},
		MAC6: plan.MAC{0x9a, 0xd2, 0xe1, 0x5b, 0x5e, 0x4d}, Backend: "vxlan",
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for want, data := range map[string]string{
		"neither BackendData nor":        `null}`,
		"want {":                         `"x"}`,
		`VtepMAC "" is no`:               `{"VNI":1}}`,
		"is no hardware address":         `{"VNI":1,"VtepMAC":"00:00:00:00:fe:80:00:00"}}`,
		"address of one device":          `{"VNI":1,"VtepMAC":"01:00:5e:00:00:01"}}`,
		"VNI 2, and the network's is 1":  `{"VNI":2,"VtepMAC":"9a:d2:e1:5b:5e:4c"}}`,
		"the host (192.0.2.7, 2001:db8:": `{"VNI":3,"VtepMAC":"9a:d2:e1:5b:5e:4c"}}`,
	} {
		if _, err := read(head + data); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: want an error with %q, got %v", data, want, err)
		}
	}
	if p, err := read(`{"PublicIP":"192.0.2.7","BackendType":"udp"}`); err != nil || p.Backend != "udp" {
		t.Errorf("a lease of another backend: %+v, %v", p, err)
	}
}

func TestConfigAndJoin(t *testing.T) {
	for _, d := range drivers() {
		n := network(d, true, "subnet-length", "26", "direct-routing", "true")
		c, err := d.LeaseConfig(n)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if c, err = subnet.ParseConfig(raw); err != nil {
			t.Fatal(err)
		}
		if c.Network != prefix("10.5.0.0/16") || c.IPv6Network != prefix("fd05::/48") || c.SubnetLen != 26 ||
			c.Backend.Type != d.Name() || c.Backend.VNI != 7 || !c.Backend.DirectRouting {
			t.Errorf("%s: %s", d.Name(), raw)
		}
		joiner := network(d, false, "flannel.prefix", "/coreos.com/network")
		joiner.Cluster, joiner.Pools = nil, nil
		if got := d.JoinDir(joiner); got != "/coreos.com/network" {
			t.Errorf("%s joins %q", d.Name(), got)
		}
		got, tunnel, err := d.Join(joiner, "/coreos.com/network", c)
		if err != nil {
			t.Fatal(err)
		}
		if !got.IPv6 || got.Options["direct-routing"] != "true" ||
			!slices.Equal(got.Cluster.Subnets, n.Cluster.Subnets) || got.Cluster.Leases != "/coreos.com/network" {
			t.Errorf("%s: %+v", d.Name(), got)
		}
		if tunnel.Kind == "vxlan" && (tunnel.VNI != 7 || tunnel.Port != 8472) || tunnel.Kind == "udp" &&
			tunnel.Port != 8285 || tunnel.LastVNI != 0 || tunnel.LastPort != 0 {
			t.Errorf("%s: %+v", d.Name(), tunnel)
		}
		if joiner.Options["direct-routing"] != "" {
			t.Error("the network that was given is changed")
		}
	}
}

func TestJoinRefused(t *testing.T) {
	vxlan := drivers()[1]
	for want, c := range map[string]struct {
		config string
		ipv6   bool
		kv     []string
	}{
		`its backend is "udp": make the network with the driver of that name, not with vxlan`: {
			`{"Network":"10.5.0.0/16"}`, false, nil},
		"it has no IPv6": {`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, true, nil},
		"vni=9, and it has 1": {`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, false,
			[]string{"vni", "9"}},
		"port=9, and it has 8472": {`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, false,
			[]string{"port", "9"}},
		"subnet-length=26, and it has 24": {`{"Network":"10.5.0.0/16","Backend":{"Type":"vxlan"}}`, false,
			[]string{"subnet-length", "26"}},
	} {
		config, err := subnet.ParseConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		n := network(vxlan, c.ipv6, append(c.kv, "flannel.prefix", "/coreos.com/network")...)
		if _, _, err = vxlan.Join(n, "/coreos.com/network", config); !errors.Is(err, cnm.ErrInvalid) ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("want an error with %q, got %v", want, err)
		}
	}
}

func TestEnv(t *testing.T) {
	d := drivers()[0]
	env, err := d.Env(network(d, true), host(true, true))
	want := subnet.Env{
		Network: prefix("10.5.0.0/16"), IPv6Network: prefix("fd05::/48"), Subnet: prefix("10.5.1.1/24"),
		IPv6Subnet: prefix("fd05:0:0:1::1/64"), MTU: 1500, Masquerade: true,
	}
	if err != nil || env != want {
		t.Errorf("%+v, %v", env, err)
	}
}

// Two nodes, two networks and two families make different addresses; the same ones the same.
func TestHardwareAddresses(t *testing.T) {
	vxlan := drivers()[1]
	seen := map[string]bool{}
	for _, id := range []string{"a", "b"} {
		for _, network := range []cnm.Network{network(vxlan, true),
			func() cnm.Network { n := network(vxlan, true); n.ID = strings.Repeat("8", 64); return n }()} {
			h := host(true, true)
			h.Node = id
			a, err := vxlan.Attrs(network, h)
			if err != nil {
				t.Fatal(err)
			}
			for _, raw := range []json.RawMessage{a.BackendData, a.BackendV6Data} {
				if seen[string(raw)] {
					t.Errorf("%s twice", raw)
				}
				seen[string(raw)] = true
				var d struct{ VtepMAC string }
				if err := json.Unmarshal(raw, &d); err != nil || !strings.Contains("26ae", d.VtepMAC[1:2]) {
					t.Errorf("%s is not locally administered and unicast (%v)", raw, err)
				}
			}
		}
	}
}
