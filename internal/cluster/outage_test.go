package cluster_test

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// quick are durations for nodes that are to notice at once, and have time.
func quick() cluster.Times { return cluster.Times{Retry: 20 * time.Millisecond} }

// stop stops a node as a crash would.
func (a *arena) stop(h *host) {
	a.t.Helper()
	if err := h.Stop(); err != nil {
		a.t.Fatal(err)
	}
}

// again stops a node as a crash would and starts it with what it had on disk.
func (a *arena) again(ctx context.Context, h *host) {
	a.t.Helper()
	a.stop(h)
	a.resume(ctx, h)
}

// resume starts a node that was stopped, with what it had on disk.
func (a *arena) resume(ctx context.Context, h *host) {
	a.t.Helper()
	i := slices.Index(a.nodes, h.Node)
	n, err := clustertest.Start(ctx, clustertest.Config{Endpoint: a.url(), Dir: h.dir, Number: i, Store: h.store,
		Times: quick()})
	if err != nil {
		a.t.Fatal(err)
	}
	h.Node, a.nodes[i] = n, n
}

// lease is the node's own of a network.
func (h *host) lease(network string) (l cluster.LeaseView) {
	for _, x := range h.Member.Leases() {
		if x.Own && x.Network.Name == network {
			l = x
		}
	}
	return l
}

// A node that restarts is who it was: the same ID, the same subnet, the same blocks, and its endpoints stay known.
func TestARestartedNodeIsWhoItWas(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	two.adopted(ctx, "web")
	two.adopted(ctx, "leased")
	_, e := one.mustAttach(ctx, "web")
	await.True(t, "it has a lease", func() bool { return one.lease("leased").Subnet.IsValid() })
	id, subnet := one.Member.ID(), one.lease("leased").Subnet
	addr := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "its endpoint is known", func() bool { return two.peers(ctx)[addr] != "" })

	a.again(ctx, one)
	if got := one.Member.ID(); got != id {
		t.Errorf("the ID was %s and is %s", id, got)
	}
	await.True(t, "it is a member again", func() bool { return one.self() != nil })
	await.True(t, "it has its lease again", func() bool { return one.lease("leased").Subnet.IsValid() })
	if got := one.lease("leased").Subnet; got != subnet {
		t.Errorf("its subnet was %s and is %s", subnet, got)
	}
	if two.peers(ctx)[addr] == "" {
		t.Error("its endpoint is known no more")
	}
	_, more := one.mustAttach(ctx, "web")
	block := netip.PrefixFrom(e.Addrs[0].Addr(), 26).Masked()
	if got := more.Addrs[0].Addr(); !block.Contains(got) || got == e.Addrs[0].Addr() {
		t.Errorf("the next address is %s, want another one of the block %s", got, block)
	}
}

// While etcd is away nodes go on with what they have, and what others must know of is refused; when it is back, both
// sides agree again.
func TestEtcdIsAwayForAWhile(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	one.mustAttach(ctx, "web") // so that it has a block
	a.leave()
	await.True(t, "both nodes have noticed", func() bool {
		return !one.Member.State().Connected && !two.Member.State().Connected
	})
	_, e, err := one.attach(ctx, "web")
	if err != nil {
		t.Fatalf("attach to an address of its own block: %v", err)
	}
	for name, err := range map[string]error{
		"create": func() error {
			_, err := one.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: "new", Driver: "overlay"})
			return err
		}(),
		"remove":  func() error { _, err := two.Controller.DeleteNetwork(ctx, "web"); return err }(),
		"a block": func() error { _, _, err := two.attach(ctx, "web"); return err }(),
	} {
		if !errors.Is(err, cnm.ErrUnavailable) || !strings.Contains(err.Error(), "etcd") {
			t.Errorf("%s without etcd: %v", name, err)
		}
	}
	if _, err := one.Controller.Network(ctx, "new"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a network that was refused: %v", err)
	}
	a.serve("etcd")
	addr := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "what was attached meanwhile is known there", func() bool { return two.peers(ctx)[addr] != "" })
	two.mustAttach(ctx, "web")
}

