package cluster_test

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/etcdtest"
)

// A sign of life that somebody gives a node, on an etcd lease for hours, keeps the node from nothing: no netd has such
// a lease, and that of a real copy ends soon after the copy.
func TestASignOfLifeOnALongLease(t *testing.T) {
	times := short()
	times.Lease = time.Minute
	ctx, a, one, two := pair(t, times)
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	a.stop(two)
	grant, err := one.Client.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	forge := func() {
		t.Helper()
		key := clustertest.Prefix + "/alive/" + two.Member.ID()
		if _, err := one.Client.Put(ctx, key, `{"instance":"thief","boot":"elsewhere","addr":"192.0.2.66"}`,
			clientv3.WithLease(grant.ID)); err != nil {
			t.Fatal(err)
		}
	}
	forge() // before it joins
	two.Node, err = clustertest.Start(ctx, clustertest.Config{Endpoint: a.url(), Dir: two.dir, Number: 1,
		Store: two.store, Times: times})
	if err != nil {
		t.Fatal(err)
	}
	a.nodes[1] = two.Node
	for _, when := range []string{"joining", "a member"} {
		var e cnm.Endpoint
		await.Done(t, when+": it attaches", func() (err error) { _, e, err = two.attach(ctx, "web"); return err })
		await.True(t, when+": its endpoint is known", func() bool {
			return one.peers(ctx)[e.Addrs[0].Addr().String()+"/32"] != ""
		})
		if err := two.Member.State().Err; err != nil {
			t.Errorf("%s: %v", when, err)
		}
		forge() // while it is a member
	}
	await.True(t, "the node's own sign is back", func() bool {
		r, err := one.Client.Get(ctx, clustertest.Prefix+"/alive/"+two.Member.ID())
		return err == nil && len(r.Kvs) == 1 && r.Kvs[0].Lease != int64(grant.ID)
	})
}

// The whole prefix is removed while a node is down, and the other makes the guard and what it knows anew. The node that
// comes back writes what is missing of its own: a network that only it knows, and its endpoint.
func TestTheGuardWasMadeAnewMeanwhile(t *testing.T) {
	ctx, a, one, two := pair(t, quick())
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	_, e := two.mustAttach(ctx, "web")
	addr := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "its endpoint is known", func() bool { return one.peers(ctx)[addr] != "" })
	await.True(t, "it has kept what a later life must know", func() bool { return two.guard(ctx) != 0 })
	a.stop(two)
	// Of the two only the one that is down knows of the network: the other starts without what it had.
	a.stop(one)
	by := etcdtest.Dial(t, etcd.Config{Endpoints: []string{a.url()}})
	if _, err := by.Delete(ctx, clustertest.Prefix+"/", clientv3.WithPrefix()); err != nil {
		t.Fatal(err)
	}
	three := a.host(ctx, quick())
	three.create(ctx, "other", "overlay", "10.2.0.0/16")
	a.resume(ctx, two)
	three.adopted(ctx, "web")
	await.True(t, "its endpoint is known again", func() bool { return three.peers(ctx)[addr] != "" })
	if n, err := two.Controller.Network(ctx, "web"); err != nil || n.Gone() {
		t.Errorf("the network was given up: %+v, %v", n.Cluster, err)
	}
	two.adopted(ctx, "other")
	a.resume(ctx, one)
	one.adopted(ctx, "other")
	if two.Member.Loss() == "" {
		t.Error("nobody is told")
	}
}

// guard is the revision at which the guard was made, as the node keeps it for a later life.
func (h *host) guard(ctx context.Context) int64 {
	h.t.Helper()
	r, err := h.store.Get(ctx, record.SelfKey())
	if err != nil {
		return 0
	}
	self, err := record.Decode[record.Self](r.Value)
	if err != nil {
		h.t.Fatal(err)
	}
	return self.Guard
}
