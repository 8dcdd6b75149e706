package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
)

// What a health check has that says nothing else.
const (
	checkInterval = 30 * time.Second
	checkTimeout  = 30 * time.Second
	startInterval = 5 * time.Second
	checkRetries  = 3
)

// How much is kept of checks.
const (
	keptProbes  = 5
	probeOutput = 4096 // bytes
)

// probeGrace is what a check that was killed gets to be gone.
const probeGrace = 3 * time.Second

// checkHealth refuses a health check that cannot be.
func checkHealth(h *Healthcheck) error {
	if h == nil {
		return nil
	}
	for name, d := range map[string]time.Duration{"Interval": h.Interval, "Timeout": h.Timeout,
		"StartPeriod": h.StartPeriod, "StartInterval": h.StartInterval} {
		if d != 0 && d < time.Millisecond {
			return invalid("health", d.String(), name+" in Healthcheck cannot be less than 1ms", "give a longer time")
		}
	}
	if h.Retries < 0 {
		return invalid("health", fmt.Sprint(h.Retries), "Retries in Healthcheck cannot be negative",
			"give a number of failures, or 0 for 3")
	}
	if len(h.Test) == 0 {
		return nil
	}
	switch kind, n := h.Test[0], len(h.Test); {
	case kind == "NONE", kind == "CMD" && n > 1, kind == "CMD-SHELL" && n == 2:
		return nil
	}
	return invalid("health", strings.Join(h.Test, " "), "not a health check",
		"give CMD and arguments, CMD-SHELL and one line, or NONE")
}

// probeCommand is what a check runs; nil: there is none.
func probeCommand(h *Healthcheck) []string {
	if h == nil || len(h.Test) < 2 {
		return nil
	}
	switch h.Test[0] {
	case "CMD":
		return h.Test[1:]
	case "CMD-SHELL":
		return []string{"/bin/sh", "-c", h.Test[1]}
	}
	return nil
}

// check begins to look after a container's health, until that end of it.
func (e *streams) check(c *container, end *ending) {
	rec := e.snapshot(c)
	img, err := e.c.Images.Resolve(e.life, rec.ImageID)
	if err != nil {
		e.log.Warn("find the health check of a container's image", "container", c.id, "error", err)
	}
	h := healthcheck(rec.Spec, img)
	command := probeCommand(h)
	if command == nil {
		e.change(c, func(r *record) { r.Health = nil })
		return
	}
	e.change(c, func(r *record) {
		if r.Health == nil {
			r.Health = &Health{Status: HealthStarting}
		}
	})
	p := process(rec.Spec, img)
	p.Args, p.TTY, p.Stdin = command, false, false
	h.Interval, h.Timeout = cmp.Or(h.Interval, checkInterval), cmp.Or(h.Timeout, checkTimeout)
	h.StartInterval, h.Retries = cmp.Or(h.StartInterval, startInterval), cmp.Or(h.Retries, checkRetries)
	// The wall clock may jump; from here on its own time counts.
	begun := time.Now().Add(-min(max(time.Since(rec.Started), 0), h.StartPeriod))
	e.tasks.Go(func() { (&checks{e, c, end, *h, p, begun}).run() })
}

// checks are those of one run of a container.
type checks struct {
	*streams
	c       *container
	end     *ending
	h       Healthcheck
	process shim.Process
	begun   time.Time
}

func (k *checks) run() {
	ctx, cancel := context.WithCancel(k.life)
	defer cancel()
	select {
	case <-k.resumed:
	case <-ctx.Done():
		return
	}
	for {
		wait := k.h.Interval
		if h := k.snapshot(k.c).Health; h != nil && h.Status == HealthStarting && k.early(time.Now()) {
			wait = k.h.StartInterval
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.end.done:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil || isClosed(k.end.done) {
			return
		}
		if k.snapshot(k.c).Status == Running {
			early := k.early(time.Now())
			if p, cut := k.probe(ctx); !cut {
				k.note(p, early)
			}
		}
	}
}

// early tells whether failures do not count yet.
func (k *checks) early(at time.Time) bool { return at.Sub(k.begun) < k.h.StartPeriod }

// probe runs the check once. One that is cut by the container's end tells nothing of its health.
func (k *checks) probe(life context.Context) (p HealthProbe, cut bool) {
	out := &boundedText{}
	begin := time.Now()
	code, err := k.runProbe(life, out)
	p = HealthProbe{Start: begin.UTC(), End: time.Now().UTC(), ExitCode: code, Output: out.String()}
	if err != nil {
		told := &boundedText{} // it may name the command, which an image may make long
		_, _ = told.Write([]byte(err.Error()))
		p.ExitCode, p.Output = -1, told.String()
	}
	return p, noShim(err) || shimWent(err) || errors.Is(err, ErrNotRunning)
}

func (k *checks) runProbe(life context.Context, out *boundedText) (int, error) {
	id, err := randomHex(32)
	if err != nil {
		return 0, err
	}
	client := k.c.client()
	ctx, cancel := context.WithTimeout(life, k.h.Timeout)
	defer cancel()
	stream, err := client.Probe(ctx, id, k.process)
	if err != nil {
		// It may run all the same, where that took too long.
		return 0, errors.Join(commandError(k.snapshot(k.c).Spec.Name, err), k.killProbe(client, id, ctx.Err() != nil))
	}
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() {
		if err := k.killProbe(client, id, true); err != nil {
			k.log.Debug("end a health check", "container", k.c.id, "error", err)
		}
		time.AfterFunc(probeGrace, func() { stream.Close() }) // its children may hold on to its output
	})
	defer stop()
	exit, err := receive(stream, Stdio{Stdout: out, Stderr: out})
	if ctx.Err() != nil {
		err = fmt.Errorf("Health check exceeded timeout (%s)", k.h.Timeout) //nolint:staticcheck // as Docker says it
	}
	return exit.Code, err
}

func (k *checks) killProbe(client shim.Client, id string, late bool) error {
	if !late {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.life), probeGrace)
	defer cancel()
	return client.Kill(ctx, id, 9)
}

// note enters what a check has found. Of one that a pause or the end of the container has cut off, nothing.
func (k *checks) note(p HealthProbe, early bool) {
	changed := ""
	k.mu.Lock()
	r := &k.c.rec
	if k.c.end == k.end && !isClosed(k.end.done) && k.life.Err() == nil && r.Status == Running && r.Health != nil {
		h := *r.Health
		h.Log = append(slices.Clone(h.Log[max(0, len(h.Log)-keptProbes+1):]), p)
		switch {
		case p.ExitCode == 0:
			h.Failing, h.Status = 0, HealthGood
		case h.Status == HealthStarting && early:
		default:
			if h.Failing++; h.Failing >= k.h.Retries {
				h.Status = HealthUnhealthy
			}
		}
		if h.Status != r.Health.Status {
			changed = h.Status
		}
		r.Health = &h
	}
	k.mu.Unlock()
	if changed == "" {
		return
	}
	k.emit(k.c, "health_status: "+changed, nil)
	if err := k.save(context.WithoutCancel(k.life), k.c); err != nil {
		k.log.Error("save a container's health", "container", k.c.id, "error", err)
	}
}

// boundedText keeps the beginning of what is written to it.
type boundedText struct {
	mu sync.Mutex
	b  []byte
}

// Write never fails.
func (t *boundedText) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p[:min(len(p), probeOutput-len(t.b))]...)
	return len(p), nil
}

func (t *boundedText) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "\uFFFD")
}
