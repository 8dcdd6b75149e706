package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/plan"
)

// Kernel is what passes read and change. Apply stops at the first operation that fails.
type Kernel interface {
	Observe(ctx context.Context, sysctls []plan.Sysctl) (plan.State, error)
	Apply(ctx context.Context, ops []plan.Op) error
}

// Source knows the records. Its methods are called by one goroutine at a time.
type Source interface {
	// All renders every owner that has a record. An error in one owner's
	// [Want] leaves what that owner has as it is.
	All(ctx context.Context) (map[plan.Owner]Want, error)
	// Render is what one owner wants: nothing when it has no record or is on its
	// way out.
	Render(ctx context.Context, s plan.Owner) (plan.State, error)
}

// Want is what an owner wants, or why that cannot be told.
type Want struct {
	State plan.State
	Err   error
}

// Pass reports one pass to [Config.Observer].
type Pass struct {
	Full     bool // everything was observed
	Drift    bool // the kernel differed although no record had changed
	Waited   bool // somebody waited for it
	Owners   []plan.Owner
	Ops      []plan.Op
	Failed   map[plan.Owner]error // the owners that have not converged
	Err      error                // the first of Failed
	Duration time.Duration
}

// Config holds what a Reconciler needs. Zero durations take the defaults.
type Config struct {
	Kernel Kernel
	Source Source
	Log    *slog.Logger
	// Resync is how often everything is observed although nothing asked for it; 1 minute.
	Resync time.Duration
	// Settle is how long drift is left to calm down before it is repaired; 50 ms.
	Settle time.Duration
	// Retry and RetryMax bound the exponential back-off of a failing owner; 500 ms and 30 s.
	Retry, RetryMax time.Duration
	// With is an owner that goes with another one, and is nobody's who waits for that: its first objects are for the
	// pass after, and all that becomes of them is in the same pass. Nil: none does.
	With func(plan.Owner) (plan.Owner, bool)
	// Whole reports whether an owner has all that it wants or nothing: half of it would be wrong. Nil: none has.
	Whole func(plan.Owner) bool
	// Observer is told of every pass, on the reconciler's goroutine.
	Observer func(Pass)
}

// Failure is what keeps an owner from converging.
type Failure struct {
	Owner plan.Owner
	Err   error
	Since time.Time
	Next  time.Time // of the next try
	Tries int
}

// ErrStopped is returned to callers that wait when the reconciler stops.
var ErrStopped = errors.New("the reconciler has stopped")

// Reconciler runs passes. Make one with [New] and give it a goroutine with Run.
type Reconciler struct {
	cfg  Config
	wake chan struct{}

	mu      sync.Mutex // guards what follows
	queued  map[plan.Owner][]chan<- error
	taken   map[plan.Owner][]chan<- error // those of the pass that runs, or is to run at once
	full    bool
	drifted bool
	stopped bool
	failing map[plan.Owner]*Failure
	passes  uint64
	drifts  uint64

	// pass guards the kernel and the memory of it: one pass, or one Diff, at a time.
	pass    sync.Mutex
	applied map[plan.Owner]plan.State
	known   bool // applied can be trusted for every owner that is not in dirty
	dirty   map[plan.Owner]bool
}

// New makes a Reconciler whose first pass observes everything.
func New(cfg Config) *Reconciler {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&cfg.Resync, time.Minute)
	def(&cfg.Settle, 50*time.Millisecond)
	def(&cfg.Retry, 500*time.Millisecond)
	def(&cfg.RetryMax, 30*time.Second)
	if cfg.Observer == nil {
		cfg.Observer = func(Pass) {}
	}
	return &Reconciler{
		cfg:     cfg,
		wake:    make(chan struct{}, 1),
		queued:  map[plan.Owner][]chan<- error{},
		full:    true,
		failing: map[plan.Owner]*Failure{},
		applied: map[plan.Owner]plan.State{},
		dirty:   map[plan.Owner]bool{},
	}
}

