package cluster_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// share is what a node knows of another one's blocks: a peer for each node.
func (h *host) share(ctx context.Context, of *host) (share cnm.Peer) {
	h.t.Helper()
	for _, p := range h.allPeers(ctx) {
		if p.Blocks && p.Node == of.Member.ID() {
			return p
		}
	}
	return share
}

// attachAt has an endpoint with an address of the network web.
func (h *host) attachAt(ctx context.Context, addr string) (cnm.Sandbox, cnm.Endpoint) {
	h.t.Helper()
	s, e, err := h.attach(ctx, "web", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	return s, e
}

func (h *host) allPeers(ctx context.Context) []cnm.Peer {
	h.t.Helper()
	all, err := cnm.ListPeers(ctx, h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	return all
}

// inBlock reports whether a node knows an endpoint for one that its node's blocks lead to.
func (h *host) inBlock(ctx context.Context, a netip.Addr) bool {
	h.t.Helper()
	for _, p := range h.allPeers(ctx) {
		if p.Endpoint && p.Prefixes[0].Addr() == a {
			return p.InBlock
		}
	}
	return false
}

// A node's blocks are one peer to each other node. It says whether their addresses lead to the node, and takes it back.
func TestSharesOfOtherNodes(t *testing.T) {
	times := cluster.Times{Retry: 20 * time.Millisecond, Idle: 50 * time.Millisecond}
	ctx, _, one, two := pair(t, times)
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	s, e := two.mustAttach(ctx, "web")
	a := e.Addrs[0].Addr()
	await.True(t, "the blocks are a peer", func() bool { return len(one.share(ctx, two).Prefixes) == 1 })
	got := one.share(ctx, two)
	if !got.Prefixes[0].Contains(a) || got.Fast || got.Addr4 != clustertest.Addr(1) || one.inBlock(ctx, a) {
		t.Errorf("a node without the fast path has %+v", got)
	}
	for _, fast := range []bool{true, false, true} {
		two.SetFast(fast)
		await.True(t, fmt.Sprintf("blocks and endpoint lead there: %v", fast), func() bool {
			return one.share(ctx, two).Fast == fast && one.inBlock(ctx, a) == fast
		})
	}
	_, more := two.attachAt(ctx, "10.1.254.7") // of another block
	await.True(t, "a second block is of the same peer", func() bool { return len(one.share(ctx, two).Prefixes) == 2 })
	await.True(t, "an endpoint of it is in a block", func() bool { return one.inBlock(ctx, more.Addrs[0].Addr()) })
	if err := two.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	await.True(t, "a block that is given back is the node's no more", func() bool {
		p := one.share(ctx, two).Prefixes
		return len(p) == 1 && p[0].Contains(more.Addrs[0].Addr())
	})
}

// An endpoint that moves with its address is behind the blocks of the node that it is on.
func TestABlockMovesWithItsEndpoint(t *testing.T) {
	times := cluster.Times{Retry: 20 * time.Millisecond, Idle: 50 * time.Millisecond}
	ctx, a, one, two := pair(t, times)
	three := a.host(ctx, times)
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	for _, h := range []*host{two, three} {
		h.adopted(ctx, "web")
		h.SetFast(true)
	}
	two.attachAt(ctx, "10.1.250.7") // a node keeps its last block
	s, e := two.attachAt(ctx, "10.1.7.7")
	at := e.Addrs[0].Addr()
	has := func(h *host) bool {
		return slices.ContainsFunc(one.share(ctx, h).Prefixes, func(p netip.Prefix) bool { return p.Contains(at) })
	}
	leads := func(h *host) func() bool { return func() bool { return has(h) && one.inBlock(ctx, at) } }
	await.True(t, "it is with the second node", leads(two))
	if err := two.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the third node gets the address", func() bool {
		_, _, err := three.attach(ctx, "web", "10.1.7.7")
		return err == nil
	})
	await.True(t, "it is with the third node", leads(three))
	if has(two) {
		t.Error("the second node still has it")
	}
}

// Whoever can write to etcd gives a node blocks that cannot be its own: they lead nowhere, it is told why, and it is
// over once the record is.
func TestBlocksThatLeadAstray(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	web := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	_, mine := one.attachAt(ctx, "10.1.1.7")
	_, theirs := two.attachAt(ctx, "10.1.2.7")
	await.True(t, "the blocks are a peer", func() bool { return len(one.share(ctx, two).Prefixes) == 1 })
	const ghost = "00000000-0000-4000-8000-00000000dead"
	one.put(ctx, "node/"+ghost, fmt.Sprintf(`{"id":%q,"name":"ghost","addr4":"10.200.0.1","byAddress":true}`, ghost))
	for name, c := range map[string]struct{ block, want string }{
		"of this node":      {"10.1.1.0-28", "which this node gives out"},
		"of another one":    {"10.1.2.0-28", "the older block"},
		"of nobody":         {"10.9.0.0-26", "in no subnet of the network"},
		"the whole network": {"10.1.0.0-16", "larger than a block of 10.1.0.0/16, a /26"},
	} {
		t.Run(name, func(t *testing.T) {
			key := "block/" + web.ID + "." + c.block
			one.put(ctx, key, fmt.Sprintf(`{"node":%q}`, ghost))
			one.problem(c.want, "etcdctl del "+clustertest.Prefix+"/"+key)
			for _, p := range one.allPeers(ctx) {
				if p.Node == ghost {
					t.Errorf("there is a path: %+v", p)
				}
			}
			if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/"+key); err != nil {
				t.Fatal(err)
			}
			await.True(t, "it is over", func() bool { return len(one.Member.Problems()) == 0 })
		})
	}
	if p := one.share(ctx, two).Prefixes; len(p) != 1 || !p[0].Contains(theirs.Addrs[0].Addr()) ||
		p[0].Contains(mine.Addrs[0].Addr()) {
		t.Errorf("the other node has %s", p)
	}
	one.put(ctx, "block/"+web.ID+".10.1.3.0-26", fmt.Sprintf(`{"node":%q}`, ghost))
	await.True(t, "one that can be is a peer", func() bool { return len(one.allPeers(ctx)) == 3 })
	// It has this node's address now, or one that no node can have.
	for _, addr := range []string{clustertest.Addr(0).String(), "127.0.0.1", "10.1.9.9"} {
		one.put(ctx, "node/"+ghost, fmt.Sprintf(`{"id":%q,"name":"ghost","addr4":%q}`, ghost, addr))
		await.True(t, "a node at "+addr+" is none", func() bool { return len(one.allPeers(ctx)) == 2 })
		one.put(ctx, "node/"+ghost, fmt.Sprintf(`{"id":%q,"name":"ghost","addr4":"10.200.0.1"}`, ghost))
		await.True(t, "it is a peer again", func() bool { return len(one.allPeers(ctx)) == 3 })
	}
	// A name that no node gives itself becomes no part of a peer's.
	one.put(ctx, "node/../evil", `{"id":"../evil","name":"evil","addr4":"10.200.0.2"}`)
	one.put(ctx, "block/"+web.ID+".10.1.4.0-26", `{"node":"../evil"}`)
	one.put(ctx, "block/"+web.ID+".10.1.3.64-26", fmt.Sprintf(`{"node":%q}`, ghost)) // after it
	await.True(t, "what came after it is known", func() bool {
		for _, p := range one.allPeers(ctx) {
			if p.Node == ghost && len(p.Prefixes) == 2 {
				return true
			}
		}
		return false
	})
	if n := len(one.allPeers(ctx)); n != 3 {
		t.Errorf("%d peers, want 3: %+v", n, one.allPeers(ctx))
	}
}
