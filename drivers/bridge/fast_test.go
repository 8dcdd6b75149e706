package bridge

import (
	"fmt"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

func fastText(s plan.State) string {
	var b strings.Builder
	for o := range (plan.State{Fast: s.Fast}).Objects() {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// TestFastGolden renders what networks and endpoints have on the fast path.
func TestFastGolden(t *testing.T) {
	h := cnm.Host{MTU: 1500, Fast: true}
	publishing := testEndpoint()
	publishing.Ports = []cnm.PortMapping{{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 2},
		{Proto: plan.SCTP, HostPort: 9000, Port: 90, Count: 1}}
	var all strings.Builder
	for _, c := range []struct {
		name string
		n    cnm.Network
		e    cnm.Endpoint
	}{
		{"plain", testNetwork(), testEndpoint()}, {"publishing", testNetwork(), publishing},
	} {
		n, err := Driver{}.RenderNetwork(c.n, h)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Driver{}.RenderEndpoint(c.n, c.e, h)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&all, "# %s\n%s%s", c.name, fastText(n), fastText(e))
	}
	golden.Equal(t, "fast.txt", all.String())
}

// TestSlowEndpoints have something that the fast path would go round.
func TestSlowEndpoints(t *testing.T) {
	h := cnm.Host{MTU: 1500, Fast: true}
	inCluster := testNetwork()
	inCluster.Cluster = &cnm.ClusterNetwork{}
	limited, many, most := testEndpoint(), testEndpoint(), testEndpoint()
	limited.RateIn = 8e6
	// Of two addresses each.
	many.Ports = []cnm.PortMapping{{Proto: plan.UDP, HostPort: 10000, Port: 10000, Count: 129}}
	most.Ports = []cnm.PortMapping{{Proto: plan.UDP, HostPort: 10000, Port: 10000, Count: 128},
		{Proto: plan.SCTP, HostPort: 9000, Port: 90, Count: 100}}
	for _, c := range []struct {
		name string
		n    cnm.Network
		e    cnm.Endpoint
		h    cnm.Host
		why  string
	}{
		{"off", with(testNetwork(), "fastpath", "off"), testEndpoint(), h, "fastpath=off"},
		{"no icc", with(testNetwork(), "icc", "false"), testEndpoint(), h, "icc=false"},
		{"no source validation", with(testNetwork(), "source-validation", "false"), testEndpoint(), h,
			"source-validation=false"},
		{"on a LAN", with(testNetwork(), "parent", "eth1"), testEndpoint(), h, "on a LAN"},
		{"a rate", testNetwork(), limited, h, "rate"},
		{"many ports", testNetwork(), many, h, "more than 256 ports"},
		{"rules about bridges", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Filters: cnm.Filters{Links: []string{"vlb-*"}}}, "rules of others are about the network's bridge"},
		{"rules about links", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Filters: cnm.Filters{Links: []string{"vle-*"}}}, "rules of others are about its link"},
		{"a chain at the uplink", inCluster, testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Uplink: cnm.Uplink{Link: "eth0"}, Filters: cnm.Filters{Devices: []string{"eth0"}}},
			"at the link to other nodes"},
		{"rules about tunnels", inCluster, testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Filters: cnm.Filters{Links: []string{"vlx-*"}}}, "about the network's tunnel"},
		{"IPsec", inCluster, testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Filters: cnm.Filters{IPsec: true}}, "IPsec"},
		{"a host without", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500, NoFast: "too old a kernel"},
			"no fast path: too old a kernel"},
		{"an option that is none", with(testNetwork(), "fastpath", "on"), testEndpoint(), h, "want auto or off"},
	} {
		if got := (Driver{}).SlowPath(c.n, c.e, c.h); !strings.Contains(got, c.why) {
			t.Errorf("%s: %q, want %q", c.name, got, c.why)
		}
		if c.name == "an option that is none" {
			continue
		}
		s, err := Driver{}.RenderEndpoint(c.n, c.e, c.h)
		if err != nil {
			t.Fatal(err)
		}
		if got := fastText(s); got != "" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	for _, e := range []cnm.Endpoint{testEndpoint(), most} {
		s, err := Driver{}.RenderEndpoint(testNetwork(), e, h)
		if err != nil {
			t.Fatal(err)
		}
		if why := (Driver{}).SlowPath(testNetwork(), e, h); why != "" || fastText(s) == "" {
			t.Errorf("an endpoint that takes the fast path has %q, and is slow by %q", fastText(s), why)
		}
	}
	if _, err := DecodeOptions(map[string]string{"fastpath": "on"}); err == nil ||
		!strings.Contains(err.Error(), "want auto or off") {
		t.Errorf("fastpath=on: %v", err)
	}
}

// TestBigSegments are for what leads nowhere but to other endpoints of the fast path.
func TestBigSegments(t *testing.T) {
	internal, limited := testNetwork(), testEndpoint()
	internal.Internal, limited.RateOut = true, 8e6
	for _, c := range []struct {
		name string
		n    cnm.Network
		e    cnm.Endpoint
		h    cnm.Host
		want int
	}{
		{"internal", internal, testEndpoint(), cnm.Host{MTU: 1500, Fast: true}, bigGSO},
		{"not internal", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500, Fast: true}, 0},
		{"a rate", internal, limited, cnm.Host{MTU: 1500, Fast: true}, 0},
		{"off", with(internal, "fastpath", "off"), testEndpoint(), cnm.Host{MTU: 1500, Fast: true}, 0},
		{"a host without", internal, testEndpoint(), cnm.Host{MTU: 1500}, 0},
	} {
		s, err := Driver{}.RenderEndpoint(c.n, c.e, c.h)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.Links {
			want := c.want
			if l.Kind != plan.Veth {
				want = 0
			}
			if l.GSO != want {
				t.Errorf("%s: link %s has %d, want %d", c.name, l.Name, l.GSO, want)
			}
		}
	}
}