// populated makes an overlay with an endpoint, and a network of which both nodes have leases. The address is that by
// which the other node knows the endpoint.
func populated(ctx context.Context, t *testing.T, one, two *host) (web cnm.Network, e cnm.Endpoint, addr string) {
	t.Helper()
	web = one.create(ctx, "web", "overlay", "10.1.0.0/16")
	one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	two.adopted(ctx, "web")
	two.adopted(ctx, "leased")
	_, e = one.mustAttach(ctx, "web")
	addr = e.Addrs[0].Addr().String() + "/32"
	await.True(t, "the endpoint is known", func() bool { return two.peers(ctx)[addr] != "" })
	await.True(t, "both have leases", func() bool {
		return one.lease("leased").Subnet.IsValid() && two.lease("leased").Subnet.IsValid()
	})
	return web, e, addr
}

// An etcd that has lost everything gets it again from the nodes: networks, themselves, their endpoints and leases.
func TestEtcdHasLostEverything(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	web, e, addr := populated(ctx, t, one, two)
	first, second := one.lease("leased").Subnet, two.lease("leased").Subnet
	a.leave()
	a.serve("empty")
	await.True(t, "the network is in etcd again", func() bool { return one.get(ctx, "network/"+web.ID) != "" })
	await.True(t, "both nodes are members again", func() bool { return one.self() != nil && two.self() != nil })
	await.True(t, "the endpoint is published again", func() bool {
		return two.get(ctx, "endpoint/"+web.ID+"."+e.ID) != ""
	})
	await.True(t, "both have the subnets that they had", func() bool {
		return one.lease("leased").Subnet == first && two.lease("leased").Subnet == second
	})
	if two.peers(ctx)[addr] == "" {
		t.Error("the path to the endpoint was taken away")
	}
	for _, name := range []string{"web", "leased"} {
		if _, err := two.Controller.Network(ctx, name); err != nil {
			t.Errorf("network %s: %v", name, err)
		}
	}
}

// A network that was removed while a node was away is given up there when the node is back, unless a container is on
// it: then it stays without its tunnel until the container is gone.
func TestANetworkThatWasRemovedMeanwhile(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	empty := one.create(ctx, "empty", "overlay", "10.1.0.0/16")
	used := one.create(ctx, "used", "overlay", "10.2.0.0/16")
	two.adopted(ctx, "empty")
	two.adopted(ctx, "used")
	s, e := two.mustAttach(ctx, "used")
	await.True(t, "the endpoint is published", func() bool {
		return one.get(ctx, "endpoint/"+used.ID+"."+e.ID) != ""
	})
	for _, n := range []cnm.Network{empty, used} { // past the check that nobody uses them
		if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/network/"+n.ID); err != nil {
			t.Fatal(err)
		}
	}
	gone := func(h *host, name string) func() bool {
		return func() bool {
			_, err := h.Controller.Network(ctx, name)
			return errors.Is(err, cnm.ErrNotFound)
		}
	}
	await.True(t, "the empty one is gone here", gone(one, "empty"))
	await.True(t, "the empty one is gone there", gone(two, "empty"))
	await.True(t, "the used one is gone here", gone(one, "used"))
	await.True(t, "the used one has no tunnel there", func() bool {
		n, err := two.Controller.Network(ctx, "used")
		return err == nil && n.Cluster.Gone
	})
	if err := two.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the used one is gone there too", gone(two, "used"))
}

// A prefix of addresses that is used up says so, with what to do.
func TestASubnetIsUsedUp(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	one.create(ctx, "small", "overlay", "10.1.0.0/29")
	two.adopted(ctx, "small")
	var err error
	n := 0
	for ; err == nil && n < 10; n++ {
		_, _, err = one.attach(ctx, "small")
	}
	if !errors.Is(err, cnm.ErrExhausted) || !strings.Contains(err.Error(), "small") {
		t.Errorf("after %d containers in 10.1.0.0/29: %v", n, err)
	}
	if _, _, err := two.attach(ctx, "small"); !errors.Is(err, cnm.ErrExhausted) {
		t.Errorf("on the other node: %v", err)
	}
}
