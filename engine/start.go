package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/engine/snapshot"
)

// undoTime bounds what is done to take back a start that failed, or that its
// caller gave up.
const undoTime = 30 * time.Second

// Start starts a container and returns once its command runs. One that runs is
// left alone.
func (e *starter) Start(ctx context.Context, ref string) error {
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return err
	}
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return err
	}
	defer unlock()
	return e.start(ctx, c, nil)
}

// start does what Start says; the caller holds the container's lock. attach is
// called when there is something to attach to and nothing runs yet. Its restart policy begins anew.
func (e *starter) start(ctx context.Context, c *container, attach func() error) error {
	if err := e.settle(ctx, c); err != nil {
		return err
	}
	rec := e.snapshot(c)
	if isLive(rec.Status) {
		if attach != nil {
			return attach()
		}
		return nil
	}
	if rec.Phase == cnm.Deleting {
		return errGone
	}
	e.giveUpRestart(c)
	rec = e.change(c, func(r *record) { r.Stopped, r.RestartCount = false, 0 })
	e.mu.Lock()
	c.delay = 0
	e.mu.Unlock()
	err := e.launch(ctx, c, rec, attach)
	if err != nil && rec.Status == Restarting {
		err = errors.Join(err, e.stay(ctx, c))
	}
	return err
}

// launch starts a container that does not run.
func (e *starter) launch(ctx context.Context, c *container, rec record, attach func() error) error {
	l := &launch{e: e, c: c, rec: rec, attach: attach, begin: time.Now()}
	if err := l.runWithin(ctx); err != nil {
		l.tell(err)
		return e.failStart(ctx, l, err)
	}
	return nil
}

// startTime bounds a start. It may have to fill volumes, and to wait for others who do.
const startTime = 30 * time.Minute

// runWithin is run with an end: others may give the start up.
func (l *launch) runWithin(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTime, shim.ErrNoAnswer)
	defer cancel()
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	mark := func(begun time.Time, abort context.CancelCauseFunc) {
		l.e.mu.Lock()
		defer l.e.mu.Unlock()
		l.c.begun, l.c.abort = begun, abort
	}
	mark(l.begin, abort)
	defer mark(time.Time{}, nil)
	return l.run(ctx)
}

// launch is one start under way.
type launch struct {
	e      *starter
	c      *container
	rec    record
	attach func() error
	begin  time.Time
	last   time.Duration
	phases []any // of the log: name, time spent

	child   *shim.Child
	sandbox string // entered
	netns   string
	eps     []cnm.Endpoint
	compat  bool       // it has 32-bit programs
	joined  []*os.File // namespaces of others
	bundle  shim.Bundle
	waiters []joined // are told how the start ends
}

func (l *launch) phase(name string) {
	now := time.Since(l.begin)
	l.phases = append(l.phases, name, (now - l.last).Round(10*time.Microsecond))
	l.last = now
}

func (l *launch) run(ctx context.Context) error {
	img, err := l.e.c.Images.Resolve(ctx, l.rec.ImageID)
	if err != nil {
		return fmt.Errorf("find the image %s: %w", l.rec.Spec.Image, err)
	}
	if err := l.makeRunDir(); err != nil {
		return err
	}
	l.phase("begin")
	defer func() {
		for _, f := range l.joined {
			f.Close()
		}
	}()
	if l.child, err = l.e.launcher.Launch(l.c.run, l.c.shimLog()); err != nil {
		return err
	}
	l.phase("launch") // it gets ready while we prepare
	if err := l.prepare(ctx, img); err != nil {
		return err
	}
	l.phase("prepare")
	if err := l.child.Create(ctx, l.bundle); err != nil {
		return err
	}
	l.e.c.Networks.Settled()
	if l.attach != nil {
		if err := l.attach(); err != nil {
			return fmt.Errorf("attach to the container: %w", err)
		}
	}
	l.join(ctx)
	state, err := l.child.Start(ctx)
	if err != nil {
		return commandError(l.rec.Spec.Name, err)
	}
	l.phase("start")
	l.succeed(state)
	l.tell(nil)
	l.e.log.Debug("container started",
		append([]any{"container", l.c.id, "total", time.Since(l.begin).Round(10 * time.Microsecond)}, l.phases...)...)
	return nil
}

// makeRunDir makes the run directory, which comes before everything that would have to be undone,
// and goes after it: what has one is looked after by settle.
func (l *launch) makeRunDir() error {
	if err := os.Mkdir(l.c.run, 0o700); err != nil {
		return fmt.Errorf("make the container's run directory: %w", err)
	}
	if err := l.e.writeParent(l.c.run, l.rec.Spec.CgroupParent); err != nil {
		return fmt.Errorf("keep the name of the container's cgroup: %w", err)
	}
	return nil
}

