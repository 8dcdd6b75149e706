package controller_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/bolt"
	"github.com/vethloom/vethloom/plan"
)

func boltStore(t testing.TB) cnm.Store {
	t.Helper()
	dir := t.TempDir()
	s, err := bolt.Open(context.Background(), bolt.Config{
		StateFile: filepath.Join(dir, "state.db"), RuntimeFile: filepath.Join(dir, "runtime.db"), BootID: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// nullFabric converges at once, so that only the controller is measured.
type nullFabric struct{}

func (nullFabric) Converge(context.Context, ...plan.Owner) error { return nil }

func inParallel(t testing.TB, n int, do func(i int) error) {
	t.Helper()
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func TestParallelAttaches(t *testing.T) {
	w := newWorld(t, boltStore(t))
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "db", "10.2.0.0/23")
	const n = 200
	id := func(i int) string { return fmt.Sprintf("%012x", i+1) }
	inParallel(t, n, func(i int) error {
		_, _, err := w.CreateSandbox(t.Context(),
			cnm.SandboxRequest{ID: id(i), Attach: []cnm.AttachRequest{{Network: "web"}}})
		return err
	})
	inParallel(t, n, func(i int) error {
		r := cnm.AttachRequest{Network: "db"}
		if i < 50 {
			r.Ports = []cnm.PortMapping{{Port: 80}}
		}
		_, err := w.Attach(t.Context(), id(i), r)
		return err
	})
	w.consistent(t)
	es, err := w.Endpoints(t.Context())
	if err != nil || len(es) != 2*n {
		t.Fatalf("%d endpoints, %v", len(es), err)
	}
	ports := map[uint16]bool{}
	for _, e := range es {
		for _, m := range e.Ports {
			ports[m.HostPort] = true
		}
	}
	if len(ports) != 50 {
		t.Errorf("%d different host ports for 50 endpoints", len(ports))
	}
	inParallel(t, n, func(i int) error {
		if i%2 == 0 {
			return w.DeleteSandbox(t.Context(), id(i))
		}
		return errors.Join(w.Detach(t.Context(), id(i), "db"), w.Detach(t.Context(), id(i), "web"))
	})
	w.consistent(t)
	if es, err := w.Endpoints(t.Context()); err != nil || len(es) != 0 {
		t.Errorf("%d endpoints are left, %v", len(es), err)
	}
}

// TestSameThingAtOnce lets many callers ask for the same thing: one gets it.
func TestSameThingAtOnce(t *testing.T) {
	w := newWorld(t, nil)
	const n = 20
	var mu sync.Mutex
	won := map[string]int{}
	once := func(what string, err error) error {
		if err == nil {
			mu.Lock()
			won[what]++
			mu.Unlock()
			return nil
		}
		if errors.Is(err, cnm.ErrExists) || errors.Is(err, cnm.ErrPortTaken) || errors.Is(err, cnm.ErrNotFound) ||
			errors.Is(err, cnm.ErrInUse) {
			return nil
		}
		return err
	}
	inParallel(t, n, func(int) error {
		_, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "web"})
		return once("network", err)
	})
	inParallel(t, n, func(int) error {
		_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
			Ports: []cnm.PortMapping{{HostPort: 80, Port: 80}}})
		return once("port", err)
	})
	s, _ := w.sandbox(t, "web")
	inParallel(t, n, func(int) error {
		_, err := w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "bridge"})
		return once("attach", err)
	})
	inParallel(t, n, func(int) error { return once("detach", w.Detach(t.Context(), s.ID, "bridge")) })
	for _, what := range []string{"network", "port", "attach", "detach"} {
		if won[what] != 1 {
			t.Errorf("%s: %d callers got it, want 1", what, won[what])
		}
	}
	w.consistent(t)
	// Attaching and deleting the network at once: one of them loses, cleanly.
	for i := range 50 {
		name := fmt.Sprintf("n%d", i)
		if _, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: name}); err != nil {
			t.Fatal(err)
		}
		sandbox := fmt.Sprintf("%012x", i+1)
		inParallel(t, 2, func(who int) error {
			if who == 0 {
				_, err := w.DeleteNetwork(t.Context(), name)
				return once("delete", err)
			}
			_, _, err := w.CreateSandbox(t.Context(),
				cnm.SandboxRequest{ID: sandbox, Attach: []cnm.AttachRequest{{Network: name}}})
			return once("join", err)
		})
		if err := w.DeleteSandbox(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
		if _, err := w.DeleteNetwork(t.Context(), name); err != nil && !errors.Is(err, cnm.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if won["delete"]+won["join"] != 50 {
		t.Errorf("%d deletions and %d joins won in 50 rounds", won["delete"], won["join"])
	}
	w.consistent(t)
}

// TestSettleLeavesCallsAlone checks that a pass which saw a record before
// its deletion began cannot end that deletion under the call.
func TestSettleLeavesCallsAlone(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	s, es := w.sandbox(t, "web")
	late := []plan.Owner{cnm.EndpointOwner(es[0].ID), cnm.SandboxOwner(s.ID)}
	settled := 0
	w.fabric.hook = func() error {
		settled++
		if err := w.Settle(t.Context(), late...); err != nil {
			return err
		}
		if _, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindEndpoint, ID: es[0].ID}); err != nil {
			return fmt.Errorf("the record went before the kernel agreed: %w", err)
		}
		return nil
	}
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil || settled != 1 {
		t.Errorf("%v after %d passes", err, settled)
	}
	w.fabric.hook = nil
	w.consistent(t)
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	w := newWorld(t, nil)
	s, _ := w.sandbox(t, "bridge")
	inside, leave := make(chan struct{}), make(chan struct{})
	w.fabric.hook = func() error {
		close(inside)
		<-leave
		return nil
	}
	done := make(chan error)
	go func() { done <- w.Detach(t.Context(), s.ID, "bridge") }()
	<-inside
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := w.DeleteSandbox(ctx, s.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second change of the sandbox: %v", err)
	}
	close(leave)
	if err := <-done; err != nil {
		t.Error(err)
	}
	w.fabric.hook = nil
	w.consistent(t)
}

