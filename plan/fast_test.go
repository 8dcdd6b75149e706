package plan

import (
	"maps"
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

// TestProgramsGoWithTheirLinks tells programs that are taken off from those that a link takes with it.
func TestProgramsGoWithTheirLinks(t *testing.T) {
	state := func(links, programs int) (s State) {
		for _, name := range []string{"vle-1", "vle-2"}[:links] {
			l := Link{Name: name, Kind: Veth, Owner: "endpoint/1"}
			if name == "vle-1" { // it goes with the namespace of its other end, in the kernel's own time
				s.Namespaces = []Namespace{{Name: "box"}}
				l.Peer = VethPeer{NS: "box", Name: "eth0"}
			}
			s.Links = append(s.Links, l)
		}
		for _, l := range s.Links[:programs] {
			s.Fast.Programs = append(s.Fast.Programs, FastProgram{Link: l.Name, Network: "a"})
		}
		return s
	}
	for _, c := range []struct {
		want   State
		leaves map[string]bool
	}{
		{state(2, 1), map[string]bool{"vle-2": false}},
		{state(1, 1), map[string]bool{"vle-2": true}},
		{state(0, 0), map[string]bool{"vle-1": false, "vle-2": true}},
	} {
		got := map[string]bool{}
		for _, op := range Diff(c.want, state(2, 2)) {
			if p, ok := op.Object.(FastProgram); ok && op.Verb == Delete {
				got[p.Link] = p.Leaves
			}
		}
		if !maps.Equal(got, c.leaves) {
			t.Errorf("%d links and %d programs are left: %v, want %v", len(c.want.Links),
				len(c.want.Fast.Programs), got, c.leaves)
		}
	}
}
