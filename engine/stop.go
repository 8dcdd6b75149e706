package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// defaultStopTimeout is what a container gets to end by itself.
const defaultStopTimeout = 10 * time.Second

// ExitStatus is how a command ended.
type ExitStatus struct {
	Code     int // 128+n after signal n
	OOM      bool
	Error    string
	Finished time.Time
}

func exitStatus(r record) ExitStatus {
	return ExitStatus{Code: r.ExitCode, OOM: r.OOM, Error: r.Error, Finished: r.Finished}
}

// rememberEnd is how long the end of a container that removed itself is known: long
// enough for a client that lost its connection, with netd or to it.
const rememberEnd = time.Minute

// removedContainer is the end of a container that is no more.
type removedContainer struct {
	status  ExitStatus
	removed time.Time
}

// rememberEndOf notes how a container ended; the caller holds mu.
func (e *remover) rememberEndOf(r record) {
	now := time.Now()
	maps.DeleteFunc(e.removed, func(_ string, b removedContainer) bool { return now.Sub(b.removed) > rememberEnd })
	if r.Status == Exited && r.Spec.Remove {
		e.removed[r.ID] = removedContainer{exitStatus(r), now}
	}
}

func (e *remover) endOfRemoved(id string) (ExitStatus, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	b, ok := e.removed[id]
	return b.status, ok
}

// Wait returns how a container ended, once what is waited for has come about. The end of one
// that removed itself is known for a minute, by its whole ID. Once ready is called, which may be nil, the wait has
// begun: no end from then on is missed.
func (e *stopper) Wait(ctx context.Context, ref string, condition WaitCondition, ready func() error) (ExitStatus,
	error) {
	if ready == nil {
		ready = func() error { return nil }
	}
	c, _, err := e.settled(ctx, ref)
	if errors.Is(err, cnm.ErrNotFound) {
		if status, ok := e.endOfRemoved(ref); ok {
			return status, ready()
		}
	}
	if err != nil {
		return ExitStatus{}, err
	}
	return e.waitFor(ctx, c, condition, ready)
}

// waitFor waits for what is to come about of a container.
func (e *stopper) waitFor(ctx context.Context, c *container, condition WaitCondition,
	ready func() error) (ExitStatus, error) {
	e.mu.Lock()
	end := c.end
	if condition == WaitNextExit && c.isEnded() {
		end = c.nextEnd()
	}
	gone := c.gone
	e.mu.Unlock()
	if err := ready(); err != nil {
		return ExitStatus{}, err
	}
	on := end.done
	if condition == WaitRemoved {
		on = gone
	}
	select {
	case <-on:
	case <-ctx.Done():
		return ExitStatus{}, ctx.Err()
	case <-e.life.Done():
		return ExitStatus{}, errStopping
	}
	if condition == WaitRemoved {
		return exitStatus(e.snapshot(c)), nil // its record is the last word: who waits for its end is told after that
	}
	return end.status, end.err
}

// errStopping is what waits end with that netd's own end cuts off.
var errStopping = errors.New("netd is stopping: the container goes on")

func (e *stopper) await(ctx context.Context, c *container) error {
	select {
	case <-e.endOf(c).done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.life.Done():
		return errStopping
	}
}

// Kill sends a signal, by name or number, to the container's first process; ""
// is KILL.
func (e *stopper) Kill(ctx context.Context, ref, signal string) error {
	if signal == "" {
		signal = "KILL"
	}
	n, err := parseSignal(signal)
	if err != nil {
		return err
	}
	c, rec, sick, err := e.settledOrSick(ctx, ref, n == int(syscall.SIGKILL))
	if err != nil {
		return err
	}
	if sick != nil && n == int(syscall.SIGKILL) {
		return e.endSick(ctx, c)
	}
	if e.ends(ctx, rec, n) {
		waited := rec.Status == Restarting
		if rec, err = e.halt(ctx, c); err != nil || waited && !isLive(rec.Status) {
			return err
		}
	}
	if !isLive(rec.Status) {
		return cmp.Or(sick, notRunning(rec.Spec.Name))
	}
	if err := e.send(ctx, c, n); err != nil {
		return liveError(rec.Spec.Name, err)
	}
	return nil
}

// Stop asks the container to end and kills it after the timeout. One that does not run is left as it is.
func (e *stopper) Stop(ctx context.Context, ref string, o StopOptions) error {
	c, err := e.find(ref)
	if err != nil {
		return err
	}
	over := isClosed(e.overOf(c))
	if err := e.stop(ctx, c.id, o); err != nil || over {
		return err
	}
	e.emit(c, "stop", nil)
	return nil
}

