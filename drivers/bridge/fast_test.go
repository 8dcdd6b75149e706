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
	limited, many := testEndpoint(), testEndpoint()
	limited.RateIn = 8e6
	many.Ports = []cnm.PortMapping{{Proto: plan.UDP, HostPort: 10000, Port: 10000, Count: 200}} // of two addresses each
	for _, c := range []struct {
		name string
		n    cnm.Network
		e    cnm.Endpoint
		h    cnm.Host
	}{
		{"off", with(testNetwork(), "fastpath", "off"), testEndpoint(), h},
		{"no icc", with(testNetwork(), "icc", "false"), testEndpoint(), h},
		{"no source validation", with(testNetwork(), "source-validation", "false"), testEndpoint(), h},
		{"a rate", testNetwork(), limited, h},
		{"many ports", testNetwork(), many, h},
		{"somebody's rules", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500, Fast: true,
			Filters: cnm.Filters{Links: []string{"vlb-*"}}}},
		{"a host without", testNetwork(), testEndpoint(), cnm.Host{MTU: 1500}},
	} {
		s, err := Driver{}.RenderEndpoint(c.n, c.e, c.h)
		if err != nil {
			t.Fatal(err)
		}
		if got := fastText(s); got != "" {
			t.Errorf("%s: %s", c.name, got)
		}
	}
	if _, err := DecodeOptions(map[string]string{"fastpath": "on"}); err == nil ||
		!strings.Contains(err.Error(), "want auto or off") {
		t.Errorf("fastpath=on: %v", err)
	}
}
