package registry

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	longestPause      = 10 * time.Second
	longestRetryAfter = 60 * time.Second
	mirrorAttempts    = 2 // where others are left to ask
)

// patience counts the failures in a row of one endpoint.
type patience struct {
	client   *Client
	session  *session
	attempts int
	failures int
	retrying func(err error, wait time.Duration) // told before each pause; may be nil
}

// progressed starts the count anew.
func (p *patience) progressed() { p.failures = 0 }

// wait waits before another attempt, or returns the error where another one is of no use.
func (p *patience) wait(ctx context.Context, err error) error {
	var e *Error
	p.failures++
	if !errors.As(err, &e) || !e.passing() || p.failures >= p.attempts {
		return err
	}
	if (e.Kind == KindUnreachable) && !p.session.base.own.any() {
		return err // nobody is there; who waits would rather know
	}
	pause := min(p.client.pause<<min(p.failures-1, 16), longestPause)
	pause = pause/2 + rand.N(pause/2+1)
	if e.RetryAfter > longestRetryAfter {
		return err
	}
	pause = max(pause, e.RetryAfter)
	if p.retrying != nil {
		p.retrying(err, pause)
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting to try again: %w", context.Cause(ctx))
	}
}

// retry tries until it works or waiting is of no use.
func (p *patience) retry(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil {
			return nil
		}
		if err := p.wait(ctx, err); err != nil {
			return err
		}
	}
}

// together makes one error of those of all endpoints: the last one's, with the others'.
func together(all []error) error {
	if len(all) == 0 {
		return nil
	}
	last := all[len(all)-1]
	var e *Error
	if !errors.As(last, &e) || len(all) == 1 {
		return last
	}
	joined := *e
	for _, other := range all[:len(all)-1] {
		var m *Error
		if errors.As(other, &m) {
			joined.Mirrors = append(joined.Mirrors, m)
		}
	}
	return &joined
}
