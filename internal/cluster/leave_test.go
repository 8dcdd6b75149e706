package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// A node leaves networks while etcd is away, and has nothing of them any more, also after a restart. What it held is
// given back when etcd is there again; the other node goes on with them. Joined, they are as before.
func TestANodeLeavesNetworksWithoutEtcd(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	web, _, _ := populated(ctx, t, one, two)
	s, e := two.mustAttach(ctx, "web")
	theirs := e.Addrs[0].Addr().String() + "/32"
	lease := one.lease("leased").Subnet.String()
	await.True(t, "each knows what the other has", func() bool {
		return one.peers(ctx)[theirs] != "" && one.peers(ctx)[two.lease("leased").Subnet.String()] != "" &&
			two.peers(ctx)[lease] != ""
	})
	a.leave()
	await.True(t, "the outage is noticed", func() bool { return !two.Member.State().Connected })

	if _, err := two.Controller.LeaveNetwork(ctx, "web"); !errors.Is(err, cnm.ErrInUse) ||
		!strings.Contains(err.Error(), "sandbox "+cnm.Short(s.ID)) && !strings.Contains(err.Error(), "box") {
		t.Errorf("leave a network that an endpoint is on: %v", err)
	}
	if err := two.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web", "leased"} {
		if _, err := two.Controller.LeaveNetwork(ctx, name); err != nil {
			t.Fatalf("leave %s: %v", name, err)
		}
	}
	left := func(when string) {
		t.Helper()
		await.True(t, when+": it knows no peers", func() bool { return len(two.peers(ctx)) == 0 })
		if nodes, err := two.store.List(ctx, cnm.KindNode); err != nil || len(nodes) > 0 {
			t.Errorf("%s: nodes may still send to tunnels: %v, %v", when, nodes, err)
		}
		for _, name := range []string{"web", "leased"} {
			two.problem("left network "+name, "net network join "+name)
			n, err := two.Controller.Network(ctx, name)
			if err != nil || !n.Left() {
				t.Errorf("%s: network %s: %+v, %v", when, name, n.Cluster, err)
			}
			if _, _, err := two.attach(ctx, name); err == nil ||
				!strings.Contains(err.Error(), "this node has left network "+name+"; net network join "+name) {
				t.Errorf("%s: attach to %s: %v", when, name, err)
			}
		}
	}
	left("without etcd")
	a.again(ctx, two)
	left("started again without etcd")

	a.serve("etcd")
	await.True(t, "nobody has the node's lease and blocks any more", func() bool {
		return !strings.Contains(one.dump(ctx), two.Member.ID()+`"}`) && one.peers(ctx)[theirs] == "" &&
			len(one.peers(ctx)) == 0
	})
	left("with etcd")
	if one.get(ctx, "network/"+web.ID) == "" || one.lease("leased").Subnet.String() != lease {
		t.Error("the other node lost something")
	}
	one.mustAttach(ctx, "web")

	for _, name := range []string{"web", "leased"} {
		if _, err := two.Controller.JoinNetwork(ctx, name); err != nil {
			t.Fatalf("join %s: %v", name, err)
		}
	}
	await.True(t, "it has a lease again", func() bool { return two.lease("leased").Subnet.IsValid() })
	await.True(t, "it knows the other's lease again", func() bool { return two.peers(ctx)[lease] != "" })
	_, e = two.mustAttach(ctx, "web")
	now := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "its endpoint is known", func() bool { return one.peers(ctx)[now] != "" })
	for _, p := range two.Member.Problems() {
		t.Errorf("a problem after all: %s", p)
	}
}

// Etcd loses everything while a node has left a network: it comes again, and the node stays out of it.
func TestLeftNetworksStayLeftWhenEtcdIsEmptied(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	web := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	if _, err := two.Controller.LeaveNetwork(ctx, "web"); err != nil {
		t.Fatal(err)
	}
	a.leave()
	a.serve("empty")
	await.True(t, "the network is in etcd again", func() bool { return one.get(ctx, "network/"+web.ID) != "" })
	await.True(t, "both are members", func() bool { return one.self() != nil && two.self() != nil })
	if strings.Contains(one.get(ctx, "network/"+web.ID), "left") {
		t.Error("etcd says what only a node can say of itself")
	}
	if _, _, err := two.attach(ctx, "web"); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("attach: %v", err)
	}
	if _, err := two.Controller.DeleteNetwork(ctx, "web"); err != nil {
		t.Errorf("remove a network that was left: %v", err)
	}
	await.True(t, "it is gone", func() bool {
		_, err := two.Controller.Network(ctx, "web")
		return errors.Is(err, cnm.ErrNotFound)
	})
}

// dump is all that etcd has.
func (h *host) dump(ctx context.Context) string {
	h.t.Helper()
	r, err := h.Client.Get(ctx, clustertest.Prefix+"/", clientv3.WithPrefix())
	if err != nil {
		h.t.Fatal(err)
	}
	var b strings.Builder
	for _, kv := range r.Kvs {
		fmt.Fprintf(&b, "%s %s\n", kv.Key, kv.Value)
	}
	return b.String()
}
