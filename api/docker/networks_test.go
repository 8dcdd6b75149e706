package docker_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/engine"
)

func ptr[T any](v T) *T { return &v }

// created is a network that has all that a request can say.
func created(t *testing.T, c *client.Client) network.Inspect {
	t.Helper()
	made, err := c.NetworkCreate(t.Context(), "web", client.NetworkCreateOptions{
		Driver: "bridge", EnableIPv6: ptr(true), Internal: true, Labels: map[string]string{"tier": "front"},
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
		IPAM: &network.IPAM{Driver: "default", Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("10.7.0.0/24"), IPRange: netip.MustParsePrefix("10.7.0.128/25"),
			Gateway: netip.MustParseAddr("10.7.0.9"), AuxAddress: map[string]netip.Addr{
				"printer": netip.MustParseAddr("10.7.0.200")},
		}, {Subnet: netip.MustParsePrefix("fd00:7::/64")}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := c.NetworkInspect(t.Context(), made.ID, client.NetworkInspectOptions{Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return n.Network
}

func TestNetwork(t *testing.T) {
	c, _ := serve(t, fake.New())
	n := created(t, c)
	want := network.Inspect{Network: network.Network{
		Name: "web", ID: n.ID, Created: fake.Epoch, Scope: "local", Driver: "bridge", EnableIPv4: true,
		EnableIPv6: true, Internal: true, Labels: map[string]string{"tier": "front"},
		Options: map[string]string{"com.docker.network.driver.mtu": "1400"},
		IPAM: network.IPAM{Driver: "default", Options: map[string]string{}, Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("10.7.0.0/24"), IPRange: netip.MustParsePrefix("10.7.0.128/25"),
			Gateway: netip.MustParseAddr("10.7.0.9"), AuxAddress: map[string]netip.Addr{
				"printer": netip.MustParseAddr("10.7.0.200")},
		}, {Subnet: netip.MustParsePrefix("fd00:7::/64"), Gateway: netip.MustParseAddr("fd00:7::1")}}},
	}, Containers: map[string]network.EndpointResource{}}
	same := cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})}
	if diff := cmp.Diff(want, n, same); diff != "" {
		t.Error(diff)
	}
	if _, err := c.NetworkCreate(t.Context(), "web", client.NetworkCreateOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("a name twice: %v", err)
	}
	if _, err := c.NetworkRemove(t.Context(), "web", client.NetworkRemoveOptions{}); err != nil {
		t.Error(err)
	}
	_, err := c.NetworkInspect(t.Context(), "web", client.NetworkInspectOptions{})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a network that is gone: %v", err)
	}
}

func TestNetworkRefusals(t *testing.T) {
	c, _ := serve(t, fake.New())
	for name, o := range map[string]client.NetworkCreateOptions{
		"routing mesh": {Ingress: true}, "networks of a swarm": {Scope: "swarm"},
		"did you mean 10.7.0.0/24?": {IPAM: &network.IPAM{Config: []network.IPAMConfig{{
			Subnet: netip.MustParsePrefix("10.7.0.1/24")}}}},
	} {
		_, err := c.NetworkCreate(t.Context(), "web", o)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"bridge", "host", "none"} {
		_, err := c.NetworkRemove(t.Context(), name, client.NetworkRemoveOptions{})
		if !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "pre-defined") {
			t.Errorf("remove %s: %v", name, err)
		}
	}
}

func TestNetworkList(t *testing.T) {
	c, _ := serve(t, fake.New())
	created(t, c)
	if _, err := c.NetworkCreate(t.Context(), "wide", client.NetworkCreateOptions{Driver: "overlay"}); err != nil {
		t.Fatal(err)
	}
	for filter, want := range map[string]string{
		"":                "bridge host none web wide",
		"name=web":        "web",
		"name=^w":         "web wide",
		"driver=null":     "none",
		"label=tier":      "web",
		"label=tier=back": "",
		"type=builtin":    "bridge host none",
		"scope=global":    "wide",
		"dangling=1":      "web wide",
	} {
		f := client.Filters{}
		if key, value, ok := strings.Cut(filter, "="); ok {
			f = f.Add(key, value)
		}
		all, err := c.NetworkList(t.Context(), client.NetworkListOptions{Filters: f})
		if err != nil {
			t.Errorf("%s: %v", filter, err)
		}
		var names []string
		for _, n := range all.Items {
			names = append(names, n.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: got %q, want %q", filter, got, want)
		}
	}
	_, err := c.NetworkList(t.Context(), client.NetworkListOptions{Filters: client.Filters{}.Add("colour", "red")})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("a filter that there is not: %v", err)
	}
	p, err := c.NetworkPrune(t.Context(), client.NetworkPruneOptions{Filters: client.Filters{}.Add("label!", "tier")})
	if err != nil || strings.Join(p.Report.NetworksDeleted, " ") != "wide" {
		t.Errorf("pruned %v, %v", p, err)
	}
}

