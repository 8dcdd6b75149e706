package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

var errKilled = errors.New("killed")

// fuse counts the steps with effects of a process, and kills it before or
// after the one it is set to: from then on nothing has any effect.
type fuse struct {
	mu    sync.Mutex
	left  int
	after bool // the fatal step still happens
	blown bool
}

func (f *fuse) step(do func() error) error {
	f.mu.Lock()
	if f.blown {
		f.mu.Unlock()
		return errKilled
	}
	f.left--
	f.blown = f.left < 0
	blown := f.blown
	f.mu.Unlock()
	if blown && !f.after {
		return errKilled
	}
	if err := do(); err != nil {
		return err
	}
	if blown {
		return errKilled
	}
	return nil
}

type fusedStore struct {
	cnm.Store
	*fuse
}

func (s fusedStore) Commit(ctx context.Context, ws ...cnm.Write) error {
	return s.step(func() error { return s.Store.Commit(ctx, ws...) })
}

// fusedFabric treats every scope of a pass as a step of its own, so that
// passes are cut short in the middle too.
type fusedFabric struct {
	*fakeFabric
	*fuse
}

func (f fusedFabric) Converge(ctx context.Context, scopes ...plan.Owner) error {
	for _, s := range scopes {
		if err := f.step(func() error { return f.fakeFabric.Converge(ctx, s) }); err != nil {
			return err
		}
	}
	return nil
}

// life is a script of everything the controller does. It runs against what
// an earlier life, killed anywhere, has left.
func life(ctx context.Context, k *controller.Controller) error {
	id := fmt.Sprintf("%064x", 0xabc)
	for _, n := range []string{"a", "b", "c"} {
		if _, err := k.CreateNetwork(ctx, cnm.NetworkRequest{Name: n, IPv6: n == "b"}); err != nil &&
			!errors.Is(err, cnm.ErrExists) {
			return err
		}
	}
	if err := k.DeleteSandbox(ctx, id); err != nil {
		return err
	}
	s, _, err := k.CreateSandbox(ctx, cnm.SandboxRequest{
		ID: id, Container: id, Attach: []cnm.AttachRequest{{Network: "a"}, {Network: "b"}},
		Ports: []cnm.PortMapping{{HostPort: 8080, Port: 80}, {Port: 443}},
	})
	if err != nil {
		return err
	}
	if _, err := k.Attach(ctx, s.ID, cnm.AttachRequest{Network: "c"}); err != nil {
		return err
	}
	for _, ports := range [][]cnm.PortMapping{{{Port: 443, Dynamic: true}, {HostPort: 8081, Port: 81}}, {}} {
		if err := k.Publish(ctx, s.ID, ports); err != nil {
			return err
		}
	}
	if err := k.Detach(ctx, s.ID, "a"); err != nil {
		return err
	}
	if _, err := k.DeleteNetwork(ctx, "a"); err != nil {
		return err
	}
	if err := k.DeleteSandbox(ctx, s.ID); err != nil {
		return err
	}
	_, err = k.PruneNetworks(ctx, every)
	return err
}

// restart is what the daemon does at its start: a new controller, one pass
// over everything there is or should be, and the end of deletions.
func (w *world) restart(t reporter) {
	t.Helper()
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	active, _, err := wanted(ctx, w.store)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range w.fabric.holds() {
		if _, ok := active[s]; !ok {
			active[s] = false
		}
	}
	var scopes []plan.Owner
	for s := range active {
		scopes = append(scopes, s)
	}
	if err := w.fabric.Converge(ctx, scopes...); err != nil {
		t.Fatal(err)
	}
	if err := w.Settle(ctx, scopes...); err != nil {
		t.Fatal(err)
	}
}

func TestKilledAtEveryStep(t *testing.T) {
	for _, after := range []bool{false, true} {
		steps := 0
		for killed := true; killed; steps++ {
			s := mem.New()
			w := newWorld(t, s)
			f := &fuse{left: steps, after: after}
			w.store = fusedStore{s, f}
			w.wrap = func(k cnm.Fabric) cnm.Fabric { return fusedFabric{w.fabric, f} }
			if err := w.open(); err != nil {
				t.Fatal(err)
			}
			err := life(t.Context(), w.Controller)
			killed = f.blown
			if killed != errors.Is(err, errKilled) || !killed && err != nil {
				t.Fatalf("step %d: %v", steps, err)
			}
			w.store, w.wrap = s, nil
			w.restart(t)
			w.consistent(t)
			if t.Failed() {
				t.Fatalf("killed at step %d (after it: %t)", steps, after)
			}
			if err := life(t.Context(), w.Controller); err != nil {
				t.Fatalf("the life after being killed at step %d: %v", steps, err)
			}
			w.consistent(t)
			if n, err := w.Networks(t.Context()); err != nil || len(n) != 3 {
				t.Fatalf("%d networks are left, %v; want the builtin ones", len(n), err)
			}
		}
		if steps < 25 {
			t.Errorf("the life had %d steps only: is anything counted?", steps)
		}
		t.Logf("%d steps", steps)
	}
}

