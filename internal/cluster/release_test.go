package cluster_test

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
)

// blocks are those of a network that a node has, as another one knows.
func (h *host) blocks(of *host, network string) []netip.Prefix {
	n := h.node(of.Member.ID())
	if n == nil {
		return nil
	}
	return n.Blocks[network]
}

// Addresses that nobody uses are free for other nodes after a while, but for one block: containers start with it while
// etcd is away. A single address that was asked for is not kept.
func TestUnusedBlocksAreGivenBack(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{Idle: 200 * time.Millisecond, Retry: 20 * time.Millisecond})
	one.create(ctx, "small", "overlay", "10.1.0.0/28") // four blocks of four addresses
	two.adopted(ctx, "small")
	var boxes []string
	for range 9 {
		s, _ := one.mustAttach(ctx, "small")
		boxes = append(boxes, s.ID)
	}
	await.True(t, "all of them are known there", func() bool { return len(two.blocks(one, "small")) >= 3 })
	for _, id := range boxes[1:] {
		if err := one.Controller.DeleteSandbox(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	await.Value(t, "blocks that the one left over needs", 1, func() int { return len(two.blocks(one, "small")) })
	for range 8 {
		two.mustAttach(ctx, "small")
	}
	if err := one.Controller.DeleteSandbox(ctx, boxes[0]); err != nil {
		t.Fatal(err)
	}
	s, e := one.mustAttach(ctx, "small") // of the block that it has kept
	if err := one.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	if kept := two.blocks(one, "small"); len(kept) != 1 || !kept[0].Contains(e.Addrs[0].Addr()) {
		t.Errorf("kept %v, attached as %v", kept, e.Addrs)
	}
}

// Blocks come and go under endpoints that come and go: nobody loses its address, and no two have the same.
func TestBlocksComeAndGo(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{Idle: time.Millisecond, Retry: 5 * time.Millisecond})
	one.create(ctx, "busy", "overlay", "10.1.0.0/24")
	two.adopted(ctx, "busy")
	var mu sync.Mutex
	held := map[netip.Addr]string{}
	var work sync.WaitGroup
	for _, h := range []*host{one, two} {
		for range 3 {
			work.Go(func() {
				for range 15 {
					s, e, err := h.attach(ctx, "busy")
					if err != nil {
						t.Error(err)
						return
					}
					a := e.Addrs[0].Addr()
					mu.Lock()
					if other := held[a]; other != "" {
						t.Errorf("%s is given out twice", a)
					}
					held[a] = s.ID
					mu.Unlock()
					h.Member.Changed()
					rec, err := h.store.Get(ctx, cnm.Key{Kind: cnm.KindEndpoint, ID: e.ID})
					if err != nil {
						t.Error(err)
						return
					}
					if now, err := cnm.EndpointOf(rec); err != nil || now.Addrs[0] != e.Addrs[0] {
						t.Errorf("attached as %v, and is %v: %v", e.Addrs, now.Addrs, err)
					}
					mu.Lock()
					delete(held, a)
					mu.Unlock()
					if err := h.Controller.DeleteSandbox(ctx, s.ID); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
	}
	work.Wait()
	await.True(t, "each node keeps one block at most", func() bool {
		return len(one.blocks(one, "busy")) <= 1 && len(one.blocks(two, "busy")) <= 1
	})
}
