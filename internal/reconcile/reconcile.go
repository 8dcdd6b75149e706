package reconcile

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/plan"
)

// Kernel is what passes read and change. Apply stops at the first operation that fails.
type Kernel interface {
	Observe(ctx context.Context, sysctls []plan.Sysctl) (plan.State, error)
	Apply(ctx context.Context, ops []plan.Op) error
}

// Source knows the records. Its methods are called by one goroutine at a time.
type Source interface {
	// All renders every scope that has a record. An error in one scope's
	// [Want] leaves what that scope has as it is.
	All(ctx context.Context) (map[plan.Scope]Want, error)
	// Render is what one scope wants: nothing when it has no record or is on its
	// way out.
	Render(ctx context.Context, s plan.Scope) (plan.State, error)
}

// Want is what a scope wants, or why that cannot be told.
type Want struct {
	State plan.State
	Err   error
}

// Pass reports one pass to [Config.Observer].
type Pass struct {
	Full     bool // everything was observed
	Drift    bool // the kernel differed although no record had changed
	Waited   bool // somebody waited for it
	Scopes   []plan.Scope
	Ops      []plan.Op
	Failed   map[plan.Scope]error // the scopes that have not converged
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
	// Retry and RetryMax bound the exponential back-off of a failing scope; 500 ms and 30 s.
	Retry, RetryMax time.Duration
	// Observer is told of every pass, on the reconciler's goroutine.
	Observer func(Pass)
}

// Failure is what keeps a scope from converging.
type Failure struct {
	Scope plan.Scope
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
	queued  map[plan.Scope][]chan<- error
	full    bool
	drifted bool
	stopped bool
	failing map[plan.Scope]*Failure
	passes  uint64
	drifts  uint64

	// pass guards the kernel and the memory of it: one pass, or one Diff, at a time.
	pass    sync.Mutex
	applied map[plan.Scope]plan.State
	known   bool // applied can be trusted for every scope that is not in dirty
	dirty   map[plan.Scope]bool
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
		queued:  map[plan.Scope][]chan<- error{},
		full:    true,
		failing: map[plan.Scope]*Failure{},
		applied: map[plan.Scope]plan.State{},
		dirty:   map[plan.Scope]bool{},
	}
}

// Converge asks for a pass over scopes and waits for it. The error is the first that
// one of these scopes met; other scopes of the same pass do not matter.
func (r *Reconciler) Converge(ctx context.Context, scopes ...plan.Scope) error {
	done := make(chan error, len(scopes))
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return ErrStopped
	}
	for _, s := range scopes {
		r.queued[s] = append(r.queued[s], done)
	}
	r.mu.Unlock()
	r.signal()
	var first error
	for range scopes {
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

// Wake asks for a pass over scopes without waiting for it.
func (r *Reconciler) Wake(scopes ...plan.Scope) {
	r.mu.Lock()
	for _, s := range scopes {
		if _, ok := r.queued[s]; !ok {
			r.queued[s] = nil
		}
	}
	r.mu.Unlock()
	r.signal()
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
		r.queued, r.full, r.drifted = map[plan.Scope][]chan<- error{}, false, false
		r.mu.Unlock()
		if len(batch) == 0 && !full {
			return
		}
		scopes := make([]plan.Scope, 0, len(batch))
		for s := range batch {
			scopes = append(scopes, s)
		}
		slices.Sort(scopes)
		started := time.Now()
		p := Pass{Scopes: scopes}
		r.pass.Lock()
		if full || !r.canTrust(scopes) {
			p.Full = true
			p.Scopes, p.Ops, p.Failed = r.fullPass(ctx, scopes)
		} else {
			p.Ops, p.Failed = r.scopePass(ctx, scopes)
		}
		r.pass.Unlock()
		p.Drift = drifted && len(p.Ops) > 0
		p.Duration = time.Since(started)
		p.Waited, p.Err = r.settle(batch, p)
		if p.Err != nil && ctx.Err() == nil {
			r.cfg.Log.WarnContext(ctx, "a scope has not converged", "err", p.Err, "scopes", len(p.Failed))
		}
		r.cfg.Observer(p)
	}
}

// settle answers the callers of a batch and keeps the account of failing scopes.
func (r *Reconciler) settle(batch map[plan.Scope][]chan<- error, p Pass) (waited bool, first error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.passes++
	if p.Drift {
		r.drifts++
	}
	now := time.Now()
	for _, s := range p.Scopes {
		err := p.Failed[s]
		if err == nil {
			delete(r.failing, s)
		} else {
			if first == nil {
				first = err
			}
			f := r.failing[s]
			if f == nil {
				f = &Failure{Scope: s, Since: now}
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

// Failures lists what keeps scopes from converging, in order of scope.
func (r *Reconciler) Failures() []Failure {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Failure, 0, len(r.failing))
	for _, f := range r.failing {
		out = append(out, *f)
	}
	slices.SortFunc(out, func(a, b Failure) int { return compare(a.Scope, b.Scope) })
	return out
}

// Counts returns how many passes have run, and how many of them repaired
// what someone else had changed.
func (r *Reconciler) Counts() (passes, drifts uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.passes, r.drifts
}

func compare(a, b plan.Scope) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
