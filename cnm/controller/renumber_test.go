package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

func TestRenumber(t *testing.T) {
	w, c := newCluster(t, nil)
	n := w.shared(t, "routed", "web")
	w.network(t, "local", "10.1.0.0/24")
	_, first := w.sandbox(t, "web", "local")
	_, second := w.sandbox(t, "web")
	if got := second[0].Addrs[0].String(); got != "10.200.1.3/24" {
		t.Fatalf("address %s", got)
	}
	// While the node has no lease at all, everybody keeps what they have.
	if err := w.Adopt(t.Context(), c.set(n.ID)); err != nil {
		t.Fatal(err)
	}
	_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}}})
	wantError(t, err, cnm.ErrUnavailable, `"web"`, "this node has no subnet of the network yet")
	if es, err := w.EndpointsOn(t.Context(), n.ID); err != nil || len(es) != 2 || es[0].Addrs[0].Bits() != 24 {
		t.Fatal(es, err)
	}
	w.told()
	w.fabric.passes = nil
	if err := w.Adopt(t.Context(), c.set(n.ID, lease("10.200.9.0/25"))); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	es, err := w.EndpointsOn(t.Context(), n.ID)
	if err != nil || len(es) != 2 {
		t.Fatal(es, err)
	}
	for _, e := range es {
		if !netip.MustParsePrefix("10.200.9.0/25").Contains(e.Addrs[0].Addr()) || e.Addrs[0].Bits() != 25 ||
			len(e.Addrs) != 1 {
			t.Errorf("addresses %v", e.Addrs)
		}
		if e.ID == second[0].ID && e.MAC != second[0].MAC {
			t.Errorf("MAC %s was %s", e.MAC, second[0].MAC)
		}
	}
	if es, err := w.EndpointsOf(t.Context(), first[0].Sandbox); err != nil || es[1].Addrs[0].String() != "10.1.0.2/24" {
		t.Errorf("an endpoint of another network: %v, %v", es, err)
	}
	if got, want := w.told(), []string{"endpoint renumber web", "endpoint renumber web"}; !slices.Equal(got, want) {
		t.Errorf("events %q", got)
	}
	if len(w.fabric.passes) != 1 || len(w.fabric.passes[0]) != 3 {
		t.Errorf("passes %v, want one over the network and its endpoints", w.fabric.passes)
	}
	// A second family comes: everybody gets an address of it and keeps the other.
	six := lease("fd00:9::/64")
	if err := w.Adopt(t.Context(), c.set(n.ID, lease("10.200.9.0/25"), six)); err != nil {
		t.Fatal(err)
	}
	after, err := w.EndpointsOn(t.Context(), n.ID)
	if err != nil || len(after[0].Addrs) != 2 || after[0].Addrs[0] != es[0].Addrs[0] ||
		!six.Subnet.Contains(after[0].Addrs[1].Addr()) {
		t.Errorf("%+v, %v", after, err)
	}
	w.consistent(t)
	w.restart(t)
	w.consistent(t)
}

// TestLostBlock checks that addresses of a block which is another node's now are left.
func TestLostBlock(t *testing.T) {
	w, c := newCluster(t, nil)
	n := w.shared(t, "overlay", "web")
	w.sandbox(t, "web")
	p := n.Pools[0]
	had := p.Blocks
	p.Blocks = nil
	wantError(t, w.Adopt(t.Context(), c.set(n.ID, p)), cnm.ErrNoBlock, "this node has no block of 10.200.0.0/16")
	if es, err := w.EndpointsOn(t.Context(), n.ID); err != nil || !had[0].Contains(es[0].Addrs[0].Addr()) {
		t.Fatalf("%v, %v: as long as there is no other address it keeps the one it has", es, err)
	}
	w.restart(t)
	p.Blocks = []netip.Prefix{netip.MustParsePrefix("10.200.66.0/30")}
	for range 5 {
		w.sandbox(t, "web") // the first block has four addresses
	}
	n = c.set(n.ID, p)
	wantError(t, w.Adopt(t.Context(), n), cnm.ErrNoBlock, `"web"`, "all 4 of 10.200.66.0/30")
	p.Blocks = append(slices.Clone(p.Blocks), netip.MustParsePrefix("10.200.67.0/30"))
	if err := w.Adopt(t.Context(), c.set(n.ID, p)); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	// One address left over stays valid where it is in the blocks still.
	p.Blocks = p.Blocks[1:]
	before, err := w.EndpointsOn(t.Context(), n.ID)
	if err != nil {
		t.Fatal(err)
	}
	var kept []cnm.Endpoint
	for _, e := range before {
		if p.Blocks[0].Contains(e.Addrs[0].Addr()) {
			kept = append(kept, e)
		}
	}
	p.Blocks = append(slices.Clone(p.Blocks), netip.MustParsePrefix("10.200.68.0/29"))
	if err := w.Adopt(t.Context(), c.set(n.ID, p)); err != nil {
		t.Fatal(err)
	}
	for _, e := range kept {
		es, err := w.EndpointsOf(t.Context(), e.Sandbox)
		if err != nil || es[0].Addrs[0] != e.Addrs[0] {
			t.Errorf("%v was %v: it is in a block of this node's, %v", es, e.Addrs, err)
		}
	}
	w.consistent(t)
}

