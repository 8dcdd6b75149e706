package engine_test

import (
	"context"
	"errors"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

// attachNext returns once the engine waits for a start, or has found one.
func (w *world) attachNext(ref string) *attached {
	w.t.Helper()
	return w.readied(func(ctx context.Context, ready func() error, s engine.Stdio) (engine.ExitStatus, error) {
		return w.e.AttachNext(ctx, ref, ready, s)
	})
}

// waitFor returns once the engine waits.
func (w *world) waitFor(ref string, condition engine.WaitCondition) *attached {
	w.t.Helper()
	return w.readied(func(ctx context.Context, ready func() error, _ engine.Stdio) (engine.ExitStatus, error) {
		return w.e.Wait(ctx, ref, condition, ready)
	})
}

func (w *world) readied(do func(context.Context, func() error, engine.Stdio) (engine.ExitStatus, error)) *attached {
	w.t.Helper()
	ready := make(chan struct{})
	a := connect(w.t, func(ctx context.Context, s engine.Stdio) (engine.ExitStatus, error) {
		return do(ctx, func() error { close(ready); return nil }, s)
	})
	select {
	case <-ready:
	case <-a.done:
		w.t.Fatal(a.err)
	}
	return a
}

func (a *attached) fails(t *testing.T, want error) {
	t.Helper()
	await.From(t, "the end", a.done)
	if !errors.Is(a.err, want) {
		t.Errorf("it ended with %v, want %v", a.err, want)
	}
}

// Whoever waits for a start sees all that the process says, whoever starts it, and how often.
func TestAttachToTheNextStart(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: []string{"sh", "-c", "echo whole; read a; echo $a; exit 7"}, OpenStdin: true})
	for range 2 {
		a, b, wait := w.attachNext(c.ID), w.attachNext(c.ID), w.waitFor(c.ID, engine.WaitNextExit)
		gone, goneWait := w.attachNext(c.ID), w.waitFor(c.ID, engine.WaitNextExit)
		gone.cancel()
		gone.fails(t, context.Canceled)
		goneWait.cancel()
		goneWait.fails(t, context.Canceled)
		if err := w.e.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		a.await(t, "whole\n")
		b.await(t, "whole\n")
		late := w.attachNext(c.ID) // to what runs
		if _, err := a.in.Write([]byte("typed\n")); err != nil {
			t.Fatal(err)
		}
		late.await(t, "typed\n")
		for _, one := range []*attached{a, b, wait, late} {
			if st := one.end(t); st.Code != 7 {
				t.Errorf("exit %+v, want 7", st)
			}
		}
		if a.String() != "whole\ntyped\n" || b.String() != a.String() || late.String() != "typed\n" {
			t.Errorf("seen: %q, %q and %q", a, b, late)
		}
	}
}

// Who waits for the removal of a container, before it is started, learns how it has ended.
func TestWaitBeforeTheStart(t *testing.T) {
	w := newWorld(t)
	for range 20 {
		c := w.create(engine.Spec{Command: sh("exit 3"), Remove: true})
		removed, next := w.waitFor(c.ID, engine.WaitRemoved), w.waitFor(c.ID, engine.WaitNextExit)
		if err := w.e.Start(t.Context(), c.ID); err != nil {
			t.Fatal(err)
		}
		for _, one := range []*attached{removed, next} {
			if st := one.end(t); st.Code != 3 {
				t.Fatalf("exit %+v, want 3", st)
			}
		}
	}
}

// A start that fails is told to those who were connected; who waits for an end waits on.
func TestTheNextStartFails(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: []string{"/bin/nosuch"}})
	a, wait := w.attachNext(c.ID), w.waitFor(c.ID, engine.WaitNextExit)
	if err := w.e.Start(t.Context(), c.ID); !errors.Is(err, engine.ErrCommandNotFound) {
		t.Fatalf("the start: %v", err)
	}
	a.fails(t, engine.ErrCommandNotFound)
	again := w.attachNext(c.ID)
	if _, err := w.e.Remove(t.Context(), c.ID, false, false); err != nil {
		t.Fatal(err)
	}
	wait.fails(t, cnm.ErrNotFound)
	again.fails(t, cnm.ErrNotFound)
}

func TestResize(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Command: []string{"sh"}, TTY: true, OpenStdin: true})
	if err := w.e.Resize(t.Context(), c.ID, engine.WindowSize{Rows: 5, Columns: 5}); !errors.Is(err,
		engine.ErrNotRunning) {
		t.Errorf("the size of what does not run: %v", err)
	}
	a := w.attach(c.ID, true)
	a.await(t, "# ")
	if err := w.e.Resize(t.Context(), c.ID, engine.WindowSize{Rows: 12, Columns: 34}); err != nil {
		t.Fatal(err)
	}
	if _, err := a.in.Write([]byte("stty size; exit 0\n")); err != nil {
		t.Fatal(err)
	}
	a.await(t, "12 34\r\n")
	a.end(t)
}
