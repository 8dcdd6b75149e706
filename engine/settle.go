package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// exitFile is where a supervisor leaves the exit status, in the run directory.
const exitFile = "exit.json"

// reality is what is found of a container.
type reality int

const (
	absent reality = iota // nothing: no run directory
	alive                 // its supervisor answers, and the command runs
	ended                 // there is an exit status
	broken                // there was a start, but no supervisor and no exit status
)

// settle is Settle with the container's lock held.
func (e *settler) settle(ctx context.Context, c *container) error {
	e.mu.Lock()
	watched, rec, known := c.watched, c.rec, e.containers[c.id] == c
	e.mu.Unlock()
	switch {
	case !known:
		return notFound(c.id)
	case watched:
		return nil
	case rec.Phase == cnm.Deleting:
		return e.removeStopped(ctx, c)
	}
	err := e.agree(ctx, c, rec)
	if err != nil {
		err = fmt.Errorf("look after container %s: %w", rec.Spec.Name, err)
	}
	if errors.Is(err, shim.ErrNoAnswer) {
		err = fmt.Errorf("%w%s", err, e.supervisor(c))
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c.sick, c.trouble = (time.Time{}), nil; err != nil && ctx.Err() == nil {
		c.sick, c.trouble = time.Now(), err
	}
	return err
}

// agree makes the record agree with what is found.
func (e *settler) agree(ctx context.Context, c *container, rec record) error {
	is, exit, err := e.observe(ctx, c)
	if err != nil {
		return err
	}
	lived, waits := isLive(rec.Status), rec.Status == Restarting
	switch {
	case is == alive:
		return nil // observe has taken it up
	case is == ended:
		// With its own PID namespace nothing is left. Its supervisor may have been killed after it wrote the exit.
		if rec.Spec.PidMode != "" {
			if err := shim.KillCgroup(e.cgroupOf(c)); err != nil {
				return err
			}
		}
		return e.finish(ctx, c, exit)
	case is == broken || lived:
		if err := shim.KillCgroup(e.cgroupOf(c)); err != nil {
			return err
		}
		if lived {
			return e.finish(ctx, c, e.lost(rec))
		}
		// A start that was cut off: nothing of it stays.
		if err := errors.Join(e.leave(ctx, c, rec.Sandbox), os.RemoveAll(c.run)); err != nil {
			return err
		}
	}
	switch {
	case waits:
		e.startLater(c)
	case is == absent && rec.Status == Exited && rec.Spec.Remove && !e.isKept(c):
		return e.removeStopped(ctx, c) // whoever restarted it did not come to start it
	}
	return nil
}

// lost is the exit of a container that ended and nobody saw it.
func (e *settler) lost(rec record) shim.Exit {
	exit := shim.Exit{Code: 128 + int(syscall.SIGKILL), Signal: int(syscall.SIGKILL), Started: rec.Started,
		Finished: time.Now(),
		Error:    "its supervisor (net-shim) was killed, and the container with it"}
	if rec.BootID != e.c.BootID {
		exit.Code, exit.Signal, exit.Error = 255, 0, "the host restarted while the container was running"
	}
	return exit
}

// observe looks what there is of a container. One that is alive it takes up:
// record, watch.
func (e *settler) observe(ctx context.Context, c *container) (reality, shim.Exit, error) {
	if _, err := os.Stat(c.run); errors.Is(err, fs.ErrNotExist) {
		return absent, shim.Exit{}, nil
	} else if err != nil {
		return 0, shim.Exit{}, err
	}
	for {
		w, state, err := c.client().Wait(ctx)
		switch {
		case err == nil && state.Status == shim.Exited:
			exit, err := w.ExitNow()
			w.Close()
			if err == nil {
				return ended, exit, nil
			}
		case err == nil:
			return alive, shim.Exit{}, e.takeUp(ctx, c, w, state)
		case noShim(err):
			return left(c)
		case shimWent(err):
			// It went while we asked, perhaps because its netd died before it said
			// start and it undid itself: the next connection is refused.
		default:
			return 0, shim.Exit{}, err
		}
		if ctx.Err() != nil {
			return 0, shim.Exit{}, ctx.Err()
		}
	}
}

// noShim tells that nobody listens at a supervisor's socket.
func noShim(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist)
}

