package engine_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

// However many do what they like with a container that its policy starts again and again: who stops it last has it
// stopped, and who starts it after that has it running.
func TestManyHandsAndAPolicy(t *testing.T) {
	w := newWorld(t)
	zero := time.Duration(0)
	now := engine.StopOptions{Timeout: &zero}
	again := policy(engine.RestartAlways)
	w.start(engine.Spec{Name: "c", Command: sh("sleep 0.02; exit 1"), Restart: again, Health: shellCheck("true")})
	w.start(engine.Spec{Name: "other", Command: sh("exit 1"), Restart: again})
	var g sync.WaitGroup
	for what, do := range map[string]func() error{
		"start":   func() error { return w.e.Start(t.Context(), "c") },
		"stop":    func() error { return w.e.Stop(t.Context(), "c", now) },
		"restart": func() error { return w.e.Restart(t.Context(), "c", now) },
		"kill": func() error {
			if err := w.e.Kill(t.Context(), "c", "TERM"); !errors.Is(err, engine.ErrNotRunning) {
				return err
			}
			return nil
		},
		"update": func() error {
			_, err := w.e.Update(t.Context(), "c", engine.Update{Restart: &again})
			return err
		},
		"remove": func() error {
			_, err := w.e.Remove(t.Context(), "other", false, false)
			if !errors.Is(err, cnm.ErrInUse) {
				return errors.Join(errors.New("it was removed"), err)
			}
			return nil
		},
	} {
		g.Go(func() {
			for range 12 {
				if err := do(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
	g.Wait()
	if err := w.e.Stop(t.Context(), "c", now); err != nil {
		t.Fatal(err)
	}
	stopped := w.inspect("c")
	if stopped.Status != engine.Exited && stopped.Status != engine.Created {
		t.Errorf("it is %s", stopped.Status)
	}
	w.start(engine.Spec{Name: "clock", Command: sh("exit 1"), Restart: again})
	await.True(t, "others are started again", func() bool { return w.inspect("clock").RestartCount >= 3 })
	if c := w.inspect("c"); c.Status != stopped.Status || c.RestartCount != stopped.RestartCount {
		t.Errorf("it was started again: %s, %d times", c.Status, c.RestartCount)
	}
	if err := w.e.Start(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	w.again("c", 2)
}