// model is the controller as a user imagines it.
type model struct {
	networks  map[string]bool
	sandboxes map[string][]string // networks in order
	ports     map[string]uint16   // sandbox/network to host port
}

func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, nil)
		m := model{networks: map[string]bool{}, sandboxes: map[string][]string{}, ports: map[string]uint16{}}
		name := rapid.SampledFrom([]string{"x", "y", "z"}) // no hex digits: they are not the beginning of an ID
		sandbox := rapid.SampledFrom([]string{"000000000001", "000000000002", "000000000003"})
		port := rapid.SampledFrom([]uint16{0, 80, 81})
		expect := func(rt *rapid.T, what string, err error, kinds ...error) bool {
			if len(kinds) == 0 && err != nil {
				rt.Fatalf("%s: %v", what, err)
			}
			if len(kinds) > 0 && !slices.ContainsFunc(kinds, func(k error) bool { return errors.Is(err, k) }) {
				rt.Fatalf("%s: error %v, want one of %v", what, err, kinds)
			}
			return len(kinds) == 0
		}
		free := func(p uint16) bool {
			for _, q := range m.ports {
				if p != 0 && p == q {
					return false
				}
			}
			return true
		}
		rt.Repeat(map[string]func(*rapid.T){
			"create network": func(rt *rapid.T) {
				n := name.Draw(rt, "network")
				_, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: n})
				if m.networks[n] {
					expect(rt, "create network", err, cnm.ErrExists)
				} else if expect(rt, "create network", err) {
					m.networks[n] = true
				}
			},
			"delete network": func(rt *rapid.T) {
				n := name.Draw(rt, "network")
				_, err := w.DeleteNetwork(t.Context(), n)
				used := false
				for _, on := range m.sandboxes {
					used = used || slices.Contains(on, n)
				}
				switch {
				case !m.networks[n]:
					expect(rt, "delete network", err, cnm.ErrNotFound)
				case used:
					expect(rt, "delete network", err, cnm.ErrInUse)
				default:
					expect(rt, "delete network", err)
					delete(m.networks, n)
				}
			},
			"create sandbox": func(rt *rapid.T) {
				s, n := sandbox.Draw(rt, "sandbox"), name.Draw(rt, "network")
				_, _, err := w.CreateSandbox(t.Context(),
					cnm.SandboxRequest{ID: s, Attach: []cnm.AttachRequest{{Network: n}}})
				on, exists := m.sandboxes[s]
				switch {
				case !m.networks[n]:
					expect(rt, "create sandbox", err, cnm.ErrNotFound)
				case exists && !slices.Equal(on, []string{n}):
					expect(rt, "create sandbox", err, cnm.ErrExists)
				default:
					expect(rt, "create sandbox", err)
					m.sandboxes[s] = []string{n}
				}
			},
			"attach": func(rt *rapid.T) {
				s, n, p := sandbox.Draw(rt, "sandbox"), name.Draw(rt, "network"), port.Draw(rt, "port")
				r := cnm.AttachRequest{Network: n}
				if p != 0 {
					r.Ports = []cnm.PortMapping{{HostPort: p, Port: 80}}
				}
				e, err := w.Attach(t.Context(), s, r)
				on, exists := m.sandboxes[s]
				switch {
				case !exists || !m.networks[n]:
					expect(rt, "attach", err, cnm.ErrNotFound)
				case slices.Contains(on, n):
					expect(rt, "attach", err, cnm.ErrExists)
				case !free(p):
					expect(rt, "attach", err, cnm.ErrPortTaken)
				case expect(rt, "attach", err):
					if !e.Addrs[0].IsValid() {
						rt.Fatalf("no address: %+v", e)
					}
					m.sandboxes[s] = append(on, n)
					m.ports[s+n] = p
				}
			},
			"detach": func(rt *rapid.T) {
				s, n := sandbox.Draw(rt, "sandbox"), name.Draw(rt, "network")
				err := w.Detach(t.Context(), s, n)
				on := m.sandboxes[s]
				if i := slices.Index(on, n); i < 0 {
					expect(rt, "detach", err, cnm.ErrNotFound)
				} else if expect(rt, "detach", err) {
					m.sandboxes[s] = slices.Delete(on, i, i+1)
					delete(m.ports, s+n)
				}
			},
			"delete sandbox": func(rt *rapid.T) {
				s := sandbox.Draw(rt, "sandbox")
				expect(rt, "delete sandbox", w.DeleteSandbox(t.Context(), s))
				for _, n := range m.sandboxes[s] {
					delete(m.ports, s+n)
				}
				delete(m.sandboxes, s)
			},
			"restart": func(rt *rapid.T) { w.restart(rt) },
			"":        func(rt *rapid.T) { compare(rt, w, m) },
		})
	})
}