// TestKilledWhileRenumbering kills the node at every step of a change of leases, with endpoints that stay and
// one that leaves.
func TestKilledWhileRenumbering(t *testing.T) {
	for _, after := range []bool{false, true} {
		for _, atLoad := range []bool{false, true} {
			steps := 0
			for killed := true; killed; steps++ {
				s := mem.New()
				w, c := newCluster(t, s)
				n := w.shared(t, "routed", "web")
				var macs []plan.MAC
				for range 3 {
					_, es := w.sandbox(t, "web")
					macs = append(macs, es[0].MAC)
				}
				f := &fuse{left: steps, after: after}
				w.store = fusedStore{s, f}
				w.wrap = func(k cnm.Fabric) cnm.Fabric { return fusedFabric{w.fabric, f} }
				if err := w.open(); err != nil {
					t.Fatal(err)
				}
				n = c.set(n.ID, lease("10.200.9.0/24"))
				err := w.Adopt(t.Context(), n)
				killed = f.blown
				if killed != errors.Is(err, errKilled) || !killed && err != nil {
					t.Fatalf("step %d: %v", steps, err)
				}
				w.store, w.wrap = s, nil
				if atLoad { // the start alone brings it to an end, when the network's record has changed
					w.restart(t)
					got, err := w.Network(t.Context(), "web")
					if err != nil {
						t.Fatal(err)
					}
					if got.Pools[0].Subnet == n.Pools[0].Subnet {
						w.consistent(t)
					}
				} else if err := w.open(); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					if err := w.Adopt(t.Context(), n); err != nil {
						t.Fatal(err)
					}
				}
				w.restart(t)
				w.consistent(t)
				es, err := w.EndpointsOn(t.Context(), n.ID)
				if err != nil || len(es) != 3 {
					t.Fatal(es, err)
				}
				for _, e := range es {
					if !n.Pools[0].Subnet.Contains(e.Addrs[0].Addr()) || !slices.Contains(macs, e.MAC) {
						t.Errorf("%v %s", e.Addrs, e.MAC)
					}
				}
				if t.Failed() {
					t.Fatalf("killed at step %d (after it: %t)", steps, after)
				}
			}
			if steps < 8 { // the network's record, three endpoints, four scopes
				t.Errorf("%d steps only", steps)
			}
		}
	}
}

