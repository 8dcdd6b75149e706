package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// ending is the end of one run of a container.
type ending struct {
	done   chan struct{}
	status ExitStatus // once done is closed
	err    error      // likewise: why there is none
}

func (e *records) endOf(c *container) *ending {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.end
}

// overOf is closed once a container has ended and is not started again by its restart policy.
func (e *records) overOf(c *container) <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.over
}

// renew prepares for the end of a run. The caller holds the engine's mutex, as for the others here.
func (c *container) renew() {
	if c.isEnded() {
		c.end, c.next = c.nextEnd(), nil
	}
	if c.isOver() {
		c.over = make(chan struct{})
	}
}

// nextEnd is the end of the run after one that has ended.
func (c *container) nextEnd() *ending {
	if c.next == nil {
		c.next = &ending{done: make(chan struct{})}
	}
	return c.next
}

func (c *container) isEnded() bool { return isClosed(c.end.done) }

func (c *container) isOver() bool { return isClosed(c.over) }

func isClosed(c <-chan struct{}) bool {
	select {
	default:
		return false
	case <-c:
	}
	return true
}

// announceEnd tells those who wait for the container.
func (e *records) announceEnd(c *container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !c.isEnded() {
		c.end.status = exitStatus(c.rec)
		close(c.end.done)
	}
	switch {
	case c.rec.Status == Restarting && e.containers[c.id] == c:
		c.renew()
	case !c.isOver():
		close(c.over)
	}
}

// The waits of restart policies.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	longRun    = 10 * time.Second // what runs as long begins with the first delay again
)

func (p RestartPolicy) none() bool { return p.Name == "" || p.Name == RestartNo }

// check refuses a policy that there is not. Remove is that of the container.
func (p RestartPolicy) check(remove bool) error {
	switch p.Name {
	case "", RestartNo, RestartAlways, RestartUnlessStopped, RestartOnFailure:
	default:
		return invalid("restart", p.Name, "unknown policy", "use no, always, unless-stopped or on-failure[:N]")
	}
	switch {
	case p.MaxRetries < 0:
		return invalid("restart", fmt.Sprint(p.MaxRetries), "maximum retry count cannot be negative",
			"give a number of restarts, or 0 for no limit")
	case p.MaxRetries > 0 && p.Name != RestartOnFailure:
		return invalid("restart", fmt.Sprint(p.MaxRetries),
			"maximum retry count can only be used with 'on-failure'", "leave it out, or use on-failure")
	case remove && !p.none():
		return invalid("restart", p.Name, "can't create 'AutoRemove' container with restart policy",
			"leave out one of the two: --rm or --restart")
	}
	return nil
}

// wanted tells whether the policy of a container that has ended starts it again. A boot is no failure.
func wanted(r record, booted bool) bool {
	if r.Stopped || r.Phase == cnm.Deleting {
		return false
	}
	switch p := r.Spec.Restart; p.Name {
	case RestartAlways, RestartUnlessStopped:
		return true
	case RestartOnFailure:
		return r.ExitCode != 0 && !booted && (p.MaxRetries == 0 || r.RestartCount < p.MaxRetries)
	}
	return false
}

// Resume begins what goes on by itself: restarts by policy. It is called once, when all that containers need is there.
// A container with the policy always that somebody has stopped starts too.
func (e *Engine) Resume() {
	for _, c := range e.all() {
		unlock, err := e.lock(e.life, c)
		if err != nil {
			e.log.Error("start a container that always runs", "container", c.id, "error", err)
			continue
		}
		e.change(c, func(r *record) {
			if r.Status == Exited && r.Phase != cnm.Deleting && r.Spec.Restart.Name == RestartAlways {
				r.Status, r.Stopped = Restarting, false
			}
		})
		if e.snapshot(c).Status == Restarting {
			e.mu.Lock()
			c.renew()
			e.mu.Unlock()
			e.startLater(c)
		}
		unlock()
	}
	e.resume.Do(func() { close(e.resumed) })
}

// startLater starts a container by its restart policy after a while. Nothing happens where one waits already.
func (e *settler) startLater(c *container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.retry != nil || e.life.Err() != nil {
		return
	}
	if !c.running.IsZero() && time.Since(c.running) >= longRun {
		c.delay = 0
	}
	c.running = time.Time{}
	c.delay = min(max(2*c.delay, firstDelay), lastDelay)
	c.renew()
	ctx, cancel := context.WithCancel(e.life)
	c.retry = cancel
	timer := time.NewTimer(c.delay)
	e.tasks.Go(func() {
		defer timer.Stop()
		select {
		case <-e.resumed:
		case <-ctx.Done():
			return
		}
		select {
		case <-timer.C:
		case <-ctx.Done():
			return
		}
		err := e.again(ctx, c)
		if err != nil && e.life.Err() == nil && ctx.Err() == nil && !errors.Is(err, cnm.ErrNotFound) {
			e.log.Warn("a restart by policy", "container", c.id, "error", err)
		}
	})
}

