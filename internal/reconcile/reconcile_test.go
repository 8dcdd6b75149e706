package reconcile_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a kernel that does what it is told, unless an object's key is cursed.
type ledger struct {
	mu       sync.Mutex
	have     map[string]plan.Object
	cursed   map[string]error
	observed int
	applied  []string
	broken   error // every Observe fails with it
}

func newLedger() *ledger {
	return &ledger{have: map[string]plan.Object{}, cursed: map[string]error{}}
}

func id(o plan.Object) string { return plan.KindOf(o) + " " + o.Key() }

func (l *ledger) Observe(context.Context, []plan.Sysctl) (plan.State, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.observed++
	if l.broken != nil {
		return plan.State{}, l.broken
	}
	var st plan.State
	for _, o := range l.have {
		switch o := o.(type) {
		case plan.Link:
			st.Links = append(st.Links, o)
		case plan.Addr:
			st.Addrs = append(st.Addrs, o)
		case plan.Namespace:
			st.Namespaces = append(st.Namespaces, o)
		}
	}
	return st, nil
}

func (l *ledger) Apply(_ context.Context, ops []plan.Op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, op := range ops {
		if err := l.cursed[id(op.Object)]; err != nil {
			return &plan.OpError{Op: op, Err: err}
		}
		l.applied = append(l.applied, op.String())
		if op.Verb == plan.Delete {
			delete(l.have, id(op.Object))
		} else {
			l.have[id(op.Object)] = op.Object
		}
	}
	return nil
}

func (l *ledger) has(o plan.Object) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.have[id(o)]
	return ok
}

// records are wants that a test changes.
type records struct {
	mu     sync.Mutex
	wants  map[plan.Owner]reconcile.Want
	unread error
}

func (r *records) set(s plan.Owner, st plan.State, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wants == nil {
		r.wants = map[plan.Owner]reconcile.Want{}
	}
	r.wants[s] = reconcile.Want{State: st, Err: err}
}

func (r *records) remove(s plan.Owner) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.wants, s)
}

func (r *records) All(context.Context) (map[plan.Owner]reconcile.Want, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[plan.Owner]reconcile.Want{}
	for s, w := range r.wants {
		out[s] = w
	}
	return out, r.unread
}

func (r *records) Render(_ context.Context, s plan.Owner) (plan.State, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.wants[s]
	if r.unread != nil {
		return plan.State{}, r.unread
	}
	return w.State, w.Err
}

func link(s plan.Owner, name string) plan.Link {
	return plan.Link{Name: name, Owner: s, Kind: plan.Bridge, MTU: 1500, Up: true}
}

func state(s plan.Owner, name string) plan.State {
	return plan.State{
		Links: []plan.Link{link(s, name)},
		Addrs: []plan.Addr{{Link: name, Prefix: netip.MustParsePrefix("10.0.0.1/24")}},
	}
}

type bench struct {
	*reconcile.Reconciler
	kernel  *ledger
	records *records
	drift   chan struct{}
	passes  chan reconcile.Pass
}

// start runs a reconciler for the length of the test.
func start(t *testing.T, kernel *ledger, recs *records) *bench {
	t.Helper()
	return startWith(t, kernel, recs, func(*reconcile.Config) {})
}

