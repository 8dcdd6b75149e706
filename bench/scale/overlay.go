package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// overlay has a node meet a network with thousands of endpoints on other nodes, on a kernel in memory.
func overlay(ctx context.Context, b *bench) error { return b.overlay(ctx, "overlay", nil) }

// kernel is overlay on a real kernel.
func kernel(ctx context.Context, b *bench) error {
	return withKernel(b.dir, func(k reconcile.Kernel) error { return b.overlay(ctx, "kernel", k) })
}

// withKernel calls f with a real kernel, in a network namespace that goes with the thread it is made on.
func withKernel(dir string, f func(reconcile.Kernel) error) (err error) {
	done := make(chan error, 1)
	var k *kern.Kernel
	go func() {
		runtime.LockOSThread() // and never unlocked
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("make a network namespace: %w", err)
			return
		}
		var err error
		k, err = kern.Open(kern.Config{RunDir: filepath.Join(dir, "run"), Log: slog.New(slog.DiscardHandler)})
		done <- err
	}()
	if err := <-done; err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	return f(k)
}

func (b *bench) overlay(ctx context.Context, name string, k reconcile.Kernel) (err error) {
	first, err := b.node(ctx, clustertest.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, first.Stop()) }()
	made, err := network(ctx, first, "overlay", "10.0.0.0/14")
	if err != nil {
		return err
	}
	crowd := clustertest.Crowd{Client: first.Client, Network: made}
	if err := crowd.Nodes(ctx, 0, b.nodes); err != nil {
		return err
	}
	if err := crowd.Endpoints(ctx, 0, b.endpoints, b.nodes); err != nil {
		return err
	}
	if err := first.Await(ctx, b.endpoints); err != nil {
		return err
	}
	store, err := b.store(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	began, own, mem := time.Now(), cpu(), heap()
	n, err := b.node(ctx, clustertest.Config{Store: store, Kernel: k})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Stop()) }()
	if err := n.Await(ctx, b.endpoints); err != nil {
		return err
	}
	took := time.Since(began)
	own = cpu() - own
	fmt.Printf("%s: %d endpoints of %d nodes are there after %v, %v of CPU, %d passes; memory %.1f MB\n",
		name, b.endpoints, b.nodes, round(took), round(own), n.Passes(), heap()-mem)
	var one []time.Duration
	const further = 50
	own = cpu()
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
