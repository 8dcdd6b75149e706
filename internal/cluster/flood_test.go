package cluster_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/soak"
)

// flood is how many records of each kind somebody writes who wants to take the nodes' memory. The race detector is on
// in etcd too, which runs in this process.
var flood = 100_000 / soak.Stride(2)

// Somebody writes more nodes into etcd than there can be. Those that were there before are known as ever, and what
// they have; of the others as many as there is room for. A node that joins meanwhile works, and is known by name once
// the others are gone.
func TestAFloodOfNodesIsBounded(t *testing.T) {
	times := quick()
	times.Relist = 200 * time.Millisecond
	ctx, a, one, two := pair(t, times)
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	const batch = 50
	for from := 0; from < flood; from += batch {
		var ops []clientv3.Op
		for i := from; i < from+batch; i++ {
			id := fmt.Sprintf("%08x-0000-4000-8000-000000000000", i)
			ops = append(ops, clientv3.OpPut(clustertest.Prefix+"/node/"+id,
				fmt.Sprintf(`{"id":%q,"name":"n%d","addr4":"172.16.0.1"}`, id, i)),
				clientv3.OpPut(clustertest.Prefix+"/alive/"+id, `{"instance":"x"}`))
		}
		if _, err := one.Client.Txn(ctx).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range []*host{one, two} {
		h.problem(fmt.Sprintf("%d more records of kind node", flood-cluster.MaxNodes+1), "at most 5000")
		if n := len(h.Member.Nodes()); n > cluster.MaxNodes+1 {
			t.Errorf("%d nodes are known", n)
		}
		if h.self() == nil {
			t.Error("the node does not know itself")
		}
	}
	knows := func(h, other *host) bool {
		return slices.ContainsFunc(h.Member.Nodes(), func(n cluster.NodeView) bool { return n.ID == other.Member.ID() })
	}
	if !knows(one, two) || !knows(two, one) {
		t.Error("nodes that were there before are not known any more")
	}
	three := a.host(ctx, times) // youngest of all
	three.adopted(ctx, "web")
	_, e := three.mustAttach(ctx, "web")
	await.True(t, "its endpoint is known", func() bool {
		return one.peers(ctx)[e.Addrs[0].Addr().String()+"/32"] != ""
	})
	for some := 0; some <= flood>>12; some++ { // 4096 at a time: etcd bounds what one request may take
		for _, kind := range []string{"node", "alive"} {
			prefix := fmt.Sprintf("%s/%s/%05x", clustertest.Prefix, kind, some)
			if _, err := one.Client.Delete(ctx, prefix, clientv3.WithPrefix()); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, h := range []*host{one, two, three} {
		await.True(t, "all nodes are known and alive", func() bool {
			return knows(h, one) && knows(h, two) && knows(h, three) && len(h.Member.Nodes()) == 3
		})
		await.True(t, "there is no problem any more", func() bool { return len(h.Member.Problems()) == 0 })
	}
}

// A value that is far too large is a problem and takes no memory, and its removal heals.
func TestHugeValues(t *testing.T) {
	ctx, _, one, two := pair(t, quick())
	web := one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	huge := strings.Repeat("x", 1<<20)
	keys := []string{"node/x", "alive/x", "block/" + web.ID + ".10.1.9.0-26", "endpoint/" + web.ID + ".e",
		"network/" + strings.Repeat("a", 64), "flannel/none/config", "guard/x", "nonsense/x", "node/\xff\xfe"}
	for _, k := range keys {
		one.put(ctx, k, huge)
	}
	good := one.get(ctx, "network/"+web.ID)
	one.put(ctx, "network/"+web.ID, huge) // no removal
	for _, h := range []*host{one, two} {
		h.problem("network/"+web.ID, "larger than")
		h.problem("node/x", "larger than")
		for _, p := range h.Member.Problems() {
			if len(p) > 1000 || !utf8.ValidString(p) {
				t.Errorf("a problem of %d bytes: %.100q", len(p), p)
			}
		}
		h.mustAttach(ctx, "web")
	}
	one.put(ctx, "network/"+web.ID, good)
	for _, k := range keys {
		if _, err := one.Client.Delete(ctx, clustertest.Prefix+"/"+k); err != nil {
			t.Fatal(err)
		}
	}
	await.True(t, "all is well", func() bool { return len(one.Member.Problems())+len(two.Member.Problems()) == 0 })
}
