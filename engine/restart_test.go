package engine_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

func policy(name string) engine.RestartPolicy { return engine.RestartPolicy{Name: name} }

// again waits until a container runs that has been started again n times.
func (w *world) again(ref string, n int) engine.Container {
	w.t.Helper()
	var c engine.Container
	await.True(w.t, ref+" runs again", func() bool {
		c = w.inspect(ref)
		return c.Status == engine.Running && c.RestartCount >= n
	})
	return c
}

func (w *world) becomes(ref string, want engine.Status) {
	w.t.Helper()
	await.Value(w.t, "the state of "+ref, want, func() engine.Status { return w.inspect(ref).Status })
}

func TestRestartPolicies(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "failing", Command: sh("echo run; exit 4"),
		Restart: engine.RestartPolicy{Name: engine.RestartOnFailure, MaxRetries: 2}})
	w.start(engine.Spec{Name: "done", Command: sh("exit 0"), Restart: policy(engine.RestartOnFailure)})
	first := w.start(engine.Spec{Name: "always", Command: []string{"sleep", "1000"},
		Restart: policy(engine.RestartAlways)})
	if err := syscall.Kill(first.Pid, syscall.SIGKILL); err != nil { // of itself
		t.Fatal(err)
	}
	if second := w.again("always", 1); second.Pid == first.Pid {
		t.Errorf("it runs again as the same process %d", first.Pid)
	}
	await.Value(t, "the log of one that may fail twice", "run\nrun\nrun\n", func() string { return w.logs("failing") })
	w.becomes("failing", engine.Exited)
	if c := w.inspect("failing"); c.RestartCount != 2 || c.ExitCode != 4 {
		t.Errorf("failing: %d restarts, exit code %d", c.RestartCount, c.ExitCode)
	}
	w.becomes("done", engine.Exited)
	if c := w.inspect("done"); c.RestartCount != 0 {
		t.Errorf("one that did not fail was started %d times again", c.RestartCount)
	}
	// Who starts it begins anew.
	if err := w.e.Start(t.Context(), "failing"); err != nil {
		t.Fatal(err)
	}
	await.Value(t, "its log", strings.Repeat("run\n", 6), func() string { return w.logs("failing") })
	// Its supervisor is its end as any other.
	pid := shimPid(t, w.inspect("always"))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.again("always", 2)
}

func TestRestartPoliciesThatCannotBe(t *testing.T) {
	w := newWorld(t)
	for want, s := range map[string]engine.Spec{
		"AutoRemove":  {Remove: true, Restart: policy(engine.RestartAlways)},
		"unknown":     {Restart: policy("sometimes")},
		"on-failure":  {Restart: engine.RestartPolicy{Name: engine.RestartAlways, MaxRetries: 1}},
		"be negative": {Restart: engine.RestartPolicy{Name: engine.RestartOnFailure, MaxRetries: -1}},
	} {
		s.Image = "busybox"
		_, _, err := w.e.Create(t.Context(), s)
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// What somebody ends stays ended, however it was at that moment, until netd starts again where it is to run always.
func TestEndedByHand(t *testing.T) {
	w := newWorld(t)
	zero := time.Duration(0)
	waits := func(name, policyName string) {
		w.start(engine.Spec{Name: name, Command: sh("exit 1"), Restart: policy(policyName)})
		await.True(t, name+" waits for its restart for a while", func() bool {
			c := w.inspect(name)
			return c.Status == engine.Restarting && c.RestartCount >= 3
		})
	}
	w.start(engine.Spec{Name: "stopped", Command: []string{"sleep", "1000"}, Restart: policy(engine.RestartAlways)})
	w.start(engine.Spec{Name: "killed", Command: []string{"sleep", "1000"},
		Restart: policy(engine.RestartUnlessStopped)})
	waits("waiting", engine.RestartUnlessStopped)
	waits("removed", engine.RestartAlways)
	if _, err := w.e.Remove(t.Context(), "removed", false, false); !errors.Is(err, cnm.ErrInUse) {
		t.Errorf("remove one that waits: %v", err)
	}
	if _, err := w.e.Remove(t.Context(), "removed", true, false); err != nil {
		t.Error(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := w.e.Wait(context.WithoutCancel(t.Context()), "waiting", engine.WaitNotRunning, nil)
		ended <- err
	}()
	for _, name := range []string{"stopped", "waiting"} {
		if err := w.e.Stop(t.Context(), name, engine.StopOptions{Timeout: &zero}); err != nil {
			t.Error(err)
		}
	}
	if err := await.From(t, "the end of one that waited", ended); err != nil {
		t.Error(err)
	}
	if err := w.e.Kill(t.Context(), "killed", "KILL"); err != nil {
		t.Error(err)
	}
	for _, name := range []string{"stopped", "killed", "waiting"} {
		w.becomes(name, engine.Exited)
	}
	w.restart()
	w.again("stopped", 1)
	for _, name := range []string{"killed", "waiting"} {
		if c := w.inspect(name); c.Status != engine.Exited {
			t.Errorf("%s after a restart of netd: %s", name, c.Status)
		}
	}
}

// After a boot runs what is to, and what failed because of it counts for no failure.
func TestPoliciesAfterABoot(t *testing.T) {
	w := newWorld(t)
	var pids []int
	for _, name := range []string{engine.RestartNo, engine.RestartAlways, engine.RestartUnlessStopped,
		engine.RestartOnFailure} {
		c := w.start(engine.Spec{Name: name, Command: []string{"sleep", "1000"}, Restart: policy(name)})
		pids = append(pids, shimPid(t, c))
	}
	await.True(t, "all are written down", func() bool {
		list, err := w.store.List(t.Context(), cnm.KindContainer)
		for _, r := range list {
			if !strings.Contains(string(r.Value), `"status":"running"`) {
				return false
			}
		}
		return err == nil
	})
	if err := w.e.Close(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		gone(t, pid)
	}
	if err := os.RemoveAll(filepath.Join(w.dir, "run")); err != nil {
		t.Fatal(err)
	}
	w.boot = "boot-2"
	w.open()
	w.again(engine.RestartAlways, 1)
	w.again(engine.RestartUnlessStopped, 1)
	for _, name := range []string{engine.RestartNo, engine.RestartOnFailure} {
		if c := w.inspect(name); c.Status != engine.Exited || c.ExitCode != 255 {
			t.Errorf("%s: %s, %d", name, c.Status, c.ExitCode)
		}
	}
}

// A netd that comes while a container waits for its restart has it wait on.
func TestNetdRestartDuringAWait(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "c", Command: sh("echo run; exit 1"), Restart: policy(engine.RestartAlways)})
	for range 3 {
		w.becomes("c", engine.Restarting)
		n := w.inspect("c").RestartCount
		w.restart()
		await.True(t, "it is started again", func() bool { return w.inspect("c").RestartCount > n })
	}
}

// A start that fails is as a run that does; who starts it himself is told, and nothing waits.
func TestRestartThatFails(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Name: "missing", Command: []string{"nonesuch"}, Restart: policy(engine.RestartAlways)})
	if err := w.e.Start(t.Context(), c.ID); !errors.Is(err, engine.ErrCommandNotFound) {
		t.Errorf("start: %v", err)
	}
	if c := w.inspect("missing"); c.Status != engine.Created {
		t.Errorf("it is %s", c.Status)
	}
	w.start(engine.Spec{Name: "c", Command: sh("exit 1"),
		Restart: engine.RestartPolicy{Name: engine.RestartOnFailure, MaxRetries: 2}})
	w.nets.mu.Lock()
	w.nets.fail = errors.New("no network today")
	w.nets.mu.Unlock()
	w.becomes("c", engine.Exited)
	if c := w.inspect("c"); c.RestartCount != 2 || !strings.Contains(c.Error, "today") {
		t.Errorf("%d restarts, %q", c.RestartCount, c.Error)
	}
	w.nets.mu.Lock()
	w.nets.fail = nil
	w.nets.mu.Unlock()
}

