package cluster_test

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
)

// Many records that go at once are the loss of the store and no order to give networks up: nodes keep what they have,
// say so, and write it again.
func TestRecordsAreRemovedAtOnce(t *testing.T) {
	for name, prefix := range map[string]string{"everything": "/", "the networks": "/network/"} {
		t.Run(name, func(t *testing.T) {
			ctx, _, one, two := pair(t, quick())
			web, e, addr := populated(ctx, t, one, two)
			first, second := one.lease("leased").Subnet, two.lease("leased").Subnet
			if loss := two.Member.Loss(); loss != "" {
				t.Errorf("nothing was lost, and it says %q", loss)
			}
			_, err := one.Client.Delete(ctx, clustertest.Prefix+prefix, clientv3.WithPrefix())
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range []*host{one, two} {
				await.True(t, "the node says it", func() bool { return strings.Contains(h.Member.Loss(), "again") })
			}
			await.True(t, "the network is in etcd again", func() bool { return one.get(ctx, "network/"+web.ID) != "" })
			await.True(t, "both nodes are members", func() bool { return one.self() != nil && two.self() != nil })
			await.True(t, "the endpoint is published", func() bool {
				return two.get(ctx, "endpoint/"+web.ID+"."+e.ID) != ""
			})
			await.True(t, "both have the subnets that they had", func() bool {
				return one.lease("leased").Subnet == first && two.lease("leased").Subnet == second
			})
			if two.peers(ctx)[addr] == "" {
				t.Error("the path to the endpoint was taken away")
			}
			for _, h := range []*host{one, two} {
				for _, name := range []string{"web", "leased"} {
					if n, err := h.Controller.Network(ctx, name); err != nil || n.Cluster.Gone {
						t.Errorf("network %s: %+v, %v", name, n.Cluster, err)
					}
				}
			}
			if _, err := one.Controller.DeleteNetwork(ctx, "leased"); err != nil {
				t.Fatal(err)
			}
			await.True(t, "one that is removed is gone", func() bool {
				_, err := two.Controller.Network(ctx, "leased")
				return err != nil
			})
		})
	}
}

// A sign of life that no etcd lease keeps is forged: it does not tell of a host that has this node's identity.
func TestAForgedSignOfLife(t *testing.T) {
	ctx, _, one, _ := pair(t, short())
	one.put(ctx, "alive/"+one.Member.ID(), `{"instance":"i","boot":"b","addr":"10.9.9.9"}`)
	await.True(t, "the node's own is there again", func() bool {
		return !strings.Contains(one.get(ctx, "alive/"+one.Member.ID()), "10.9.9.9")
	})
	if s := one.Member.State(); s.Twin != "" || s.Err != nil {
		t.Errorf("it takes %q for its twin: %v", s.Twin, s.Err)
	}
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
}