// shimWent tells that a supervisor ended during a conversation.
func shimWent(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// left is what a supervisor that is gone has left.
func left(c *container) (reality, shim.Exit, error) {
	exit, err := shim.ReadExit(filepath.Join(c.run, exitFile))
	switch {
	case err == nil:
		return ended, exit, nil
	case errors.Is(err, fs.ErrNotExist):
		return broken, shim.Exit{}, nil
	}
	return 0, shim.Exit{}, err
}

func (e *settler) takeUp(ctx context.Context, c *container, w *shim.Waiter, s shim.State) error {
	status := Running
	if s.Status == shim.Paused {
		status = Paused
	}
	before := e.snapshot(c)
	after := e.change(c, func(r *record) {
		r.Status, r.Pid, r.Started, r.Finished = status, s.Pid, s.Started, time.Time{}
		r.ExitCode, r.OOM, r.Error, r.BootID = 0, false, "", e.c.BootID
		if !isLive(before.Status) {
			r.Stopped, r.Health = false, nil
		}
	})
	if !isLive(before.Status) { // netd was killed before it could write the start down
		made, eps, err := e.c.Networks.Sandbox(ctx, after.Sandbox)
		if err != nil {
			e.log.Error("find the network of a container that has just started", "container", c.id, "error", err)
		} else {
			after = e.change(c, func(r *record) { r.NetNS, r.Addrs = e.pathOf(made), withAddrs(nil, eps...) })
		}
	}
	if err := e.claim(ctx, after); err != nil {
		w.Close()
		return err
	}
	e.catchUp(ctx, c, after)
	e.watch(c, w.Exit, func() { w.Close() })
	if after.Held { // a netd that was killed had frozen it, to read its files
		return e.thaw(ctx, c)
	}
	if before.Status == after.Status && before.Pid == after.Pid {
		return nil
	}
	return e.save(ctx, c)
}

// catchUp does what a netd that was killed may have written down and not come to.
func (e *settler) catchUp(ctx context.Context, c *container, rec record) {
	if joinedContainer(rec.Spec) == "" {
		if err := e.c.Networks.Publish(ctx, rec.Sandbox, rec.Spec.Ports); err != nil {
			e.log.Error("publish a container's ports again", "container", c.id, "error", err)
		}
		if err := e.c.Networks.Rename(ctx, rec.Sandbox, rec.Spec.Name); err != nil {
			e.log.Error("rename a container on its networks again", "container", c.id, "error", err)
		}
	}
	if rec.Updating {
		err := c.client().Update(ctx, rec.Spec.Resources)
		if err == nil {
			e.change(c, func(r *record) { r.Updating = false })
			err = e.save(ctx, c)
		}
		if err != nil {
			e.log.Error("update a container's limits again", "container", c.id, "error", err)
		}
	}
}

// finish takes a container from running to exited, or to restarting, and away when it was to be
// removed. Those who wait are told before the record is on disk: until then the
// run directory with the exit status stays, and the next settle does the same.
func (e *settler) finish(ctx context.Context, c *container, exit shim.Exit) error {
	rec := e.snapshot(c)
	leaveErr := e.leave(ctx, c, rec.Sandbox) // it is over all the same
	booted, remove := rec.BootID != e.c.BootID, rec.Spec.Remove
	rec = e.change(c, func(r *record) {
		r.Status, r.Pid, r.ExitCode, r.OOM = Exited, 0, exit.Code, exit.OOM
		r.Finished, r.Error, r.NetNS = exit.Finished, exit.Error, ""
		if !exit.Started.IsZero() {
			r.Started = exit.Started
		}
		if wanted(*r, booted) {
			r.Status = Restarting
		}
		if c.keep > 0 {
			remove = false
		}
	})
	if exit.OOM {
		e.emit(c, "oom", nil)
	}
	e.emit(c, "die", map[string]string{"exitCode": strconv.Itoa(exit.Code)})
	if remove && leaveErr == nil {
		e.forget(c)
		return e.erase(ctx, c, rec)
	}
	e.announceEnd(c)
	if err := errors.Join(leaveErr, e.save(ctx, c)); err != nil {
		return err
	}
	if err := os.RemoveAll(c.run); err != nil {
		return err
	}
	if rec.Status == Restarting {
		e.startLater(c)
	}
	return nil
}