func (e *stopper) stop(ctx context.Context, ref string, o StopOptions) error {
	c, rec, sick, err := e.settledOrSick(ctx, ref, true)
	if err == nil && sick != nil {
		return e.endSick(ctx, c)
	}
	if err == nil {
		rec, err = e.halt(ctx, c)
	}
	if err != nil || !isLive(rec.Status) {
		return err
	}
	wait := defaultStopTimeout
	if rec.Spec.StopTimeout > 0 {
		wait = rec.Spec.StopTimeout
	}
	if o.Timeout != nil {
		wait = *o.Timeout
	}
	if rec.Status == Paused {
		switch _, _, err := e.freeze(ctx, c.id, Running); { // somebody else may have thawed it meanwhile
		case errors.Is(err, shim.ErrNoAnswer):
			return e.endSick(ctx, c)
		case err != nil && !errors.Is(err, ErrNotRunning): // it may have ended just now
			return err
		}
	}
	if o.Signal != "" {
		rec.Spec.StopSignal = o.Signal
	}
	signal, err := e.stopSignal(ctx, rec)
	if err != nil {
		return err
	}
	end := e.endOf(c).done
	if wait != 0 {
		switch err := e.signal(ctx, c, rec, signal); {
		case errors.Is(err, shim.ErrNoAnswer):
			return e.endSick(ctx, c)
		case err != nil:
			return err
		}
		timer := time.NewTimer(wait)
		defer timer.Stop()
		patience := timer.C
		if wait < 0 {
			patience = nil // as long as it takes
		}
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-patience:
		}
	}
	if err := e.signal(ctx, c, rec, int(syscall.SIGKILL)); err != nil {
		return err
	}
	return e.awaitKilled(ctx, c)
}

// killTime bounds the wait for what was killed. A process that waits for a disk ends no sooner than that answers.
const killTime = 30 * time.Second

func (e *stopper) awaitKilled(ctx context.Context, c *container) error {
	bound, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	err := e.await(bound, c)
	if err == nil || ctx.Err() != nil || bound.Err() == nil {
		return err
	}
	rec := e.snapshot(c)
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: rec.Spec.Name,
		Reason: fmt.Sprintf("it was killed and has not ended for %s: its first process is %d, in state %s", killTime,
			rec.Pid, shim.ProcessState(rec.Pid)),
		Remedy: "a process in state D waits for a disk or a device, one that is frozen (freezer.state) to be thawed: " +
			"see to that, or try again"}
}

// send sends a signal to the container's first process. Where the supervisor does not answer, KILL goes to
// it instead: the container is then found without one and ended by its cgroup.
func (e *stopper) send(ctx context.Context, c *container, n int) error {
	err := c.client().Kill(ctx, "", n)
	if err == nil {
		e.emit(c, "kill", map[string]string{"signal": strconv.Itoa(n)})
	}
	if !errors.Is(err, shim.ErrNoAnswer) || n != int(syscall.SIGKILL) {
		return err
	}
	return e.endSick(ctx, c)
}

// endSick ends a container whose supervisor does not answer, and the supervisor.
func (e *stopper) endSick(ctx context.Context, c *container) error {
	e.log.Warn("a supervisor does not answer and is killed", "container", c.id)
	rec := e.change(c, func(r *record) { r.Stopped = true })
	if err := shim.End(rec.Pid, e.cgroupOf(c), c.shimLog()); err != nil {
		return fmt.Errorf("container %s cannot be ended, as its supervisor does not answer: %w; kill its net-shim by "+
			"hand, which is the one with %s as its error output", rec.Spec.Name, err, c.shimLog())
	}
	if err := e.Settle(ctx, c.id); err != nil {
		return err
	}
	return e.awaitKilled(ctx, c)
}

// settledOrSick is settled for those who end a container, which a supervisor that does not answer must not prevent:
// sick is its error then. With abort, a start that takes long is given up.
func (e *stopper) settledOrSick(ctx context.Context, ref string, abort bool) (c *container, rec record, sick,
	err error) {
	if c, err = e.find(ref); err != nil {
		return nil, record{}, nil, err
	}
	if abort {
		if err := e.giveUpStart(ctx, c); err != nil {
			return nil, record{}, nil, err
		}
	}
	if _, rec, err = e.settled(ctx, c.id); errors.Is(err, shim.ErrNoAnswer) {
		return c, e.snapshot(c), err, nil
	}
	return c, rec, nil, err
}

// startPatience is how long a start may take before one who ends the container gives it up.
const startPatience = 5 * time.Second

