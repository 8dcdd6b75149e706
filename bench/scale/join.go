package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// subnets of the network with leases: 1024 of length 24.
const leased = "10.0.0.0/14"

// heapLimit is how large the heap of all nodes together grows before it is looked through more often.
const heapLimit = 14 << 30

// join has nodes join a cluster all at once, until each has the paths to all others. The first is as real as can be:
// its store is on disk, and its kernel is Linux, in a network namespace.
func join(ctx context.Context, b *bench) error {
	return withKernel(ctx, b.dir, 0, func(k *kern.Kernel) (err error) {
		store, err := b.store(ctx)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, store.Close()) }()
		return b.join(ctx, store, k)
	})
}

func (b *bench) join(ctx context.Context, store cnm.Store, k reconcile.Kernel) (err error) {
	// The heap of a thousand nodes in one process is a thousand times as large as a node's, and looked through as
	// a whole.
	defer debug.SetGCPercent(debug.SetGCPercent(300))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(heapLimit))
	// What nodes do by the minute would be done by a thousand of them on these two cores while they join, and what they
	// renew every five seconds waits for its turn behind all of that.
	cfg := clustertest.Config{Resync: time.Hour, Times: cluster.Times{Alive: time.Minute}}
	real := cfg
	real.Store, real.Kernel = store, k
	first, err := b.node(ctx, real)
	if err != nil {
		return err
	}
	nodes := []*clustertest.Node{first}
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.Stop())
		}
	}()
	if _, err := network(ctx, first, "vxlan", leased); err != nil {
		return err
	}
	began, own, theirs, mem := time.Now(), cpu(), b.etcd.cpu(), heap()
	for len(nodes) < b.nodes {
		n, err := b.node(ctx, cfg)
		if err != nil {
			return err
		}
		nodes = append(nodes, n)
	}
	var g errgroup.Group
	for _, n := range nodes[1:] {
		g.Go(func() error { return n.Await(ctx, b.nodes-1) })
	}
	g.Go(func() error {
		err := first.Await(ctx, b.nodes-1)
		fmt.Printf("join: the real node has the paths to %d others after %v\n", b.nodes-1, round(time.Since(began)))
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	took, own, theirs := time.Since(began), cpu()-own, b.etcd.cpu()-theirs
	fmt.Printf("join: %d nodes know each other after %v; CPU %v a node, %v etcd for all; memory %.1f MB a node\n",
		b.nodes, round(took), round(own/time.Duration(b.nodes)), round(theirs), (heap()-mem)/float64(b.nodes-1))
	traffic(nodes)
	return idle(ctx, b, nodes)
}

// traffic tells what the nodes have exchanged with etcd.
func traffic(nodes []*clustertest.Node) {
	sent, received, bytes := map[string]int{}, 0, 0
	for _, n := range nodes {
		for method, k := range n.Requests.Sent() {
			sent[method] += k
		}
		m, by := n.Requests.Received()
		received, bytes = received+m, bytes+by
	}
	fmt.Printf("  a node, on average: received %.0f messages, %.2f MB; sent", float64(received)/float64(len(nodes)),
		float64(bytes)/1e6/float64(len(nodes)))
	for _, method := range slices.Sorted(maps.Keys(sent)) {
		fmt.Printf(" %s %.1f", method, float64(sent[method])/float64(len(nodes)))
	}
	fmt.Println()
}

// idle looks at a cluster in which nothing happens.
func idle(ctx context.Context, b *bench, nodes []*clustertest.Node) error {
	before := map[string]int{}
	count := func(by int) {
		for _, n := range nodes {
			for method, k := range n.Requests.Sent() {
				before[method] += by * k
			}
		}
	}
	const period = 20 * time.Second
	count(-1)
	own, theirs := cpu(), b.etcd.cpu()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(period):
	}
	own, theirs = cpu()-own, b.etcd.cpu()-theirs
	count(1)
	all := 0
	for _, k := range before {
		all += k
	}
	fmt.Printf("  idle: %.0f messages a second to etcd (%v in %v); CPU %.2f %% of a core a node, %.1f %% etcd\n",
		float64(all)/period.Seconds(), before, period, 100*own.Seconds()/period.Seconds()/float64(len(nodes)),
		100*theirs.Seconds()/period.Seconds())
	return nil
}

// event measures what one further lease costs a node that knows ever more of them.
func event(ctx context.Context, b *bench) (err error) {
	store, err := b.store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	n, err := b.node(ctx, clustertest.Config{Store: store})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	made, err := network(ctx, n, "vxlan", "10.0.0.0/12")
	if err != nil {
		return err
	}
	crowd := clustertest.Crowd{Client: n.Client, Network: made, Avoid: made.Pools[0].Subnet}
	const further = 50
	known := 0
	for _, want := range []int{b.nodes / 10, b.nodes * 3 / 10, b.nodes, 3 * b.nodes} {
		if err := b.grow(ctx, n, crowd, known, want); err != nil {
			return err
		}
		known = want
		if err := oneByOne(ctx, n, crowd, known, further); err != nil {
			return err
		}
		known += further
	}
	return nil
}

func (b *bench) grow(ctx context.Context, n *clustertest.Node, crowd clustertest.Crowd, from, to int) error {
	if err := crowd.Nodes(ctx, from, to); err != nil {
		return err
	}
	if err := crowd.Leases(ctx, from, to); err != nil {
		return err
	}
	return n.Await(ctx, to)
}

// oneByOne adds nodes with a lease, each after the paths to those before are there.
func oneByOne(ctx context.Context, n *clustertest.Node, crowd clustertest.Crowd, known, further int) error {
	var took []time.Duration
	own := cpu()
	for i := known; i < known+further; i++ {
		began := time.Now()
		if err := crowd.Nodes(ctx, i, i+1); err != nil {
			return err
		}
		if err := crowd.Leases(ctx, i, i+1); err != nil {
			return err
		}
		if err := n.AwaitPeer(ctx, crowd.LeasePeer(i)); err != nil {
			return err
		}
		took = append(took, time.Since(began))
	}
	own = (cpu() - own) / time.Duration(further)
	full, err := fullPass(ctx, n)
	fmt.Printf("event: %d nodes known: one more with its lease takes %v (median), %v of CPU; a full pass %v\n", known,
		round(median(took)), round(own), round(full))
	return err
}

// fullPass has everything looked at once.
func fullPass(ctx context.Context, n *clustertest.Node) (time.Duration, error) {
	passes := n.Passes()
	began := time.Now()
	n.Reconciler.Resync()
	err := n.AwaitPasses(ctx, passes+1)
	return time.Since(began), err
}
