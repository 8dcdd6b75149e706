package cluster_test

import (
	"context"
	"errors"
	clientv3 "go.etcd.io/etcd/client/v3"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// A copy of a node's disk on another host is refused, also while the original is away for a while: its
// containers may run on.
func TestACopiedIdentityIsRefused(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a := newArena(t)
	times := cluster.Times{Alive: time.Second, Retry: 20 * time.Millisecond}
	one := a.host(ctx, times)
	id, err := os.ReadFile(filepath.Join(one.dir, "node-id"))
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(a.dir, "n1")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, "node-id"), id, 0o600)); err != nil {
		t.Fatal(err)
	}
	two := a.unconnected(ctx, a.url(), times)
	await.True(t, "the copy is refused", func() bool { return errors.Is(two.Member.State().Err, cnm.ErrExists) })
	if text := two.Member.State().Err.Error(); !strings.Contains(text, clustertest.Addr(0).String()) ||
		!strings.Contains(text, "node-id") {
		t.Errorf("the refusal says %q", text)
	}
	if twin := two.Member.State().Twin; twin != clustertest.Addr(0).String() {
		t.Errorf("the other host is told as %q", twin)
	}
	original := func(h *host, alive bool) bool {
		n := h.node(two.Member.ID())
		return n != nil && n.Addr4 == clustertest.Addr(0) && n.Alive == alive
	}
	if !original(one, true) {
		t.Errorf("the original is known as %+v", one.node(two.Member.ID()))
	}
	a.stop(one)
	await.True(t, "the original is away", func() bool { return original(two, false) })
	if _, err := two.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: "web", Driver: "overlay"}); !errors.Is(err,
		cnm.ErrExists) {
		t.Errorf("the copy makes a network: %v", err)
	}
	a.resume(ctx, one)
	await.True(t, "the original is a member again", func() bool { return original(two, true) })
	if err := two.Member.State().Err; !errors.Is(err, cnm.ErrExists) {
		t.Errorf("the copy: %v", err)
	}
}

// A host that had networks before it joins a cluster keeps them: identifiers that the cluster's networks have are given
// anew, and a subnet that one of them has is told.
func TestAHostWithNetworksJoins(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a := newArena(t)
	one := a.host(ctx, quick())
	one.create(ctx, "mine", "overlay", "10.1.0.0/16")
	one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	one.create(ctx, "meets", "overlay", "10.9.8.0/24")
	a.stop(one)
	a.leave()
	a.serve("another")
	two := a.host(ctx, quick())
	two.create(ctx, "theirs", "overlay", "10.9.0.0/16")
	two.create(ctx, "routed", "vxlan", "10.8.0.0/16")
	a.resume(ctx, one)
	type tunnel struct {
		vni  uint32
		port uint16
	}
	seen := map[tunnel]string{}
	for _, h := range []*host{one, two} {
		for _, name := range []string{"mine", "leased", "theirs", "routed"} {
			h.adopted(ctx, name)
		}
	}
	for _, name := range []string{"mine", "leased", "theirs", "routed"} {
		var at tunnel
		await.True(t, name+" is the same network on both", func() bool {
			x, errX := one.Controller.Network(ctx, name)
			y, errY := two.Controller.Network(ctx, name)
			at = tunnel{y.Cluster.VNI, y.Cluster.Port}
			return errors.Join(errX, errY) == nil && x.ID == y.ID && (tunnel{x.Cluster.VNI, x.Cluster.Port}) == at
		})
		if other := seen[at]; other != "" {
			t.Errorf("%s has %v, as has %s", name, at, other)
		}
		seen[at] = name
	}
	one.problem("meets", "10.9.0.0/16", `network "theirs"`)
	if _, err := two.Controller.Network(ctx, "meets"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("the network that meets another one is known there: %v", err)
	}
	_, e := two.mustAttach(ctx, "mine")
	await.True(t, "an endpoint there is known here", func() bool {
		return one.peers(ctx)[e.Addrs[0].Addr().String()+"/32"] != ""
	})
}

// What a node held that is gone for good is free once somebody says so; one that answers is nobody's to forget.
func TestANodeIsForgotten(t *testing.T) {
	ctx, a, one, two := pair(t, cluster.Times{Alive: time.Second, Retry: 20 * time.Millisecond})
	populated(ctx, t, two, one)
	id := two.Member.ID()
	if err := one.Member.Forget(ctx, id); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("forget a node that answers: %v", err)
	}
	if err := one.Member.Forget(ctx, one.Member.ID()); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("a node forgets itself: %v", err)
	}
	if err := one.Member.Forget(ctx, "nobody"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("forget a node that there is not: %v", err)
	}
	a.stop(two)
	find := func() *cluster.NodeView { return one.node(id) }
	await.True(t, "the node is away", func() bool { n := find(); return n != nil && !n.Alive })
	if _, err := one.Controller.DeleteNetwork(ctx, "web"); !errors.Is(err, cnm.ErrInUse) ||
		!strings.Contains(err.Error(), "net node rm n1") {
		t.Errorf("remove a network that the node has an endpoint on: %v", err)
	}
	if err := one.Member.Forget(ctx, id); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the node is forgotten", func() bool { return find() == nil })
	if keys := one.keys(ctx, id); len(keys) > 0 {
		t.Errorf("still in etcd: %v", keys)
	}
	if _, err := one.Controller.DeleteNetwork(ctx, "web"); err != nil {
		t.Errorf("remove the network: %v", err)
	}
	if one.Member.Loss() != "" {
		t.Errorf("taken for a loss: %s", one.Member.Loss())
	}
	a.resume(ctx, two)
	await.True(t, "it is a member again", func() bool { n := find(); return n != nil && n.Alive })
}

// node is what the host knows of a node; nil: nothing.
func (h *host) node(id string) *cluster.NodeView {
	for _, n := range h.Member.Nodes() {
		if n.ID == id {
			return &n
		}
	}
	return nil
}

// keys are those of etcd whose record names a node.
func (h *host) keys(ctx context.Context, node string) (out []string) {
	h.t.Helper()
	r, err := h.Client.Get(ctx, clustertest.Prefix+"/", clientv3.WithPrefix())
	if err != nil {
		h.t.Fatal(err)
	}
	for _, kv := range r.Kvs {
		if strings.Contains(string(kv.Key)+string(kv.Value), node) {
			out = append(out, string(kv.Key))
		}
	}
	return out
}

// A network that was written already, though its maker was not told so, is not made a second time.
func TestANetworkThatWasWrittenIsNotMadeAgain(t *testing.T) {
	ctx, _, one, _ := pair(t, cluster.Times{})
	made := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	again, err := one.Member.Create(ctx, made, []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("10.2.0.0/16")}},
		cnm.TunnelRequest{})
	if err != nil || !slices.Equal(again.Cluster.Subnets, made.Cluster.Subnets) {
		t.Errorf("made again: %+v, %v", again.Cluster, err)
	}
}
