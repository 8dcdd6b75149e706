package cluster_test

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// patience is how long what must happen may take on a busy machine.
const patience = 2 * time.Minute

// arena is an etcd and the nodes at it.
type arena struct {
	t     *testing.T
	dir   string
	etcd  *embedded.Server
	nodes []*clustertest.Node
}

func newArena(t *testing.T) *arena {
	t.Helper()
	a := &arena{t: t, dir: t.TempDir()}
	a.serve("etcd")
	t.Cleanup(func() {
		for _, n := range a.nodes {
			if err := n.Stop(); err != nil {
				t.Error(err)
			}
		}
		a.leave()
	})
	return a
}

// serve starts an etcd with the data in a directory.
func (a *arena) serve(dir string) {
	a.t.Helper()
	var err error
	a.etcd, err = embedded.Start(a.t.Context(), embedded.Config{Dir: filepath.Join(a.dir, dir),
		ClientURLs: []string{a.url()}})
	if err != nil {
		a.t.Fatal(err)
	}
}

// leave stops etcd.
func (a *arena) leave() {
	a.t.Helper()
	if err := a.etcd.Close(); err != nil {
		a.t.Error(err)
	}
}

func (a *arena) url() string { return "unix://" + filepath.Join(a.dir, "s") }

// start adds a node.
func (a *arena) start(ctx context.Context, store cnm.Store) *clustertest.Node {
	a.t.Helper()
	i := len(a.nodes)
	dir := filepath.Join(a.dir, fmt.Sprintf("n%d", i))
	if err := os.Mkdir(dir, 0o700); err != nil {
		a.t.Fatal(err)
	}
	n, err := clustertest.Start(ctx, clustertest.Config{Endpoint: a.url(), Dir: dir, Number: i, Store: store})
	if err != nil {
		a.t.Fatal(err)
	}
	a.nodes = append(a.nodes, n)
	return n
}

// network makes a network once the node is a member.
func (a *arena) network(ctx context.Context, n *clustertest.Node, driver, subnet string) cnm.Network {
	a.t.Helper()
	net, err := clustertest.CreateNetwork(ctx, n, driver, netip.MustParsePrefix(subnet))
	if err != nil {
		a.t.Fatal(err)
	}
	return net
}

// counted is a store that counts what is asked of it.
type counted struct {
	cnm.Store
	gets, lists, commits, writes atomic.Int64
}

func (c *counted) Get(ctx context.Context, k cnm.Key) (cnm.Record, error) {
	c.gets.Add(1)
	return c.Store.Get(ctx, k)
}

func (c *counted) List(ctx context.Context, k cnm.Kind) ([]cnm.Record, error) {
	c.lists.Add(1)
	return c.Store.List(ctx, k)
}

func (c *counted) Commit(ctx context.Context, w ...cnm.Write) error {
	c.commits.Add(1)
	c.writes.Add(int64(len(w)))
	return c.Store.Commit(ctx, w...)
}

func TestNodesThatJoinAtOnceKnowEachOther(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a := newArena(t)
	first := a.start(ctx, nil)
	// A quarter of the subnets stays free, so that nodes do get in each other's way.
	a.network(ctx, first, "vxlan", "10.0.0.0/19")
	const nodes = 24
	for len(a.nodes) < nodes {
		a.start(ctx, nil)
	}
	for _, n := range a.nodes {
		if err := n.Await(ctx, nodes-1); err != nil {
			t.Fatal(err)
		}
	}
	taken := map[netip.Prefix]string{}
	for _, l := range first.Member.Leases() {
		if other, twice := taken[l.Subnet]; twice {
			t.Errorf("%s and %s both have %s", l.Node, other, l.Subnet)
		}
		taken[l.Subnet] = l.Node
	}
	if len(taken) != nodes {
		t.Errorf("%d leases for %d nodes", len(taken), nodes)
	}
}

// tally is what a node has done so far.
type tally struct{ gets, lists, commits, writes, scopes, looks int64 }

func sum(n *clustertest.Node, c *counted) tally {
	return tally{c.gets.Load(), c.lists.Load(), c.commits.Load(), c.writes.Load(), int64(n.Scopes()), int64(n.Looks())}
}

// costs is what a node does from an event until it has the way to the peer that the event is about.
func costs(ctx context.Context, t *testing.T, n *clustertest.Node, store *counted,
	event func() (peer string, err error)) tally {
	t.Helper()
	before := sum(n, store)
	peer, err := event()
	if err == nil {
		err = n.AwaitPeer(ctx, peer)
	}
	if err != nil {
		t.Fatal(err)
	}
	now := sum(n, store)
	return tally{now.gets - before.gets, now.lists - before.lists, now.commits - before.commits,
		now.writes - before.writes, now.scopes - before.scopes, now.looks - before.looks}
}

// A further node, with its lease and an endpoint, costs as much when many are known as when few are.
func TestOneFurtherNodeCostsTheSameInALargeCluster(t *testing.T) {
	for _, kind := range []struct {
		driver string
		add    func(context.Context, clustertest.Crowd, int, int) error
		peer   func(clustertest.Crowd, int) string
		want   tally
	}{
		{"vxlan", func(ctx context.Context, c clustertest.Crowd, from, to int) error {
			return c.Leases(ctx, from,
				to)
		}, clustertest.Crowd.LeasePeer, tally{gets: 5, commits: 1, writes: 2, scopes: 2, looks: 1}},
		// And the node as one of the network's: the record and its revision, the record and the network for the render.
		{"overlay", func(ctx context.Context, c clustertest.Crowd, from, to int) error {
			return c.Endpoints(ctx, from, to, 1000)
		}, clustertest.Crowd.EndpointPeer, tally{gets: 8, commits: 1, writes: 3, scopes: 3, looks: 1}},
	} {
		t.Run(kind.driver, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			a := newArena(t)
			store := &counted{Store: mem.New()}
			n := a.start(ctx, store)
			made := a.network(ctx, n, kind.driver, "10.0.0.0/12")
			crowd := clustertest.Crowd{Client: n.Client, Network: made}
			if len(made.Pools) > 0 {
				crowd.Avoid = made.Pools[0].Subnet
			}
			var last int
			for _, known := range []int{20, 400} {
				if err := crowd.Nodes(ctx, last, known); err != nil {
					t.Fatal(err)
				}
				if err := kind.add(ctx, crowd, last, known); err != nil {
					t.Fatal(err)
				}
				if err := n.Await(ctx, known); err != nil {
					t.Fatal(err)
				}
				last = known + 1
				got := costs(ctx, t, n, store, func() (string, error) {
					if err := crowd.Nodes(ctx, known, known+1); err != nil {
						return "", err
					}
					return kind.peer(crowd, known), kind.add(ctx, crowd, known, known+1)
				})
				// The record and its revision; the record and its network for the render. And the node's address: the
				// record and its revision, and the record for the render.
				if got != kind.want {
					t.Errorf("with %d nodes known, one more costs %+v, want %+v", known, got, kind.want)
				}
			}
		})
	}
}
