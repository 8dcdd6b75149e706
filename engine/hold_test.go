package engine_test

import (
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine"
)

// A container whose files are read goes on afterwards, also when the netd that froze it has gone; one that a user
// paused stays so.
func TestHold(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: sh("while :; do sleep 0.01; done")})
	is := func(when string, want engine.Status) {
		t.Helper()
		if got := w.inspect(c.ID).Status; got != want {
			t.Errorf("%s it is %s, want %s", when, got, want)
		}
	}
	hold := func() func() error {
		t.Helper()
		release, err := w.e.Hold(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		return release
	}
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	release := hold()
	is("while it is held", engine.Paused)
	ok(release())
	is("after", engine.Running)
	ok(release())
	is("after a second release", engine.Running)

	hold()
	w.restart()
	is("after a restart", engine.Running)

	ok(w.e.Pause(t.Context(), c.ID))
	release = hold()
	ok(release())
	is("paused by its user", engine.Paused)
	ok(w.e.Unpause(t.Context(), c.ID))

	release = hold()
	second := time.Second
	ok(w.e.Stop(t.Context(), c.ID, engine.StopOptions{Timeout: &second}))
	ok(release())
	is("stopped meanwhile", engine.Exited)
	release = hold()
	ok(release())
	is("stopped before", engine.Exited)
	files, err := w.e.Files(t.Context(), c.ID)
	if err != nil || files.ID != c.ID || files.Running || len(files.Spec.Command) == 0 {
		t.Errorf("files are %+v, %v", files, err)
	}
}
