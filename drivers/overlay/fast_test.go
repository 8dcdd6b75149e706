package overlay

import (
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/cnm"
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
		blocks := peerBlocks()
		golden.Equal(t, name+".txt", "network\n"+fast(Driver{}.RenderNetwork(network(), h))+"\nendpoint\n"+
			fast(Driver{}.RenderEndpoint(network(), endpoint(), h))+"\npeer\n"+
			fast(Driver{}.RenderPeer(network(), peer(), h))+"\nblocks\n"+
			fast(Driver{}.RenderPeer(network(), blocks, h)))
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

// peerBlocks are what another node with the fast path has of the network.
func peerBlocks() cnm.Peer {
	p := peer()
	p.ID, p.Endpoint, p.Blocks, p.Fast, p.MAC = "3f2a91bc/blocks-77", false, true, true, plan.MAC{}
	p.Prefixes = []netip.Prefix{prefix("10.5.2.0/26"), prefix("fd05::2:0/122")}
	return p
}

// TestWhatLeadsByAddress tells when blocks lead to endpoints, and when these have entries of their own.
func TestWhatLeadsByAddress(t *testing.T) {
	inBlock, slow := peer(), peerBlocks()
	inBlock.InBlock, slow.Fast = true, false
	for _, c := range []struct {
		name          string
		n             cnm.Network
		fast          bool
		p             cnm.Peer
		neighs, peers int
		fdb           int
		watched       bool // somebody's rules are about the network's bridge
	}{
		{"an endpoint in a block", network(), true, inBlock, 0, 0, 0, false},
		{"one that is not", network(), true, peer(), 2, 2, 2, false},
		{"on a host without the fast path", network(), false, inBlock, 2, 0, 2, false},
		{"on a network without it", network("fastpath", "off"), true, inBlock, 2, 0, 2, false},
		{"on a network that copies nothing", network("multicast", "false"), true, inBlock, 2, 2, 2, false},
		{"blocks", network(), true, peerBlocks(), 0, 2, 2, false},
		{"blocks of a node without the fast path", network(), true, slow, 0, 0, 2, false},
		{"blocks, on a host without the fast path", network(), false, peerBlocks(), 0, 0, 2, false},
		{"blocks of a network without it", network("fastpath", "off"), true, peerBlocks(), 0, 0, 2, false},
		{"blocks of a network that copies nothing", network("multicast", "false"), true, peerBlocks(), 0, 0, 2, false},
		{"blocks of a network that others watch", network(), true, peerBlocks(), 0, 2, 2, true},
		{"an endpoint of it", network(), true, peer(), 2, 0, 2, true},
	} {
		h := host(true, true)
		if c.watched {
			h.Filters.Links = []string{"vlb-*"}
		}
		h.Fast = c.fast
		s, err := Driver{}.RenderPeer(c.n, c.p, h)
		if err != nil || len(s.Neighs) != c.neighs || len(s.Fast.Peers) != c.peers || len(s.FDB) != c.fdb {
			t.Errorf("%s: %v\n%s", c.name, err, text(s))
		}
	}
}

// An endpoint that takes the slow path is known by its addresses, where these lead to its node.
func TestSlowEndpointsAreKnownByAddress(t *testing.T) {
	e, h := endpoint(), host(true, true)
	e.RateIn, h.Fast = 1_000_000, true
	s, err := Driver{}.RenderEndpoint(network(), e, h)
	if err != nil || len(s.Fast.Endpoints) != 2 || !s.Fast.Endpoints[0].Slow || len(s.Fast.Programs)+
		len(s.Fast.Ports) != 0 {
		t.Errorf("%v\n%s", err, text(plan.State{Fast: s.Fast}))
	}
	watched, e2 := h, endpoint() // somebody's rules are about the network's bridge
	watched.Filters.Links = []string{"vlb-*"}
	s, err = Driver{}.RenderEndpoint(network(), e2, watched)
	if err != nil || len(s.Fast.Endpoints) != 2 || !s.Fast.Endpoints[0].Slow || len(s.Fast.Programs) != 0 {
		t.Errorf("%v\n%s", err, text(plan.State{Fast: s.Fast}))
	}
	s, err = Driver{}.RenderEndpoint(network("multicast", "false"), e, h)
	if err != nil || len(s.Fast.Endpoints) != 0 {
		t.Errorf("%v\n%s", err, text(plan.State{Fast: s.Fast}))
	}
}