func TestRestartByHand(t *testing.T) {
	w := newWorld(t)
	zero := time.Duration(0)
	c := w.start(engine.Spec{Name: "c", Command: []string{"sleep", "1000"}, Remove: true})
	next := make(chan engine.ExitStatus, 1)
	go func() {
		st, _ := w.e.Wait(context.WithoutCancel(t.Context()), "c", engine.WaitRemoved, nil)
		next <- st
	}()
	if err := w.e.Restart(t.Context(), "c", engine.StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if got := w.inspect("c"); got.Status != engine.Running || got.Pid == c.Pid || got.ID != c.ID {
		t.Errorf("after a restart: %+v", got)
	}
	if err := w.e.Stop(t.Context(), "c", engine.StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if st := await.From(t, "its removal", next); st.Code != 137 {
		t.Errorf("removed: %+v", st)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	want := "create start kill die stop start restart kill die"
	if got := strings.Join(w.events, " "); !strings.HasPrefix(got, want) {
		t.Errorf("events: %s", got)
	}
}

// Between the two halves of a restart a container is not one that has ended.
func TestNobodyComesBetweenARestart(t *testing.T) {
	w := newWorld(t)
	zero := time.Duration(0)
	now := engine.StopOptions{Timeout: &zero}
	ctx, giveUp := context.WithCancel(t.Context())
	var between error
	var pruned []string
	w.seen = func(e engine.Event) {
		switch name := e.Attributes["name"]; {
		case e.Action == "stop" && name == "kept":
			_, between = w.e.Remove(t.Context(), name, false, false)
			pruned, _, _ = w.e.PruneContainers(t.Context(), func(engine.Container) bool { return true })
		case e.Action == "stop" && name == "given-up":
			giveUp()
		}
	}
	c := w.start(engine.Spec{Name: "kept", Command: []string{"sleep", "1000"}})
	if err := w.e.Restart(t.Context(), "kept", now); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(between, cnm.ErrInUse) || len(pruned) != 0 {
		t.Errorf("between: %v, pruned %v", between, pruned)
	}
	if got := w.inspect("kept"); got.Status != engine.Running || got.Pid == c.Pid {
		t.Errorf("after it: %+v", got)
	}
	// Who gives up between them leaves nothing that was to go with its end, nor does a netd that was killed.
	w.start(engine.Spec{Name: "given-up", Command: []string{"sleep", "1000"}, Remove: true})
	if err := w.e.Restart(ctx, "given-up", now); err == nil {
		t.Error("a restart without an end")
	}
	if _, err := w.e.Inspect(t.Context(), "given-up"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("one that was to go: %v", err)
	}
	killed := w.create(engine.Spec{Name: "killed", Remove: true})
	w.rewrite(killed.ID, `"status":"created"`, `"status":"exited"`)
	w.restart()
	if _, err := w.e.Inspect(t.Context(), "killed"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("one that was to go before netd was killed: %v", err)
	}
}

func TestFollowOverRestarts(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "c", Command: sh("sleep 0.2; echo run; exit 1"),
		Restart: engine.RestartPolicy{Name: engine.RestartOnFailure, MaxRetries: 1}})
	var lines []string
	all := engine.LogsRequest{Container: "c", Follow: true, Tail: -1}
	err := w.e.Logs(t.Context(), all, func(l engine.LogLine) error {
		lines = append(lines, string(l.Line))
		return nil
	})
	if err != nil || len(lines) != 2 {
		t.Errorf("%q, %v", lines, err)
	}
}
