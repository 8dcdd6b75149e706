package health

import (
	"context"
	"net/netip"
	"time"
)

// minWait is the least that a packet is waited for once the round-trip time is known.
const minWait = 250 * time.Millisecond

// round is one examination of a target.
type round struct {
	echo    *echo
	target  Target
	timeout time.Duration
	seen    window // of the rounds before, and this one
	was     int    // the path MTU that the round before found
	out     Result
}

// run examines the target. It ends early, and says false, with the context.
func (r *round) run(ctx context.Context) bool {
	r.out = Result{Target: r.target}
	r.small(ctx)
	if r.out.Small {
		r.large(ctx)
	}
	if !r.out.Small && r.target.Outer.IsValid() && ctx.Err() == nil {
		r.askPort(ctx)
	}
	r.out.Checked, r.out.Loss = time.Now(), r.seen.loss()
	return ctx.Err() == nil
}

// smallSize is that of a small packet, with headers.
func (t Target) smallSize() int { return overhead(t.Addr.Unmap()) + smallData }

// small sends up to three packets, a timeout apart. The last is waited for a little longer: the
// kernel takes three seconds to find that a neighbour does not answer.
func (r *round) small(ctx context.Context) {
	t := r.echo.begin()
	defer t.end()
	for i := range 3 {
		t.ping(r.target, r.target.smallSize())
		wait := r.timeout
		if i == 2 {
			wait += r.timeout / 3
		}
		a, ok := t.wait(ctx, wait)
		r.out.Refused.merge(a.refused)
		if ctx.Err() != nil {
			return
		}
		r.seen.add(ok)
		if ok {
			r.out.Small, r.out.RTT = true, a.rtt
			if a.from != r.target.Addr.Unmap() {
				r.out.From = a.from
			}
			r.out.PathMTU = r.target.smallSize()
			return
		}
		if a.final() {
			return
		}
	}
}

// final reports whether trying again is of no use.
func (a answer) final() bool {
	x := a.refused
	return x.Neighbour || x.NoRoute || x.Denied || x.Prohibited || x.Host || x.Port
}

// wait waits for an answer, or the end of the time.
func (t *tries) wait(ctx context.Context, d time.Duration) (answer, bool) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case a := <-t.answers:
		return a, a.rtt > 0
	case <-timer.C:
	case <-ctx.Done():
	}
	return answer{}, false
}

// large sends packets as large as the path should carry, and looks for what it does
// carry when they are lost.
func (r *round) large(ctx context.Context) {
	mtu := r.target.MTU
	if mtu <= r.target.smallSize() {
		r.out.Large = true
		return
	}
	if r.passes(ctx, mtu, 3) {
		r.out.Large, r.out.PathMTU = true, mtu
		return
	}
	r.out.PathMTU = r.search(ctx, r.target.smallSize(), mtu)
}

// passes reports whether one of several packets of a size is answered.
func (r *round) passes(ctx context.Context, size, tries int) bool {
	t := r.echo.begin()
	defer t.end()
	for range tries {
		t.ping(r.target, size)
		a, ok := t.wait(ctx, min(max(minWait, 8*r.out.RTT), r.timeout))
		if ok {
			return true
		}
		r.out.Refused.merge(a.refused)
		if a.refused.TooBig > 0 || a.refused.Link || ctx.Err() != nil {
			return false
		}
	}
	return false
}

// search halves what lies between a size that passes and one that does not. It begins with what a
// router has said and what was true the last time, so that it is short when nothing changed.
func (r *round) search(ctx context.Context, passes, fails int) int {
	for _, guess := range []int{r.out.Refused.TooBig, r.was} {
		if guess <= passes || guess >= fails {
			continue
		}
		if !r.passes(ctx, guess, 2) {
			fails = guess
			continue
		}
		passes = guess
		if guess+1 < fails {
			if r.passes(ctx, guess+1, 2) {
				passes = guess + 1
			} else {
				fails = guess + 1
			}
		}
	}
	for fails-passes > 1 && ctx.Err() == nil {
		if middle := passes + (fails-passes)/2; r.passes(ctx, middle, 2) {
			passes = middle
		} else {
			fails = middle
		}
	}
	return passes
}

// askPort asks whether anything listens on the tunnel's port. It asks again, because hosts send such
// errors once a second (icmp_ratelimit), and the tunnel's own packets may have had it.
func (r *round) askPort(ctx context.Context) {
	t := r.echo.begin()
	defer t.end()
	for range 3 {
		t.sendEmpty(netip.AddrPortFrom(r.target.Outer.Addr().Unmap(), r.target.Outer.Port()))
		a, _ := t.wait(ctx, r.timeout)
		r.out.Refused.merge(a.refused)
		if a.final() || ctx.Err() != nil {
			return
		}
	}
}