// giveUpStart ends a start that takes long, and returns once it is undone.
func (e *stopper) giveUpStart(ctx context.Context, c *container) error {
	starting := func() context.CancelCauseFunc {
		e.mu.Lock()
		defer e.mu.Unlock()
		return c.abort
	}
	if starting() == nil {
		return nil
	}
	unlock, err := e.lockWithin(ctx, c, startPatience)
	if err == nil {
		unlock()
		return nil
	}
	if ctx.Err() != nil {
		return err
	}
	if abort := starting(); abort != nil {
		abort(errors.New("the start was given up, as the container is to end"))
	}
	if unlock, err = e.lock(ctx, c); err == nil {
		unlock()
	}
	return err
}

// liveError is the error of a request to a supervisor that may have ended just now, with its container.
func liveError(name string, err error) error {
	if noShim(err) || shimWent(err) {
		return notRunning(name)
	}
	return commandError(name, err)
}

// signal is no error when the container has ended meanwhile.
func (e *stopper) signal(ctx context.Context, c *container, rec record, n int) error {
	err := e.send(ctx, c, n)
	if err == nil || noShim(err) || shimWent(err) {
		return nil
	}
	if err = commandError(rec.Spec.Name, err); errors.Is(err, ErrNotRunning) {
		return nil
	}
	return err
}

func (e *stopper) stopSignal(ctx context.Context, rec record) (int, error) {
	if rec.Spec.StopSignal != "" {
		return parseSignal(rec.Spec.StopSignal)
	}
	if img, err := e.c.Images.Resolve(ctx, rec.ImageID); err == nil && img.Config.StopSignal != "" {
		if n, err := parseSignal(img.Config.StopSignal); err == nil {
			return n, nil
		}
	}
	return int(syscall.SIGTERM), nil
}

// Pause freezes every process of a container.
func (e *stopper) Pause(ctx context.Context, ref string) error {
	name, changed, err := e.freeze(ctx, ref, Paused)
	if err == nil && !changed {
		err = &cnm.Error{Kind: cnm.ErrInUse, Reason: "Container " + name + " is already paused"}
	}
	return err
}

// Unpause thaws a paused container.
func (e *stopper) Unpause(ctx context.Context, ref string) error {
	name, changed, err := e.freeze(ctx, ref, Running)
	if err == nil && !changed {
		err = &cnm.Error{Kind: cnm.ErrInUse, Reason: "Container " + name + " is not paused"}
	}
	return err
}

// freeze gives a container that runs a status; it says whether that is another than before.
func (e *stopper) freeze(ctx context.Context, ref string, to Status) (name string, changed bool, err error) {
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return "", false, err
	}
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return "", false, err
	}
	defer unlock()
	rec := e.snapshot(c)
	switch {
	case !isLive(rec.Status):
		return "", false, notRunning(rec.Spec.Name)
	case rec.Status == to:
		return rec.Spec.Name, false, nil
	}
	act, action := c.client().Resume, "unpause"
	if to == Paused {
		act, action = c.client().Pause, "pause"
	}
	if err := act(ctx); err != nil {
		return "", false, liveError(rec.Spec.Name, err)
	}
	e.change(c, func(r *record) {
		if isLive(r.Status) {
			r.Status = to
		}
	})
	e.emit(c, action, nil)
	return rec.Spec.Name, true, e.save(ctx, c)
}

// Remove removes a container that does not run, or with force one that does;
// with volumes also those that were made for it alone.
func (e *stopper) Remove(ctx context.Context, ref string, force, volumes bool) (id string, err error) {
	c, _, sick, err := e.settledOrSick(ctx, ref, force)
	if err != nil {
		return "", err
	}
	if sick != nil && !force {
		return "", sick
	}
	if sick != nil {
		if err := e.endSick(ctx, c); err != nil {
			return "", err
		}
	}
	for {
		unlock, err := e.lock(ctx, c)
		if err != nil {
			return "", err
		}
		e.mu.Lock()
		rec, known, kept := c.rec, e.containers[c.id] == c, c.keep > 0
		e.mu.Unlock()
		switch {
		case !known:
			unlock()
			return c.id, nil
		case kept && !force:
			unlock()
			return "", &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: rec.Spec.Name,
				Reason: "somebody restarts it", Remedy: "stop it first with 'net stop', or use --force"}
		case rec.Status == Restarting && !force:
			unlock()
			return "", &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: rec.Spec.Name,
				Reason: "it waits for its restart", Remedy: "stop it first with 'net stop', or use --force"}
		case !isLive(rec.Status):
			e.giveUpRestart(c)
			err := e.removeWith(ctx, c, volumes)
			unlock()
			return c.id, err
		case !force:
			unlock()
			return "", &cnm.Error{Kind: cnm.ErrInUse, Field: "container", Value: rec.Spec.Name, Reason: "it is running",
				Remedy: "stop it first with 'net stop', or use --force"}
		}
		unlock()
		if rec, err = e.halt(ctx, c); err != nil {
			return "", err
		}
		if err := e.signal(ctx, c, rec, int(syscall.SIGKILL)); err != nil {
			return "", err
		}
		if err := e.awaitKilled(ctx, c); err != nil {
			return "", err
		}
	}
}

