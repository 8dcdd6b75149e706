package overlay

import (
	"testing"

	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/plan"
)

// TestFastGolden renders what a network has on the fast path.
func TestFastGolden(t *testing.T) {
	fast := func(s plan.State, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text(plan.State{Fast: s.Fast})
	}
	for name, v6 := range map[string]bool{"fast-over-ipv4": false, "fast-over-ipv6": true} {
		h := host(!v6, v6)
		h.Fast = true
		golden.Equal(t, name+".txt", "network\n"+fast(Driver{}.RenderNetwork(network(), h))+"\nendpoint\n"+
			fast(Driver{}.RenderEndpoint(network(), endpoint(), h))+"\npeer\n"+
			fast(Driver{}.RenderPeer(network(), peer(), h)))
		if why := (Driver{}).SlowPath(network(), endpoint(), h); why != "" {
			t.Errorf("%s: slow by %q", name, why)
		}
		limited := endpoint()
		limited.RateOut = 8e6
		if why := (Driver{}).SlowPath(network(), limited, h); why != "it has a rate" {
			t.Errorf("%s, with a rate: slow by %q", name, why)
		}
	}
}