func startWith(t *testing.T, kernel *ledger, recs *records, edit func(*reconcile.Config)) *bench {
	t.Helper()
	b := &bench{kernel: kernel, records: recs, drift: make(chan struct{}, 1), passes: make(chan reconcile.Pass, 1000)}
	c := reconcile.Config{
		Kernel: kernel, Source: recs, Log: slog.New(slog.DiscardHandler),
		Observer: func(p reconcile.Pass) { b.passes <- p },
	}
	edit(&c)
	b.Reconciler = reconcile.New(c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx, b.drift) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestFirstPassRemovesWhatNoRecordAsksFor(t *testing.T) {
	k := newLedger()
	stray := link("network/gone", "vlb-gone")
	k.have[id(stray)] = stray
	recs := &records{}
	recs.set("network/a", state("network/a", "vlb-a"), nil)
	b := start(t, k, recs)
	p := <-b.passes
	if !p.Full || p.Err != nil {
		t.Fatalf("first pass: full %v, err %v", p.Full, p.Err)
	}
	if k.has(stray) || !k.has(link("", "vlb-a")) {
		t.Errorf("kernel has %v", k.have)
	}
}

func TestConvergeCostsNoObservation(t *testing.T) {
	k, recs := newLedger(), &records{}
	b := start(t, k, recs)
	<-b.passes
	before := k.observed
	for i := range 20 {
		s := plan.Owner(fmt.Sprintf("network/%d", i))
		recs.set(s, state(s, fmt.Sprintf("vlb-%d", i)), nil)
		if err := b.Converge(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if !k.has(link("", fmt.Sprintf("vlb-%d", i))) {
			t.Fatalf("%s returned before its link was there", s)
		}
	}
	recs.remove("network/7")
	if err := b.Converge(t.Context(), "network/7"); err != nil {
		t.Fatal(err)
	}
	if k.has(link("", "vlb-7")) {
		t.Error("an owner without a record kept its link")
	}
	if k.observed != before {
		t.Errorf("observed %d times on the way of single owners", k.observed-before)
	}
}

func TestOneFailingOwnerLeavesOthersAlone(t *testing.T) {
	k, recs := newLedger(), &records{}
	b := start(t, k, recs)
	<-b.passes
	curse := errors.New("cursed")
	k.cursed[id(link("", "vlb-bad"))] = curse
	var wg sync.WaitGroup
	results := make([]error, 30)
	for i := range results {
		name := fmt.Sprintf("vlb-%d", i)
		if i == 13 {
			name = "vlb-bad"
		}
		s := plan.Owner(fmt.Sprintf("network/%d", i))
		recs.set(s, state(s, name), nil)
		wg.Go(func() { results[i] = b.Converge(t.Context(), s) })
	}
	wg.Wait()
	for i, err := range results {
		if (i == 13) != errors.Is(err, curse) {
			t.Errorf("owner %d: %v", i, err)
		}
	}
	if f := b.Failures(); len(f) != 1 || f[0].Owner != "network/13" {
		t.Errorf("failures: %v", f)
	}
	// The caller gives up, as an attach that fails does.
	recs.remove("network/13")
	if err := b.Converge(t.Context(), "network/13"); err != nil {
		t.Fatal(err)
	}
	if ops, err := b.Diff(t.Context()); err != nil || len(ops) != 0 {
		t.Errorf("difference afterwards: %v, %v", ops, err)
	}
	if f := b.Failures(); len(f) != 0 {
		t.Errorf("failures afterwards: %v", f)
	}
}

// What is to be done after somebody was answered is no difference.
func TestDiffWaitsForWhatIsUnderWay(t *testing.T) {
	k, recs := newLedger(), &records{}
	b := startWith(t, k, recs, func(c *reconcile.Config) {
		c.With = func(o plan.Owner) (plan.Owner, bool) { return "with/" + o, o == "network/a" }
	})
	<-b.passes
	for range 50 {
		recs.set("network/a", state("network/a", "vlb-a"), nil)
		recs.set("with/network/a", state("with/network/a", "vlb-with"), nil)
		if err := b.Converge(t.Context(), "network/a"); err != nil {
			t.Fatal(err)
		}
		if ops, err := b.Diff(t.Context()); err != nil || len(ops) > 0 {
			t.Fatalf("after an answer: %v, %v", ops, err)
		}
		recs.set("network/a", plan.State{}, nil)
		recs.set("with/network/a", plan.State{}, nil)
		if err := b.Converge(t.Context(), "network/a"); err != nil {
			t.Fatal(err)
		}
	}
}

// An owner that goes with another one is converged after who waits for that has been answered, and from then on in the
// same pass. Its failure is nobody's who waits.
func TestAnOwnerGoesWithAnother(t *testing.T) {
	k, recs := newLedger(), &records{}
	b := startWith(t, k, recs, func(c *reconcile.Config) {
		c.With = func(o plan.Owner) (plan.Owner, bool) { return "with/" + o, !strings.HasPrefix(string(o), "with/") }
	})
	<-b.passes
	recs.set("network/a", state("network/a", "vlb-a"), nil)
	recs.set("with/network/a", state("with/network/a", "vlb-with"), nil)
	if err := b.Converge(t.Context(), "network/a"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []plan.Owner{"network/a", "with/network/a"} {
		if p := <-b.passes; len(p.Owners) != 1 || p.Owners[0] != want || p.Waited != (want == "network/a") {
			t.Errorf("a pass was about %v, and somebody waited: %v; want one about %s", p.Owners, p.Waited, want)
		}
	}
	if !k.has(link("", "vlb-with")) {
		t.Error("what goes with it is not there")
	}
	recs.set("network/a", plan.State{}, nil)
	recs.set("with/network/a", plan.State{}, nil)
	if err := b.Converge(t.Context(), "network/a"); err != nil {
		t.Fatal(err)
	}
	if p := <-b.passes; len(p.Owners) != 2 || k.has(link("", "vlb-with")) {
		t.Errorf("a pass was about %v, and what goes with it is left: %v", p.Owners, k.has(link("", "vlb-with")))
	}
	k.cursed[id(link("", "vlb-bad"))] = errors.New("cursed")
	recs.set("network/b", state("network/b", "vlb-b"), nil)
	recs.set("with/network/b", state("with/network/b", "vlb-bad"), nil)
	if err := b.Converge(t.Context(), "network/b"); err != nil {
		t.Errorf("what goes with it has failed, and so has the owner: %v", err)
	}
	for p := range b.passes {
		if p.Failed["with/network/b"] != nil {
			break
		}
	}
	if f := b.Failures(); len(f) != 1 || f[0].Owner != "with/network/b" {
		t.Errorf("failures: %v", f)
	}
}

// An owner that has all or nothing loses what it had when it cannot have more. Another one keeps it.
func TestAnOwnerHasAllOrNothing(t *testing.T) {
	for _, whole := range []bool{false, true} {
		k, recs := newLedger(), &records{}
		b := startWith(t, k, recs, func(c *reconcile.Config) {
			c.Whole = func(plan.Owner) bool { return whole }
		})
		<-b.passes
		recs.set("fast/a", state("fast/a", "vlb-a"), nil)
		if err := b.Converge(t.Context(), "fast/a"); err != nil {
			t.Fatal(err)
		}
		k.mu.Lock()
		k.cursed[id(link("", "vlb-b"))] = errors.New("full")
		k.mu.Unlock()
		more := state("fast/a", "vlb-a")
		more.Links = append(more.Links, link("fast/a", "vlb-b"))
		recs.set("fast/a", more, nil)
		if err := b.Converge(t.Context(), "fast/a"); err == nil {
			t.Error("an owner has converged whose link cannot be made")
		}
		if has := k.has(link("", "vlb-a")); has == whole {
			t.Errorf("all or nothing is %v, and the owner still has the rest: %v", whole, has)
		}
		k.mu.Lock()
		clear(k.cursed)
		k.mu.Unlock()
		if err := b.Converge(t.Context(), "fast/a"); err != nil || !k.has(link("", "vlb-a")) ||
			!k.has(link("", "vlb-b")) {
			t.Errorf("not converged once it could: %v", err)
		}
	}
}

func TestUnrenderableOwnerIsLeftAsItIs(t *testing.T) {
	k, recs := newLedger(), &records{}
	st := state("network/a", "vlb-a")
	k.have[id(st.Links[0])], k.have[id(st.Addrs[0])] = st.Links[0], st.Addrs[0]
	recs.set("network/a", plan.State{}, errors.New("no such driver"))
	recs.set("network/b", state("network/b", "vlb-b"), nil)
	b := start(t, k, recs)
	if p := <-b.passes; p.Err == nil {
		t.Error("the pass says nothing of the owner that cannot be rendered")
	}
	for _, o := range []plan.Object{st.Links[0], st.Addrs[0], link("", "vlb-b")} {
		if !k.has(o) {
			t.Errorf("%s is gone", o)
		}
	}
}

func TestUnreadableRecordsChangeNothing(t *testing.T) {
	k, recs := newLedger(), &records{unread: errors.New("input/output error")}
	have := link("network/a", "vlb-a")
	k.have[id(have)] = have
	b := start(t, k, recs)
	if p := <-b.passes; len(p.Ops) != 0 {
		t.Errorf("did %v", p.Ops)
	}
	if !k.has(have) {
		t.Error("a link went because the records could not be read")
	}
	if err := b.Converge(t.Context(), "network/a"); !errors.Is(err, recs.unread) {
		t.Errorf("err = %v", err)
	}
}

// withOneNetwork has a network's link made, which nothing disturbs so far.
func withOneNetwork(t *testing.T) (*ledger, *bench) {
	t.Helper()
	k, recs := newLedger(), &records{}
	recs.set("network/a", state("network/a", "vlb-a"), nil)
	b := start(t, k, recs)
	<-b.passes
	return k, b
}

func TestDriftIsRepairedAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := withOneNetwork(t)
		k.mu.Lock()
		delete(k.have, id(link("", "vlb-a")))
		k.mu.Unlock()
		b.drift <- struct{}{}
		p := <-b.passes
		if !p.Full || !p.Drift || !k.has(link("", "vlb-a")) {
			t.Errorf("pass %+v", p)
		}
		if _, drifts := b.Counts(); drifts != 1 {
			t.Errorf("%d drifts", drifts)
		}
	})
}

func TestFailingOwnerIsRetriedWithBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, recs := newLedger(), &records{}
		k.cursed[id(link("", "vlb-a"))] = errors.New("not yet")
		recs.set("network/a", state("network/a", "vlb-a"), nil)
		begin := time.Now()
		b := start(t, k, recs)
		var at []time.Duration
		for range 5 {
			<-b.passes
			at = append(at, time.Since(begin).Round(100*time.Millisecond))
		}
		want := []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 3500 * time.Millisecond,
			7500 * time.Millisecond}
		if d := cmp.Diff(want, at); d != "" {
			t.Errorf("tries at (-want +got):\n%s", d)
		}
		k.mu.Lock()
		clear(k.cursed)
		k.mu.Unlock()
		if p := <-b.passes; p.Err != nil || !k.has(link("", "vlb-a")) {
			t.Errorf("not converged once it could: %v", p.Err)
		}
		if f := b.Failures(); len(f) != 0 {
			t.Errorf("still failing: %v", f)
		}
	})
}

func TestResyncHappensByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, b := withOneNetwork(t)
		k.mu.Lock()
		clear(k.have)
		k.mu.Unlock()
		begin := time.Now()
		p := <-b.passes
		if took := time.Since(begin); took != time.Minute || !p.Drift {
			t.Errorf("resync after %v, drift %v", took, p.Drift)
		}
	})
}

func TestStopAnswersWaiters(t *testing.T) {
	k, recs := newLedger(), &records{}
	r := reconcile.New(reconcile.Config{Kernel: k, Source: recs, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	waiter := make(chan error, 1)
	queued := make(chan struct{})
	go func() {
		close(queued)
		waiter <- r.Converge(t.Context(), "network/a")
	}()
	<-queued
	if err := r.Run(ctx, nil); err != nil {
		t.Fatal(err)
	}
	if err := <-waiter; !errors.Is(err, reconcile.ErrStopped) {
		t.Errorf("err = %v", err)
	}
}