// removeWith notes what is to go with the container, then removes it.
func (e *remover) removeWith(ctx context.Context, c *container, volumes bool) error {
	e.change(c, func(r *record) {
		if !volumes && !r.Spec.Remove {
			r.Anonym = nil
		}
		r.Phase = cnm.Deleting
	})
	// From here on it goes, whatever happens to us.
	if err := e.save(ctx, c); err != nil {
		return err
	}
	return e.removeStopped(ctx, c)
}

// removeStopped removes a container that does not run; the caller holds its lock.
func (e *remover) removeStopped(ctx context.Context, c *container) error {
	rec := e.snapshot(c)
	if err := e.leave(ctx, c, c.id); err != nil {
		return err
	}
	// Others may live on in its network; its ports are free.
	if err := e.c.Networks.Publish(ctx, c.id, nil); err != nil {
		return fmt.Errorf("free the ports of container %s: %w", cnm.Short(c.id), err)
	}
	if err := e.erase(ctx, c, rec); err != nil {
		return err
	}
	e.forget(c)
	return nil
}

// forget takes a container out of memory: its name is free, and those who wait
// for its end is told.
func (e *remover) forget(c *container) {
	e.mu.Lock()
	delete(e.containers, c.id)
	e.rememberEndOf(c.rec)
	if e.names[c.rec.Spec.Name] == c.id {
		delete(e.names, c.rec.Spec.Name)
	}
	c.forgetNext()
	if !isClosed(c.gone) {
		close(c.gone)
	}
	if c.next != nil { // there is none
		c.next.err = notFound(c.id)
		close(c.next.done)
		c.next = nil
	}
	e.mu.Unlock()
	e.announceEnd(c)
}

// erase removes what a container has on disk, and its record: until that is
// gone, the next netd finishes the work.
func (e *remover) erase(ctx context.Context, c *container, rec record) error {
	if err := e.c.Snapshots.Remove(ctx, c.id); err != nil {
		return fmt.Errorf("remove the writable layer of container %s: %w", cnm.Short(c.id), err)
	}
	if err := e.dropVolumes(ctx, rec); err != nil {
		return err
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("remove the files of container %s: %w", cnm.Short(c.id), err)
	}
	c.saving.Lock()
	defer c.saving.Unlock()
	if err := e.put(ctx, c, nil); err != nil {
		return err
	}
	e.emit(c, "destroy", nil)
	// Last, because it says that there was a start; without a record it is swept.
	if err := os.RemoveAll(c.run); err != nil {
		return fmt.Errorf("remove the run directory of container %s: %w", cnm.Short(c.id), err)
	}
	return nil
}

// dropVolumes removes the volumes that were made for a container alone. One that another container has come to use,
// which has its mounts from this one, stays: it goes with that one.
func (e *remover) dropVolumes(ctx context.Context, rec record) error {
	for _, name := range rec.Anonym {
		err := e.c.Volumes.Remove(ctx, name, func(name string) []string {
			return slices.DeleteFunc(e.VolumeUsers(name), func(user string) bool { return user == rec.Spec.Name })
		})
		if err != nil && !errors.Is(err, cnm.ErrNotFound) && !errors.Is(err, cnm.ErrInUse) {
			return fmt.Errorf("remove a volume of container %s: %w", cnm.Short(rec.ID), err)
		}
	}
	return nil
}

// VolumeUsers names the containers that have a volume among their mounts.
func (e *records) VolumeUsers(volume string) []string {
	return e.usersOf(func(r record) bool {
		return slices.ContainsFunc(r.Spec.Mounts, func(m Mount) bool { return m.Volume && m.Source == volume })
	})
}

// ImageUsers names the containers made from an image.
func (e *records) ImageUsers(imageID string) []string {
	return e.usersOf(func(r record) bool { return r.ImageID == imageID })
}

// ImageRunners names the containers made from an image that run, or may.
func (e *records) ImageRunners(imageID string) []string {
	return e.usersOf(func(r record) bool {
		return r.ImageID == imageID && (isLive(r.Status) || r.Status == Restarting)
	})
}

func (e *records) usersOf(uses func(record) bool) []string {
	var out []string
	for _, c := range e.all() {
		if rec := e.snapshot(c); uses(rec) {
			out = append(out, rec.Spec.Name)
		}
	}
	slices.Sort(out)
	return out
}
