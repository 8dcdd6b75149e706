package engine

import (
	"context"

	"github.com/vethloom/vethloom/engine/shim"
)

// nextStart is one who waits for a container's start by somebody else, to be connected before its process runs.
type nextStart struct {
	stdin bool
	size  shim.Size
	begun chan begun // of one
	gone  bool       // guarded by the engine's mutex: nobody reads from begun
}

// begun is a start that was waited for, or why there is none.
type begun struct {
	stream *shim.Stream
	err    error
}

// AttachNext connects the caller with a container's first process as Attach does. One that does not run yet is waited
// for: whoever starts it, none of its output is lost from when ready is called on. What ends
// the wait for a start is the context, a start that fails, and the container's removal.
func (e *streams) AttachNext(ctx context.Context, ref string, ready func() error, stdio Stdio) (ExitStatus, error) {
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return ExitStatus{}, err
	}
	n := &nextStart{size: shim.Size(stdio.Size), begun: make(chan begun, 1)}
	if err := e.expect(ctx, c, n, stdio.Stdin != nil); err != nil {
		return ExitStatus{}, err
	}
	defer e.giveUpNext(c, n)
	e.emit(c, "attach", nil)
	if err := ready(); err != nil {
		return ExitStatus{}, err
	}
	var b begun
	select {
	case b = <-n.begun:
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	case <-e.life.Done():
		return ExitStatus{}, errStopping
	}
	if b.err != nil {
		return ExitStatus{}, b.err
	}
	return e.follow(ctx, c, b.stream, stdio)
}

// expect enters one who waits, or gives him what runs. With the container's lock there is no start under way.
func (e *streams) expect(ctx context.Context, c *container, n *nextStart, stdin bool) error {
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	rec := e.snapshot(c)
	n.stdin = stdin && rec.Spec.OpenStdin
	if !isLive(rec.Status) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.containers[c.id] != c {
			return notFound(c.id)
		}
		c.joining = append(c.joining, n)
		return nil
	}
	stream, err := c.client().Attach(ctx, n.stdin, n.size)
	if err != nil {
		return commandError(rec.Spec.Name, err)
	}
	n.begun <- begun{stream: stream}
	return nil
}

// giveUpNext ends a wait; a stream that nobody has taken is closed.
func (e *streams) giveUpNext(c *container, n *nextStart) {
	e.mu.Lock()
	defer e.mu.Unlock()
	n.gone = true
	for i, o := range c.joining {
		if o == n {
			c.joining = append(c.joining[:i:i], c.joining[i+1:]...)
			break
		}
	}
	select {
	case b := <-n.begun:
		b.close()
	default:
	}
}

func (b begun) close() {
	if b.stream != nil {
		b.stream.Close()
	}
}

// tell gives one who waits what has become of it; the caller holds the engine's mutex.
func (n *nextStart) tell(b begun) {
	if n.gone {
		b.close()
		return
	}
	n.begun <- b
}

// joined is one who has waited for a start that is under way.
type joined struct {
	*nextStart
	stream *shim.Stream
	err    error
}

// join connects those who wait with the container, before it runs. One who cannot be does not stop the start.
func (l *launch) join(ctx context.Context) {
	l.e.mu.Lock()
	waiting := l.c.joining
	l.c.joining = nil
	l.e.mu.Unlock()
	for _, n := range waiting {
		j := joined{nextStart: n}
		j.stream, j.err = l.c.client().Attach(ctx, n.stdin, n.size)
		l.waiters = append(l.waiters, j)
	}
}

// tell lets those who were connected know how the start ended.
func (l *launch) tell(failed error) {
	l.e.mu.Lock()
	defer l.e.mu.Unlock()
	for _, j := range l.waiters {
		b := begun{stream: j.stream, err: j.err}
		if failed != nil {
			b.close()
			b = begun{err: failed}
		}
		j.nextStart.tell(b)
	}
	l.waiters = nil
}

// forgetNext ends the waits for a container that is no more; the caller holds the engine's mutex.
func (c *container) forgetNext() {
	for _, n := range c.joining {
		n.tell(begun{err: notFound(c.id)})
	}
	c.joining = nil
}

// Resize sets the size of a container's terminal.
func (e *streams) Resize(ctx context.Context, ref string, size WindowSize) error {
	c, rec, err := e.settled(ctx, ref)
	if err != nil {
		return err
	}
	if !isLive(rec.Status) {
		return notRunning(rec.Spec.Name)
	}
	return commandError(rec.Spec.Name, c.client().Resize(ctx, "", shim.Size(size)))
}