// giveUpRestart ends the wait for a restart.
func (e *records) giveUpRestart(c *container) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.retry != nil {
		c.retry()
		c.retry = nil
	}
}

// lockPatiently is lock for who comes by itself and has nobody to tell that others take long.
func (e *starter) lockPatiently(ctx context.Context, c *container) (unlock func(), err error) {
	for {
		if unlock, err = e.lock(ctx, c); err == nil || !errors.Is(err, cnm.ErrInUse) {
			return unlock, err
		}
		e.log.Warn("a restart by policy waits", "container", c.id, "error", err)
	}
}

// restart starts a container by its restart policy, unless somebody was faster. A start that fails is as a run that
// does.
func (e *starter) restart(waited context.Context, c *container) error {
	unlock, err := e.lockPatiently(waited, c)
	if err != nil {
		return err
	}
	defer unlock()
	if waited.Err() != nil { // who gave it up may have begun another wait
		return nil
	}
	err = e.settle(e.life, c)
	e.giveUpRestart(c) // it is over
	rec := e.snapshot(c)
	switch {
	case errors.Is(err, cnm.ErrNotFound), rec.Status != Restarting:
		return err
	case rec.Stopped: // who has ended it could not wait for us
		return errors.Join(err, e.stay(context.WithoutCancel(e.life), c))
	case err != nil:
		e.startLater(c)
		return err
	}
	rec = e.change(c, func(r *record) { r.RestartCount++ })
	if err = e.launch(context.WithoutCancel(e.life), c, rec, nil); err == nil {
		return nil
	}
	if wanted(e.snapshot(c), false) {
		e.startLater(c)
		return err
	}
	return errors.Join(err, e.stay(context.WithoutCancel(e.life), c))
}

// stay has a container that waited for its restart stay as it is. The caller holds its lock.
func (e *settler) stay(ctx context.Context, c *container) error {
	e.giveUpRestart(c)
	e.change(c, func(r *record) {
		if r.Status == Restarting {
			r.Status = Exited
		}
	})
	e.announceEnd(c)
	return e.save(ctx, c)
}

// halt notes that somebody ends a container, so that its restart policy keeps still. One that waits for its restart
// has ended then.
func (e *settler) halt(ctx context.Context, c *container) (record, error) {
	rec := e.snapshot(c)
	if rec.Status != Restarting && !isLive(rec.Status) {
		return rec, nil
	}
	rec = e.change(c, func(r *record) { r.Stopped = true })
	if rec.Status == Restarting {
		unlock, err := e.lock(ctx, c)
		if err != nil {
			return rec, err
		}
		defer unlock()
		if rec = e.snapshot(c); rec.Status == Restarting {
			err := e.stay(ctx, c)
			return e.snapshot(c), err
		}
	}
	if rec.Spec.Restart.none() {
		return rec, nil
	}
	return rec, e.save(ctx, c)
}

// ends tells whether who sends a signal wants the container to end.
func (e *stopper) ends(ctx context.Context, rec record, n int) bool {
	switch syscall.Signal(n) {
	case syscall.SIGKILL, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT:
		return true
	}
	own, err := e.stopSignal(ctx, rec)
	return err == nil && own == n
}

// Restart ends a container, if it runs, and starts it. One that is to be removed at its end stays.
func (e *Engine) Restart(ctx context.Context, ref string, o StopOptions) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	keep := func(more int) {
		e.mu.Lock()
		defer e.mu.Unlock()
		c.keep += more
	}
	keep(1)
	err = e.Stop(ctx, c.id, o)
	if err == nil {
		err = e.Start(ctx, c.id)
	}
	keep(-1)
	if err == nil {
		e.emit(c, "restart", nil)
		return nil
	}
	if e.snapshot(c).Spec.Remove { // it may have ended, and nobody starts it
		if goErr := e.Settle(context.WithoutCancel(ctx), c.id); !errors.Is(goErr, cnm.ErrNotFound) {
			err = errors.Join(err, goErr)
		}
	}
	return err
}

// isKept tells that somebody restarts a container by hand, so that it stays.
func (e *records) isKept(c *container) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return c.keep > 0
}