func TestExtend(t *testing.T) {
	w, c := newCluster(t, nil)
	n := w.shared(t, "overlay", "web")
	attach := func(addrs ...string) (cnm.Endpoint, error) {
		var want []netip.Addr
		for _, a := range addrs {
			want = append(want, netip.MustParseAddr(a))
		}
		_, es, err := w.CreateSandbox(t.Context(),
			cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web", Addrs: want}}})
		if err != nil {
			return cnm.Endpoint{}, err
		}
		return es[0], nil
	}
	for i := range 5 {
		if _, err := attach(); err != nil {
			t.Fatal(err)
		}
		if want := i / 4; c.extended != want {
			t.Errorf("%d extensions for %d endpoints, want %d", c.extended, i+1, want)
		}
	}
	if e, err := attach("10.200.50.9"); err != nil || e.Addrs[0].Addr().String() != "10.200.50.9" || c.extended != 2 {
		t.Errorf("%v, %v, %d extensions", e.Addrs, err, c.extended)
	}
	if _, err := attach("10.200.50.10"); err != nil || c.extended != 2 {
		t.Errorf("an address of a block the node has: %v, %d extensions", err, c.extended)
	}
	_, err := attach("10.200.50.10")
	wantError(t, err, cnm.ErrExists, "10.200.50.10", "taken by")
	_, err = attach("10.201.0.1")
	wantError(t, err, cnm.ErrInvalid, "10.200.0.0/16")
	if c.extended != 2 {
		t.Errorf("%d extensions for what none helps", c.extended)
	}
	c.err = &cnm.Error{Kind: cnm.ErrUnavailable, Reason: "no etcd"}
	_, err = attach("10.200.60.1")
	wantError(t, err, cnm.ErrUnavailable, "more addresses of network web", "no etcd")
	if _, err := attach(); err != nil {
		t.Errorf("what the node has can be given out without the cluster: %v", err)
	}
	c.unusable = &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: "web",
		Reason: "this node's lease is over"}
	_, err = attach()
	wantError(t, err, cnm.ErrUnavailable, "lease is over")
	c.err, c.unusable = nil, nil
	w.consistent(t)
	// A node that is in the cluster no more.
	w.member = nil
	w.restart(t)
	_, err = attach()
	wantError(t, err, cnm.ErrUnavailable, "this node is in none")
	_, err = w.DeleteNetwork(t.Context(), n.ID)
	wantError(t, err, cnm.ErrUnavailable, "--etcd")
	w.consistent(t)
}

func TestParallelExtends(t *testing.T) {
	w, c := newCluster(t, nil)
	w.shared(t, "overlay", "web")
	inParallel(t, 60, func(i int) error {
		_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}}})
		return err
	})
	if c.extended != 14 {
		t.Errorf("%d extensions by blocks of four for 60 endpoints, want 14", c.extended)
	}
	w.consistent(t)
}

// TestAttachWhileTheLeaseChanges checks that no endpoint is left behind in a lease that was lost
// while it was being made.
func TestAttachWhileTheLeaseChanges(t *testing.T) {
	w, c := newCluster(t, boltStore(t))
	n := w.shared(t, "routed", "web")
	var wg sync.WaitGroup
	done := make(chan struct{})
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			default:
			}
			if err := w.Adopt(t.Context(), c.set(n.ID, lease(fmt.Sprintf("10.200.%d.0/24", 1+i%200)))); err != nil {
				t.Error(err)
				return
			}
		}
	})
	inParallel(t, 8, func(who int) error {
		for i := range 15 {
			id := fmt.Sprintf("%012x", 1+who*100+i)
			if _, _, err := w.CreateSandbox(context.Background(),
				cnm.SandboxRequest{ID: id, Attach: []cnm.AttachRequest{{Network: "web"}}}); err != nil {
				return err
			}
			if i%3 == 0 {
				if err := w.DeleteSandbox(context.Background(), id); err != nil {
					return err
				}
			}
		}
		return nil
	})
	close(done)
	wg.Wait()
	w.consistent(t)
	es, err := w.EndpointsOn(t.Context(), n.ID)
	if err != nil || len(es) != 80 {
		t.Fatalf("%d endpoints, %v", len(es), err)
	}
	// What the index says is what the records say.
	records, err := cnm.ListEndpoints(t.Context(), w.store)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range records {
		if !slices.Equal(es[i].Addrs, r.Addrs) {
			t.Errorf("endpoint %s: %v, and its record %v", cnm.Short(r.ID), es[i].Addrs, r.Addrs)
		}
	}
}

