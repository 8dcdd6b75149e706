package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

// A supervisor that is stopped, as one on a disk that hangs is, holds up nobody: who looks sees what was known last,
// who ends the container ends it, and a new netd comes up with all the others.
func TestSupervisorThatDoesNotAnswer(t *testing.T) {
	w := newWorld(t)
	names := []string{"stopped", "killed", "removed", "later", "healthy"}
	for _, name := range names {
		w.start(engine.Spec{Name: name, Image: "busybox",
			Command: []string{"sh", "-c", "echo well; exec sleep 1000"}})
	}
	at := func(name string) int { return supervisor(t, w.inspect(name).Pid) }
	freeze := func(name string) int {
		pid := at(name)
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		// One of its threads takes the signal and stops the others, once it is its turn.
		await.True(t, "every thread of the supervisor is stopped", func() bool { return stopped(pid) })
		return pid
	}
	freeze("stopped")
	patience := time.Minute // of the container, which cannot be asked
	if err := w.e.Stop(t.Context(), "stopped", &patience); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if c := w.inspect("stopped"); c.Status != engine.Exited || c.ExitCode != 137 {
		t.Errorf("stopped: %s, exit code %d", c.Status, c.ExitCode)
	}
	freeze("killed")
	if err := w.e.Kill(t.Context(), "killed", "TERM"); !errors.Is(err, shim.ErrNoAnswer) {
		t.Errorf("a signal to one that does not answer: %v", err)
	}
	if err := w.e.Kill(t.Context(), "killed", ""); err != nil {
		t.Errorf("kill: %v", err)
	}
	freeze("removed")
	later := freeze("later")
	w.restart()
	for name, want := range map[string]error{"later": shim.ErrNoAnswer, "healthy": nil} {
		d, err := w.e.Inspect(t.Context(), name)
		if err != nil || d.Status != engine.Running || (want != nil) != strings.Contains(d.Error, "does not answer") {
			t.Errorf("%s: %s, %q, %v", name, d.Status, d.Error, err)
		}
	}
	if got := w.logs("later"); got != "well\n" {
		t.Errorf("the log of one that does not answer: %q", got)
	}
	if list, err := w.e.List(t.Context(), true); err != nil || len(list) != len(names) {
		t.Errorf("%d containers, %v", len(list), err)
	}
	if _, err := w.e.Remove(t.Context(), "removed", true, false); err != nil {
		t.Errorf("remove: %v", err)
	}
	if r := w.exec("healthy", "echo", "well"); r.out != "well\n" {
		t.Errorf("exec in the healthy one: %+v", r)
	}
	if err := syscall.Kill(later, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if r := w.exec("later", "echo", "again"); r.out != "again\n" {
		t.Errorf("exec in the one that answers again: %+v", r)
	}
	if d, err := w.e.Inspect(t.Context(), "later"); err != nil || d.Error != "" {
		t.Errorf("it answers again: %q, %v", d.Error, err)
	}
	for _, name := range []string{"stopped", "killed", "later", "healthy"} {
		if _, err := w.e.Remove(t.Context(), name, true, false); err != nil {
			t.Error(err)
		}
	}
}

// Who looks does not wait for who starts or stops.
func TestLookingWaitsForNobody(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "slow", Image: "busybox", Command: []string{"sh", "-c", "trap '' TERM; sleep 1000"}})
	ended := make(chan error)
	forever := -time.Second
	go func() { ended <- w.e.Stop(t.Context(), "slow", &forever) }()
	for range 3 {
		if d, err := w.e.Inspect(t.Context(), "slow"); err != nil || d.Status != engine.Running {
			t.Errorf("while it is stopped: %s, %v", d.Status, err)
		}
	}
	if err := w.e.Kill(t.Context(), "slow", ""); err != nil {
		t.Error(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// stopped reports whether every thread of a process is stopped, by the third field of proc_pid_stat(5).
func stopped(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	return err == nil && len(threads) > 0 && !slices.ContainsFunc(threads, func(path string) bool {
		text, err := os.ReadFile(path)
		return err != nil || bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])[0][0] != 'T'
	})
}

// supervisor is the parent of a container's first process.
func supervisor(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	parent, err := strconv.Atoi(string(bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])[1]))
	if err != nil {
		t.Fatal(err)
	}
	return parent
}