// prepare makes the network and the file systems, at the same time, and the bundle.
func (l *launch) prepare(ctx context.Context, img image.Image) error {
	var mounts []snapshot.Mount
	var binds []shim.Bind
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		l.netns, l.sandbox, l.eps, err = l.e.enter(gctx, l.c, l.rec, img)
		return err
	})
	g.Go(func() (err error) {
		if err := l.e.c.Images.CheckLayers(img); err != nil {
			return err
		}
		layers := l.e.c.Images.LayerDirs(img)
		l.compat = has32Bit(img, layers, process(l.rec.Spec, img).Args)
		if mounts, err = l.e.c.Snapshots.Prepare(gctx, l.c.id, layers); err == nil {
			binds, err = l.e.binds(gctx, l.rec.Spec)
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	files, err := l.e.files(ctx, l.c, l.rec, l.sandbox, l.netns, l.eps)
	if err != nil {
		return err
	}
	if l.bundle, err = l.e.bundle(l, img, mounts, append(files, binds...)); err != nil {
		return err
	}
	l.bundle.Namespaces, l.joined, err = l.e.namespaces(ctx, l.rec.Spec)
	return err
}

func (l *launch) succeed(s shim.State) {
	e, c := l.e, l.c
	e.change(c, func(r *record) {
		r.Status, r.Pid, r.Started, r.Finished = Running, s.Pid, s.Started, time.Time{}
		r.ExitCode, r.OOM, r.Error, r.BootID = 0, false, "", e.c.BootID
		r.Health = nil // of this run nothing is known
		r.Sandbox, r.NetNS, r.Addrs = l.sandbox, l.netns, withAddrs(nil, l.eps...)
	})
	e.watch(c, l.child.Exit, l.child.Release)
	e.tasks.Go(func() {
		if err := l.child.Reap(e.life); err != nil && e.life.Err() == nil {
			e.log.Warn("a supervisor ended badly", "container", c.id, "error", err)
		}
	})
	e.saveSoon(c)
	e.emit(c, "start", nil)
}

// saveDelay is how long a container runs before its record says so on disk.
// Until then its supervisor is the one who knows; what ends sooner is written once.
const saveDelay = 200 * time.Millisecond

func (e *starter) saveSoon(c *container) {
	over := e.endOf(c).done
	e.background("save a container", c, func(ctx context.Context) error {
		timer := time.NewTimer(saveDelay)
		defer timer.Stop()
		select {
		case <-over:
			return nil
		case <-timer.C:
		case <-e.life.Done():
		}
		return e.save(ctx, c)
	})
}

// failStart takes back what a start did, and keeps its reason.
func (e *starter) failStart(ctx context.Context, l *launch, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
	defer cancel()
	c := l.c
	if l.child != nil {
		if err := e.abandon(ctx, l); err != nil { // it may hold on to all that is left: see settle
			e.change(c, func(r *record) { r.Error, r.ExitCode = cause.Error(), 125 })
			return errors.Join(cause, err, e.save(ctx, c))
		}
	}
	code := 125
	if coder, ok := errors.AsType[*CommandError](cause); ok {
		code = coder.ExitCode()
	}
	sandbox := l.sandbox
	if sandbox == "" {
		sandbox = c.id // it may have been made all the same
	}
	errs := []error{cause, e.leave(ctx, c, sandbox)}
	e.change(c, func(r *record) { r.Error, r.ExitCode = cause.Error(), code })
	if l.rec.Spec.Remove {
		errs = append(errs, e.removeStopped(ctx, c))
	} else {
		errs = append(errs, e.save(ctx, c), os.RemoveAll(c.run))
	}
	return errors.Join(slices.DeleteFunc(errs, func(err error) bool { return err == nil })...)
}

// abandonTime is what a supervisor gets to undo what it made, and to be gone when it was killed.
const abandonTime = 8 * time.Second

// abandon ends the supervisor of a start that failed.
func (e *starter) abandon(ctx context.Context, l *launch) error {
	reap := func() error {
		ctx, cancel := context.WithTimeout(ctx, abandonTime)
		defer cancel()
		return l.child.Reap(ctx)
	}
	l.child.Abandon()
	err := reap()
	if errors.Is(err, context.DeadlineExceeded) {
		e.log.Warn("a supervisor does not answer and is killed", "container", l.c.id)
		if err = l.child.Kill(); err == nil {
			err = reap()
		}
		if errors.Is(err, context.DeadlineExceeded) {
			e.tasks.Go(func() { _ = l.child.Reap(e.life) })
			e.tasks.Go(func() { e.settleLater(l.c.id) })
			return fmt.Errorf("container %s: the start cannot be undone%s: %w", l.rec.Spec.Name, e.supervisor(l.c),
				shim.ErrNoAnswer)
		}
		if killErr := shim.KillCgroup(e.cgroupOf(l.c)); killErr != nil {
			return fmt.Errorf("container %s: undo the start: %w", l.rec.Spec.Name, killErr)
		}
	}
	if err != nil {
		e.log.Warn("a supervisor ended badly", "container", l.c.id, "error", err)
	}
	return nil
}

// watch waits for the container's end in the background and settles it.
func (e *settler) watch(c *container, exit func() (shim.Exit, error), release func()) {
	e.mu.Lock()
	c.watched, c.release, c.running = true, release, time.Now()
	c.renew()
	end, before := c.end, c.checked
	c.checked = end
	e.mu.Unlock()
	if end != before { // its supervisor may only have broken off a connection
		e.check(c, end)
	}
	e.tasks.Go(func() {
		_, err := exit() // what it says is in the exit file too, or the supervisor died
		e.mu.Lock()
		c.watched, c.release = false, nil
		e.mu.Unlock()
		release()
		if e.life.Err() != nil {
			return
		}
		if err != nil {
			e.log.Debug("a supervisor went away", "container", c.id, "error", err)
		}
		// Once begun it is done, whether netd is stopping or not.
		if err := e.Settle(context.WithoutCancel(e.life), c.id); err != nil && !errors.Is(err, cnm.ErrNotFound) {
			e.log.Error("settle a container after its end", "container", c.id, "error", err)
		}
	})
}
