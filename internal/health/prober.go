package health

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// Options tune a [Prober]; the zero value is ready to use.
type Options struct {
	Period  time.Duration // how often each target is probed; 0: 30 s
	Rate    int           // targets probed a second at most, whatever their number; 0: 50
	Timeout time.Duration // for the answer to one packet; 0: 1 s
	// Changed is called when small or large packets begin or cease to arrive at a target, or when it
	// was probed for the first time. It must not block.
	Changed func(Result)
}

// maxRounds bounds the targets that are being probed at once: a dead one takes seconds.
const maxRounds = 256

// Prober probes targets. It is made by [New], works as long as [Prober.Run] runs, and must be
// closed.
type Prober struct {
	o    Options
	echo *echo
	set  chan struct{} // wakes Run: there are new targets

	mu     sync.Mutex // guards what follows
	states map[key]*state
	order  []*state            // of the last Set
	nodes  map[string][]*state // of each node, in the same order
	fresh  []*state            // not probed yet
	next   int                 // in order
}

// state is a target with what is known of it.
type state struct {
	target Target
	result Result
	seen   window
	busy   bool // a round is under way
}

// New opens the sockets, in the calling thread's network namespace. It needs root or CAP_NET_RAW.
func New(o Options) (*Prober, error) {
	if o.Period == 0 {
		o.Period = 30 * time.Second
	}
	if o.Rate == 0 {
		o.Rate = 50
	}
	if o.Timeout == 0 {
		o.Timeout = time.Second
	}
	e, err := newEcho()
	if err != nil {
		return nil, err
	}
	return &Prober{o: o, echo: e, set: make(chan struct{}, 1), states: map[key]*state{}}, nil
}

// Close closes the sockets. Neither Run nor Probe may be under way.
func (p *Prober) Close() error { return p.echo.close() }

// Set replaces the targets. Those that were there keep what is known of them; new ones are probed first.
func (p *Prober) Set(targets []Target) {
	p.mu.Lock()
	defer p.mu.Unlock()
	states := make(map[key]*state, len(targets))
	p.order, p.fresh, p.nodes = make([]*state, 0, len(targets)), nil, map[string][]*state{}
	for _, t := range targets {
		t.Addr, t.Source = t.Addr.Unmap(), t.Source.Unmap()
		if states[t.key()] != nil || !t.Addr.IsValid() {
			continue
		}
		s := p.states[t.key()]
		if s == nil {
			s = &state{result: Result{Target: t}}
		}
		s.target, s.result.Target = t, t
		states[t.key()] = s
		p.order = append(p.order, s)
		p.nodes[t.Node] = append(p.nodes[t.Node], s)
		if s.result.Checked.IsZero() && !s.busy {
			p.fresh = append(p.fresh, s)
		}
	}
	p.states = states
	if p.next >= len(p.order) {
		p.next = 0
	}
	select {
	case p.set <- struct{}{}:
	default:
	}
}

// Results are what is known of every target, in the order they were set in.
func (p *Prober) Results() []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]Result, 0, len(p.order))
	for _, s := range p.order {
		out = append(out, s.result)
	}
	return out
}

// Of are the results of one node's paths.
func (p *Prober) Of(node string) []Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []Result
	for _, s := range p.nodes[node] {
		out = append(out, s.result)
	}
	return out
}

// Run probes until the context ends, and returns when nothing is under way any more.
func (p *Prober) Run(ctx context.Context) {
	var rounds sync.WaitGroup
	defer rounds.Wait()
	room := make(chan struct{}, maxRounds)
	for {
		timer := time.NewTimer(p.pause())
		if s := p.take(); s != nil {
			select {
			case room <- struct{}{}:
			case <-ctx.Done():
				timer.Stop()
				return
			}
			rounds.Go(func() {
				defer func() { <-room }()
				p.round(ctx, s)
			})
		}
		if !p.rest(ctx, timer) {
			return
		}
	}
}

// rest waits for the next turn; when there is nothing to do until new targets are set, for those.
func (p *Prober) rest(ctx context.Context, timer *time.Timer) bool {
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-p.set:
	case <-ctx.Done():
		return false
	}
	// New targets are probed soon, but no faster than the rate.
	soon := time.NewTimer(p.gap())
	defer soon.Stop()
	select {
	case <-soon.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *Prober) gap() time.Duration { return time.Second / time.Duration(p.o.Rate) }

// pause is how long it is until the next target's turn: the period divided among all, with a jitter of
// a half to either side, so that nodes that started together do not stay in step.
func (p *Prober) pause() time.Duration {
	p.mu.Lock()
	n, fresh := len(p.order), len(p.fresh)
	p.mu.Unlock()
	d := p.gap()
	if fresh <= 1 {
		d = max(d, p.o.Period/time.Duration(max(n, 1)))
	}
	return d/2 + rand.N(d)
}

// take returns whose turn it is.
func (p *Prober) take() *state {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.fresh) > 0 {
		s := p.fresh[0]
		p.fresh = p.fresh[1:]
		s.busy = true
		return s
	}
	if len(p.order) == 0 {
		return nil
	}
	s := p.order[p.next]
	p.next = (p.next + 1) % len(p.order)
	if s.busy {
		return nil
	}
	s.busy = true
	return s
}

// round examines a target and keeps what it found.
func (p *Prober) round(ctx context.Context, s *state) {
	p.mu.Lock()
	r := round{echo: p.echo, target: s.target, timeout: p.o.Timeout, seen: s.seen, was: s.result.PathMTU}
	p.mu.Unlock()
	ok := r.run(ctx)
	p.mu.Lock()
	was := s.result
	s.busy = false
	if ok && s.target.key() == r.target.key() {
		s.result, s.seen = r.out, r.seen
		s.result.Target = s.target
	}
	p.mu.Unlock()
	if ok && p.o.Changed != nil && (was.Checked.IsZero() || was.Small != r.out.Small || was.Large != r.out.Large) {
		p.o.Changed(r.out)
	}
}

// Probe examines a target now, and returns when that is done: at once when all is well, after
// about four timeouts when nothing answers. The target need not be among those set. The
// error is the context's, or says that the target has no address.
func (p *Prober) Probe(ctx context.Context, t Target) (Result, error) {
	t.Addr, t.Source = t.Addr.Unmap(), t.Source.Unmap()
	if !t.Addr.IsValid() {
		return Result{}, fmt.Errorf("probe %s by %s: it has no address", t.Name, t.Path)
	}
	r := round{echo: p.echo, target: t, timeout: p.o.Timeout}
	p.mu.Lock()
	if s := p.states[t.key()]; s != nil {
		r.seen, r.was = s.seen, s.result.PathMTU
	}
	p.mu.Unlock()
	if !r.run(ctx) {
		return r.out, fmt.Errorf("probe %s at %s by %s: %w", t.Name, t.Addr, t.Path, ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.states[t.key()]; s != nil {
		s.result, s.seen = r.out, r.seen
	}
	return r.out, nil
}

// Refresh examines all paths to one node at once, and returns what it found in the order they were set in.
// The error is the context's.
func (p *Prober) Refresh(ctx context.Context, node string) ([]Result, error) {
	before := p.Of(node)
	errs := make([]error, len(before))
	var probes sync.WaitGroup
	for i, r := range before {
		probes.Go(func() { _, errs[i] = p.Probe(ctx, r.Target) })
	}
	probes.Wait()
	return p.Of(node), errors.Join(errs...)
}