func TestConnect(t *testing.T) {
	d := fake.New()
	c, _ := serve(t, d)
	n := created(t, c)
	id, _, err := d.Create(t.Context(), engine.Spec{Name: "app", Image: "busybox"})
	if err != nil {
		t.Fatal(err)
	}
	mac := network.HardwareAddr{2, 0, 0, 0, 0, 7}
	_, err = c.NetworkConnect(t.Context(), "web", client.NetworkConnectOptions{Container: "app",
		EndpointConfig: &network.EndpointSettings{Aliases: []string{"www"}, MacAddress: mac, GwPriority: 3,
			DriverOpts: map[string]string{"com.docker.network.endpoint.ifname": "web0"},
			IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.MustParseAddr("10.7.0.150"),
				IPv6Address: netip.MustParseAddr("fd00:7::15")}}})
	if err != nil {
		t.Fatal(err)
	}
	ends, err := d.ListEndpoints(t.Context(), "web")
	if err != nil || len(ends) != 1 || ends[0].Aliases[0] != "www" || ends[0].GwPriority != 3 ||
		ends[0].IfName != "web0" {
		t.Errorf("%+v, %v", ends, err)
	}
	seen, err := c.NetworkInspect(t.Context(), n.ID, client.NetworkInspectOptions{})
	want := map[string]network.EndpointResource{id: {Name: "app", EndpointID: ends[0].ID, MacAddress: mac,
		IPv4Address: netip.MustParsePrefix("10.7.0.150/24"), IPv6Address: netip.MustParsePrefix("fd00:7::15/64")}}
	diff := cmp.Diff(want, seen.Network.Containers, cmpopts.EquateComparable(netip.Prefix{}))
	if diff != "" || err != nil {
		t.Errorf("%v %s", err, diff)
	}
	if _, err := c.NetworkRemove(t.Context(), "web", client.NetworkRemoveOptions{}); !errdefs.IsConflict(err) {
		t.Errorf("remove a network that is in use: %v", err)
	}
	for what, e := range map[string]*network.EndpointSettings{
		"Links":        {Links: []string{"db:db"}},
		"MacAddress":   {MacAddress: network.HardwareAddr{2, 0, 0, 0, 0, 0, 0, 7}},
		"IPv4Address":  {IPAMConfig: &network.EndpointIPAMConfig{IPv4Address: netip.IPv6Loopback()}},
		"driver-opt":   {DriverOpts: map[string]string{"colour": "red"}},
		"LinkLocalIPs": {IPAMConfig: &network.EndpointIPAMConfig{LinkLocalIPs: []netip.Addr{netip.IPv6Loopback()}}},
	} {
		_, err := c.NetworkConnect(t.Context(), "web", client.NetworkConnectOptions{Container: "app",
			EndpointConfig: e})
		if err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	off := client.NetworkDisconnectOptions{Container: "app"}
	if _, err := c.NetworkDisconnect(t.Context(), "web", off); err != nil {
		t.Error(err)
	}
	_, err = c.NetworkDisconnect(t.Context(), "web", off)
	if !errdefs.IsNotFound(err) {
		t.Errorf("disconnected twice: %v", err)
	}
	_, err = c.NetworkConnect(t.Context(), "web", client.NetworkConnectOptions{Container: "nosuch"})
	if !errdefs.IsNotFound(err) {
		t.Errorf("a container that there is not: %v", err)
	}
}
