package fake

import (
	"context"
	"io"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// waiting is a client that waits for a start.
type waiting struct {
	stdio engine.Stdio
	begun chan *process
}

// AttachNext implements [server.ContainerStreams].
func (d *containerPart) AttachNext(ctx context.Context, ref string, ready func() error, stdio engine.Stdio) (
	engine.ExitStatus, error) {
	if err := d.enter("AttachNext"); err != nil {
		return engine.ExitStatus{}, err
	}
	c, err := d.container(ref)
	if err != nil {
		d.mu.Unlock()
		return engine.ExitStatus{}, err
	}
	next := waiting{quiet(stdio), make(chan *process, 1)}
	if c.view.Status == engine.Running {
		next.begun <- c.proc
	} else {
		c.next = append(c.next, next)
	}
	d.mu.Unlock()
	d.Waiters.Add(1)
	defer d.Waiters.Add(-1)
	defer d.giveUp(c, next.begun)
	if err := ready(); err != nil {
		return engine.ExitStatus{}, err
	}
	select {
	case p := <-next.begun:
		return p.attach(ctx, c.view.ID, next.stdio)
	case <-ctx.Done():
		return engine.ExitStatus{}, ctx.Err()
	}
}

// giveUp has a process whose only spectator went away begin all the same.
func (d *containerPart) giveUp(c *container, begun chan *process) {
	d.mu.Lock()
	defer d.mu.Unlock()
	c.next = slices.DeleteFunc(c.next, func(o waiting) bool { return o.begun == begun })
	select {
	case p := <-begun:
		p.release()
	default:
	}
}

// quiet has what attach needs.
func quiet(stdio engine.Stdio) engine.Stdio {
	if stdio.Started == nil {
		stdio.Started = func(engine.Started) error { return nil }
	}
	if stdio.Stdout == nil {
		stdio.Stdout = io.Discard
	}
	if stdio.Stderr == nil {
		stdio.Stderr = io.Discard
	}
	return stdio
}

// Resize implements [server.ContainerStreams].
func (d *containerPart) Resize(_ context.Context, ref string, size engine.WindowSize) error {
	return d.change("Resize", ref, func(c *container) error {
		if c.view.Status != engine.Running {
			return &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: ref, Reason: errNotRunning.Error()}
		}
		select {
		case c.proc.sizes <- size:
		default: // a process that looks at none
		}
		return nil
	})
}
