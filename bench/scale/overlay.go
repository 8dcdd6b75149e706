package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// crowded is how a node meets a network with thousands of endpoints on other nodes.
type crowded struct {
	name   string
	kernel *kern.Kernel // nil: one in memory
	fast   bool         // the node has the fast path
	blocks bool         // and so have the others: their blocks lead there
}

// overlay has a node meet a network with thousands of endpoints on other nodes, on a kernel in memory.
func overlay(ctx context.Context, b *bench) error { return b.overlay(ctx, crowded{name: "overlay"}) }

// kernel is overlay on a real kernel.
func kernel(ctx context.Context, b *bench) error { return b.onKernel(ctx, crowded{name: "kernel"}) }

// endpoints is overlay on a real kernel with the fast path, which leads to each endpoint.
func endpoints(ctx context.Context, b *bench) error {
	return b.onKernel(ctx, crowded{name: "endpoints", fast: true})
}

// blocks is the same with nodes whose blocks lead to them.
func blocks(ctx context.Context, b *bench) error {
	return b.onKernel(ctx, crowded{name: "blocks", fast: true, blocks: true})
}

// onKernel has a real kernel.
func (b *bench) onKernel(ctx context.Context, c crowded) error {
	return withKernel(ctx, b.dir, 1, func(k *kern.Kernel) error {
		c.kernel = k
		return b.overlay(ctx, c)
	})
}

// uplink makes the link that a node is reached by.
const uplink = "ip link add eth0 up type veth peer name far; ip link set far up; ip addr add %s/9 dev eth0"

// withKernel calls f with a real kernel for the node of that number, in a network namespace that goes with the thread
// it is made on.
func withKernel(ctx context.Context, dir string, number int, f func(*kern.Kernel) error) (err error) {
	done := make(chan error, 1)
	var k *kern.Kernel
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		script := fmt.Sprintf(uplink, clustertest.Addr(number))
		if out, err := exec.CommandContext(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
			done <- fmt.Errorf("make the uplink: %w: %s", err, out)
			return
		}
		var err error
		k, err = kern.Open(kern.Config{RunDir: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler),
			Names: &kerntest.Names{}})
		done <- err
	}()
	if err := <-done; err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	return f(k)
}

func (b *bench) overlay(ctx context.Context, c crowded) (err error) {
	first, err := b.node(ctx, clustertest.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, first.Stop()) }()
	made, err := network(ctx, first, "overlay", "10.0.0.0/14")
	if err != nil {
		return err
	}
	crowd := clustertest.Crowd{Client: first.Client, Network: made, ByAddress: c.blocks}
	if err := crowd.Nodes(ctx, 0, b.nodes); err != nil {
		return err
	}
	peers := b.endpoints
	if c.blocks {
		peers += b.nodes
		if err := crowd.Blocks(ctx, 0, b.nodes); err != nil {
			return err
		}
	}
	if err := crowd.Endpoints(ctx, 0, b.endpoints, b.nodes); err != nil {
		return err
	}
	if err := first.Await(ctx, peers); err != nil {
		return err
	}
	store, err := b.store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	cfg := clustertest.Config{Store: store, Fast: c.fast}
	if c.kernel != nil {
		cfg.Kernel = c.kernel
	}
	began, own, mem, resident := time.Now(), cpu(), heap(), rss()
	n, err := b.node(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	if err := n.Await(ctx, peers); err != nil {
		return err
	}
	took := time.Since(began)
	own = cpu() - own
	fmt.Printf("%s: %d endpoints of %d nodes are there after %v, %v of CPU, %d passes; memory %.1f MB, "+
		"resident %.1f MB\n",
		c.name, b.endpoints, b.nodes, round(took), round(own), n.Passes(), heap()-mem, rss()-resident)
	if err := c.entries(ctx); err != nil {
		return err
	}
	return b.further(ctx, n, crowd)
}

// entries tells how many there are in the kernel.
func (c crowded) entries(ctx context.Context) error {
	if c.kernel == nil {
		return nil
	}
	s, err := c.kernel.Observe(ctx, nil)
	if err != nil {
		return err
	}
	fmt.Printf("  in the kernel: %d neighbours, %d forwarding entries, %d of the fast path\n", len(s.Neighs),
		len(s.FDB), len(s.Fast.Peers))
	return nil
}

// further has some more endpoints come, and looks at full passes.
func (b *bench) further(ctx context.Context, n *clustertest.Node, crowd clustertest.Crowd) error {
	var one []time.Duration
	const further = 50
	own := cpu()
	for i := b.endpoints; i < b.endpoints+further; i++ {
		began := time.Now()
		if err := crowd.Endpoints(ctx, i, i+1, b.nodes); err != nil {
			return err
		}
		if err := n.AwaitPeer(ctx, crowd.EndpointPeer(i)); err != nil {
			return err
		}
		one = append(one, time.Since(began))
	}
	own = (cpu() - own) / further
	var full []time.Duration
	for range 5 {
		d, err := fullPass(ctx, n)
		if err != nil {
			return err
		}
		full = append(full, d)
	}
	fmt.Printf("  one more endpoint takes %v (median), %v of CPU on two nodes; a full pass %v (median)\n",
		round(median(one)), round(own), round(median(full)))
	return nil
}