// TestFailedPass lets each pass of a life fail once, with the daemon living on: every
// call either happens or does not.
func TestFailedPass(t *testing.T) {
	broken := errors.New("the kernel says no")
	for fail, done := 1, false; !done; fail++ {
		w := newWorld(t, nil)
		pass := 0
		w.fabric.hook = func() error {
			if pass++; pass == fail {
				return broken
			}
			return nil
		}
		err := life(t.Context(), w.Controller)
		done = pass < fail
		if !done && !errors.Is(err, broken) {
			t.Fatalf("pass %d failed, and the call says %v", fail, err)
		}
		w.fabric.hook = nil
		var scopes []plan.Owner
		active, _, err := wanted(t.Context(), w.store)
		if err != nil {
			t.Fatal(err)
		}
		for s := range active {
			scopes = append(scopes, s)
		}
		if err := w.fabric.Converge(t.Context(), scopes...); err != nil {
			t.Fatal(err)
		}
		if err := w.Settle(t.Context(), scopes...); err != nil {
			t.Fatal(err)
		}
		w.consistent(t)
		if err := life(t.Context(), w.Controller); err != nil {
			t.Fatalf("after pass %d failed: %v", fail, err)
		}
		w.consistent(t)
	}
}

// TestFailedAttachLeavesNothing checks that a call whose pass fails has undone
// all of it by the time it returns, even when its own context is over.
func TestFailedAttachLeavesNothing(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	ctx, cancel := context.WithCancel(t.Context())
	w.fabric.check = func(cnm.Endpoint) error {
		cancel()
		return context.Canceled
	}
	before := len(w.events)
	_, _, err := w.CreateSandbox(ctx,
		cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}, {Network: "bridge"}}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
	w.consistent(t)
	if s, err := w.Sandboxes(t.Context()); err != nil || len(s) != 0 {
		t.Errorf("%d sandboxes are left, %v", len(s), err)
	}
	if len(w.events) != before {
		t.Errorf("events about what never was: %q", w.events[before:])
	}
}

// TestOrphansGo checks that endpoints whose network is lost, as after the
// state file was restored from an older copy, can be cleaned up.
func TestOrphansGo(t *testing.T) {
	w := newWorld(t, nil)
	n := w.network(t, "web", "10.1.0.0/24")
	s, _ := w.sandbox(t, "web", "bridge")
	r, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindNetwork, ID: n.ID})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Commit(t.Context(), cnm.Write{Key: r.Key, Revision: r.Revision}); err != nil {
		t.Fatal(err)
	}
	w.restart(t)
	w.consistent(t)
	es, err := w.EndpointsOf(t.Context(), s.ID)
	if err != nil || len(es) != 1 {
		t.Errorf("endpoints %v, %v: want the one on bridge", es, err)
	}
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Error(err)
	}
	w.consistent(t)
}

// TestEndpointWithoutASandbox starts with an endpoint that no sandbox has: it is not an orphan, and it keeps its
// network, its MAC address and its ports.
func TestEndpointWithoutASandbox(t *testing.T) {
	w := newWorld(t, nil)
	n := w.network(t, "web", "10.1.0.0/24")
	mac := plan.MAC{2, 0, 0, 0, 0, 1}
	e := cnm.Endpoint{ID: strings.Repeat("ab", 32), Network: n.ID, MAC: mac, Phase: cnm.Active,
		Addrs: []netip.Prefix{netip.MustParsePrefix("10.1.0.9/24")},
		Ports: []cnm.PortMapping{{Proto: plan.TCP, HostPort: 80, Port: 80, Count: 1}}}
	write, err := cnm.Put(cnm.KindEndpoint, e.ID, e, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Commit(t.Context(), write); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	on, err := w.EndpointsOn(t.Context(), n.ID)
	if err != nil || len(on) != 1 || on[0].Phase != cnm.Active {
		t.Fatalf("endpoints on the network: %+v, %v", on, err)
	}
	_, err = w.DeleteNetwork(t.Context(), "web")
	wantError(t, err, cnm.ErrInUse, "endpoint abababababab")
	s, _ := w.sandbox(t)
	_, err = w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "web", MAC: mac})
	wantError(t, err, cnm.ErrExists, "endpoint abababababab")
	_, err = w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "web", Ports: e.Ports})
	wantError(t, err, cnm.ErrPortTaken, "endpoint abababababab")
}