// Converge asks for a pass over owners and waits for it. The error is the first that
// one of these owners met; other owners of the same pass do not matter.
func (r *Reconciler) Converge(ctx context.Context, owners ...plan.Owner) error {
	done := make(chan error, len(owners))
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return ErrStopped
	}
	for _, s := range owners {
		r.queued[s] = append(r.queued[s], done)
		r.queueWith(s)
	}
	r.mu.Unlock()
	r.signal()
	var first error
	for range owners {
		select {
		case err := <-done:
			if first == nil {
				first = err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return first
}

// Wake asks for a pass over owners without waiting for it.
func (r *Reconciler) Wake(owners ...plan.Owner) {
	r.mu.Lock()
	for _, s := range owners {
		if _, ok := r.queued[s]; !ok {
			r.queued[s] = nil
		}
		r.queueWith(s)
	}
	r.mu.Unlock()
	r.signal()
}

// queueWith queues the owner that goes with another one.
func (r *Reconciler) queueWith(s plan.Owner) {
	if r.cfg.With == nil {
		return
	}
	if with, ok := r.cfg.With(s); ok && r.queued[with] == nil {
		r.queued[with] = nil
	}
}

// Resync asks for a full pass because the kernel may have been changed by someone else.
func (r *Reconciler) Resync() {
	r.mu.Lock()
	r.full, r.drifted = true, true
	r.mu.Unlock()
	r.signal()
}

func (r *Reconciler) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Run runs passes until the context ends. Drift wakes a full pass; it may be nil.
func (r *Reconciler) Run(ctx context.Context, drift <-chan struct{}) error {
	defer r.stop()
	resync := time.NewTimer(r.cfg.Resync)
	defer resync.Stop()
	retry := time.NewTimer(time.Hour)
	defer retry.Stop()
	var calm <-chan time.Time
	for {
		r.step(ctx)
		r.armRetry(retry)
		select {
		case <-ctx.Done():
			return nil
		case <-r.wake:
		case _, ok := <-drift:
			if !ok {
				drift = nil
			} else if calm == nil {
				calm = time.After(r.cfg.Settle)
			}
		case <-calm:
			calm = nil
			r.Resync()
		case <-resync.C:
			resync.Reset(r.cfg.Resync)
			r.Resync()
		case <-retry.C:
			r.requeueFailed(time.Now())
		}
	}
}

// stop answers everyone who still waits.
func (r *Reconciler) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	for s, waiters := range r.queued {
		for _, w := range waiters {
			w <- ErrStopped
		}
		delete(r.queued, s)
	}
}

func (r *Reconciler) armRetry(t *time.Timer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := time.Now().Add(time.Hour)
	for _, f := range r.failing {
		if f.Next.Before(next) {
			next = f.Next
		}
	}
	t.Reset(time.Until(next))
}

func (r *Reconciler) requeueFailed(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for s, f := range r.failing {
		if f.Next.After(now) {
			continue
		}
		if _, ok := r.queued[s]; !ok {
			r.queued[s] = nil
		}
	}
}

// step takes what is queued and runs one pass over it, until nothing is queued.
func (r *Reconciler) step(ctx context.Context) {
	for ctx.Err() == nil {
		r.mu.Lock()
		batch, full, drifted := r.queued, r.full, r.drifted
		r.queued, r.full, r.drifted = map[plan.Owner][]chan<- error{}, false, false
		r.taken = batch
		r.mu.Unlock()
		if len(batch) == 0 && !full {
			return
		}
		if !full {
			r.postpone(batch)
		}
		owners := make([]plan.Owner, 0, len(batch))
		for s := range batch {
			owners = append(owners, s)
		}
		slices.Sort(owners)
		started := time.Now()
		p := Pass{Owners: owners}
		r.pass.Lock()
		if full || !r.canTrust(owners) {
			p.Full = true
			p.Owners, p.Ops, p.Failed = r.fullPass(ctx, owners)
		} else {
			p.Ops, p.Failed = r.ownerPass(ctx, owners)
		}
		r.pass.Unlock()
		p.Drift = drifted && len(p.Ops) > 0
		p.Duration = time.Since(started)
		p.Waited, p.Err = r.settle(batch, p)
		if p.Err != nil && ctx.Err() == nil {
			r.cfg.Log.WarnContext(ctx, "an owner has not converged", "err", p.Err, "owners", len(p.Failed))
		}
		r.cfg.Observer(p)
	}
}

// postpone leaves owners that go with another one to the next pass, where they have nothing yet and somebody waits for
// the other one. What an owner has goes with its links, or before them, so that is for the same pass.
func (r *Reconciler) postpone(batch map[plan.Owner][]chan<- error) {
	if r.cfg.With == nil {
		return
	}
	var later []plan.Owner
	for s, waiters := range batch {
		with, ok := r.cfg.With(s)
		if !ok || len(waiters) == 0 || r.dirty[with] {
			continue
		}
		if own, queued := batch[with]; queued && len(own) == 0 && r.applied[with].Empty() {
			later = append(later, with)
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range later {
		delete(batch, s) // which is r.taken
		if r.queued[s] == nil {
			r.queued[s] = nil
		}
	}
}

// settle answers the callers of a batch and keeps the account of failing owners.
func (r *Reconciler) settle(batch map[plan.Owner][]chan<- error, p Pass) (waited bool, first error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = nil
	r.passes++
	if p.Drift {
		r.drifts++
	}
	now := time.Now()
	for _, s := range p.Owners {
		err := p.Failed[s]
		if err == nil {
			delete(r.failing, s)
		} else {
			if first == nil {
				first = err
			}
			f := r.failing[s]
			if f == nil {
				f = &Failure{Owner: s, Since: now}
				r.failing[s] = f
			}
			f.Err = err
			f.Next = now.Add(r.backoff(f.Tries))
			f.Tries++
		}
	}
	for s, waiters := range batch {
		for _, w := range waiters {
			w <- p.Failed[s]
			waited = true
		}
	}
	return waited, first
}

func (r *Reconciler) backoff(tries int) time.Duration {
	d := r.cfg.Retry
	for range min(tries, 16) {
		d = min(2*d, r.cfg.RetryMax)
	}
	return d
}

// Failures lists what keeps owners from converging, in order of owner.
func (r *Reconciler) Failures() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Failure, 0, len(r.failing))
	for _, f := range r.failing {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Failure) int { return compare(a.Owner, b.Owner) })
	return out
}

// Counts returns how many passes have run, and how many of them repaired
// what someone else had changed.
func (r *Reconciler) Counts() (passes, drifts uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passes, r.drifts
}

func compare(a, b plan.Owner) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