func compare(rt *rapid.T, w *world, m model) {
	w.consistent(rt)
	ctx := context.Background()
	networks, err := w.Networks(ctx)
	if err != nil || len(networks) != len(m.networks)+3 {
		rt.Fatalf("%d networks, %v; the model has %d and three builtin", len(networks), err, len(m.networks))
	}
	names := map[string]string{}
	for _, n := range networks {
		names[n.ID] = n.Name
	}
	sandboxes, err := w.Sandboxes(ctx)
	if err != nil || len(sandboxes) != len(m.sandboxes) {
		rt.Fatalf("%d sandboxes, %v; the model has %d", len(sandboxes), err, len(m.sandboxes))
	}
	for _, s := range sandboxes {
		es, err := w.EndpointsOf(ctx, s.ID)
		if err != nil {
			rt.Fatal(err)
		}
		var on []string
		indexes := map[int]bool{}
		for _, e := range es {
			on = append(on, names[e.Network])
			indexes[e.Index] = true
		}
		want := slices.Clone(m.sandboxes[s.ID])
		slices.Sort(want)
		slices.Sort(on)
		if !slices.Equal(on, want) || len(indexes) != len(es) {
			rt.Fatalf("sandbox %s is on %v with indexes %v, the model says %v", s.ID, on, indexes, want)
		}
	}
}

func BenchmarkAttachDetach(b *testing.B) {
	for _, others := range []int{0, 1000} {
		b.Run(fmt.Sprintf("among %d", others), func(b *testing.B) {
			w := newWorld(b, boltStore(b))
			w.network(b, "web", "10.1.0.0/16")
			w.wrap = func(cnm.Fabric) cnm.Fabric { return nullFabric{} }
			if err := w.open(); err != nil {
				b.Fatal(err)
			}
			for range others {
				w.sandbox(b, "web")
			}
			s, _ := w.sandbox(b)
			for b.Loop() {
				if _, err := w.Attach(b.Context(), s.ID, cnm.AttachRequest{Network: "web"}); err != nil {
					b.Fatal(err)
				}
				if err := w.Detach(b.Context(), s.ID, "web"); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
