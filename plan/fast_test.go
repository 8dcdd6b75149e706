package plan

import (
	"net/netip"
	"slices"
	"testing"
)

// TestPublishedPortsLeaveTheFastPathFirst orders what a port that is published, and one that is not any more, has
// changed: while a rule translates connections, none of them takes the fast path.
func TestPublishedPortsLeaveTheFastPathFirst(t *testing.T) {
	addr := netip.MustParseAddr("10.1.0.2")
	state := func(published bool) (s State) {
		s.Links = []Link{{Name: "vle-1", Kind: Veth, Owner: "endpoint/1"}}
		s.Fast.Endpoints = []FastEndpoint{{Network: "a", Addr: addr, Link: "vle-1", Publishes: published}}
		if published {
			s.Fast.Ports = []FastPort{{Network: "a", Addr: addr, Proto: TCP, Port: 80}}
			s.Rules.Elements = []Element{{Family: Inet, Set: "ports4", Keys: []string{"80"}, Owner: "endpoint/1"}}
		}
		return s
	}
	for _, published := range []bool{true, false} {
		var order []string
		for _, op := range Diff(state(published), state(!published)) {
			order = append(order, string(op.Verb)+" "+KindOf(op.Object))
		}
		want := []string{"create fast-port", "modify fast-endpoint", "create element"}
		if !published {
			want = []string{"delete element", "delete fast-port", "modify fast-endpoint"}
		}
		if !slices.Equal(order, want) {
			t.Errorf("published %v: %q, want %q", published, order, want)
		}
	}
}