// TestAttachWhileAbandoned lets the cluster lose networks while endpoints come and go.
func TestAttachWhileAbandoned(t *testing.T) {
	w, _ := newCluster(t, nil)
	for i := range 50 {
		n := learnt("web", 1)
		if err := w.Adopt(t.Context(), n); err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprintf("%012x", i+1)
		inParallel(t, 2, func(who int) error {
			if who == 0 {
				return w.Abandon(t.Context(), n.ID)
			}
			_, _, err := w.CreateSandbox(t.Context(),
				cnm.SandboxRequest{ID: id, Attach: []cnm.AttachRequest{{Network: "web"}}})
			if errors.Is(err, cnm.ErrInUse) || errors.Is(err, cnm.ErrNotFound) {
				return nil
			}
			return err
		})
		if err := w.DeleteSandbox(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		w.consistent(t)
		if _, err := w.Network(t.Context(), "web"); !errors.Is(err, cnm.ErrNotFound) {
			t.Fatalf("round %d: %v", i, err)
		}
	}
}

// TestSyncWhileMaking lets the replica see each network while the calls that make and remove it are under way.
func TestSyncWhileMaking(t *testing.T) {
	w, c := newCluster(t, nil)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if err := c.sync(t.Context()); err != nil {
				t.Error(err)
				return
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(done)
		wg.Wait()
	})
	defer stop()
	for i := range 100 {
		name := fmt.Sprint("n", i)
		w.shared(t, "overlay", name)
		if _, err := w.DeleteNetwork(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := c.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	if ns, err := w.Networks(t.Context()); err != nil || len(ns) != 3 || len(c.networks) != 0 {
		t.Errorf("%d networks are left, %v", len(ns), err)
	}
}

// sharedLife does everything there is to do with cluster networks.
func sharedLife(ctx context.Context, w *world) error {
	id := fmt.Sprintf("%064x", 0xabc)
	for _, driver := range []string{"overlay", "routed"} {
		_, err := w.CreateNetwork(ctx, cnm.NetworkRequest{Name: "on-" + driver, Driver: driver})
		if err != nil && !errors.Is(err, cnm.ErrExists) {
			return err
		}
	}
	if err := w.DeleteSandbox(ctx, id); err != nil {
		return err
	}
	n, err := w.Network(ctx, "on-overlay")
	if err != nil {
		return err
	}
	outside := n.Pools[0].Blocks[0].Addr().Prev() // of the node's blocks
	_, _, err = w.CreateSandbox(ctx, cnm.SandboxRequest{
		ID: id, Attach: []cnm.AttachRequest{{Network: "on-overlay", Addrs: []netip.Addr{outside}},
			{Network: "on-routed"}},
	})
	if err != nil {
		return err
	}
	if err := w.DeleteSandbox(ctx, id); err != nil {
		return err
	}
	for _, name := range []string{"on-overlay", "on-routed"} {
		if _, err := w.DeleteNetwork(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func TestSharedLifeKilledAtEveryStep(t *testing.T) {
	for _, after := range []bool{false, true} {
		steps := 0
		for killed := true; killed; steps++ {
			s := mem.New()
			w, c := newCluster(t, s)
			f := &fuse{left: steps, after: after}
			c.step = f.step
			w.store = fusedStore{s, f}
			w.wrap = func(k cnm.Fabric) cnm.Fabric { return fusedFabric{w.fabric, f} }
			if err := w.open(); err != nil {
				t.Fatal(err)
			}
			err := sharedLife(t.Context(), w)
			killed = f.blown
			if killed != errors.Is(err, errKilled) || !killed && err != nil {
				t.Fatalf("step %d: %v", steps, err)
			}
			w.store, w.wrap, c.step = s, nil, nil
			w.restart(t)
			if err := c.sync(t.Context()); err != nil {
				t.Fatal(err)
			}
			w.consistent(t)
			ns, err := w.Networks(t.Context())
			if err != nil || len(ns) != 3+len(c.networks) {
				t.Errorf("%d networks here and %d in the cluster, %v", len(ns)-3, len(c.networks), err)
			}
			if err := sharedLife(t.Context(), w); err != nil {
				t.Fatalf("the life after being killed at step %d: %v", steps, err)
			}
			w.consistent(t)
			if t.Failed() {
				t.Fatalf("killed at step %d (after it: %t)", steps, after)
			}
		}
		if steps < 20 {
			t.Errorf("%d steps only", steps)
		}
	}
}
