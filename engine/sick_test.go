package engine_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
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
	if err := w.e.Stop(t.Context(), "stopped", engine.StopOptions{Timeout: &patience}); err != nil {
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

// freeze stops the supervisor of a container, and returns its process.
func (w *world) freeze(id string) int {
	w.t.Helper()
	pid, err := shim.FindSupervisor(filepath.Join(w.dir, "root/containers", id, "shim.log"))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		w.t.Fatal(err)
	}
	await.True(w.t, "every thread of the supervisor is stopped", func() bool { return stopped(pid) })
	return pid
}

// A supervisor that stops during the start keeps nobody from ending the container, which can start again.
func TestSupervisorThatStopsDuringTheStart(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{Name: "stuck", Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "front"}}})
	frozen := make(chan int, 1)
	w.nets.hook = func() { frozen <- w.freeze(c.ID) }
	started := make(chan error, 1)
	go func() { started <- w.e.Start(t.Context(), "stuck") }()
	pid := await.From(t, "the supervisor is stopped", frozen)
	w.nets.hook = nil
	if d, err := w.e.Inspect(t.Context(), "stuck"); err != nil || d.Status != engine.Created {
		t.Errorf("while it starts: %s, %v", d.Status, err)
	}
	if err := w.e.Stop(t.Context(), "stuck", engine.StopOptions{}); err != nil {
		t.Errorf("stop: %v", err)
	}
	if err := <-started; err == nil || !strings.Contains(err.Error(), "the start was given up") {
		t.Errorf("the start: %v", err)
	}
	gone(t, pid)
	if left := cgroupsOf(filepath.Join(w.cgroup, c.ID)); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if err := w.e.Start(t.Context(), "stuck"); err != nil {
		t.Errorf("start again: %v", err)
	}
}

// netd was killed before it had written that the container runs, or before its supervisor had said so: the record knows
// of no process. The next one ends it all the same, and loses nothing that still runs.
func TestSupervisorOfAnUnknownProcess(t *testing.T) {
	w := newWorld(t)
	ends := map[string]func() error{
		"stop": func() error { return w.e.Stop(t.Context(), "stop", engine.StopOptions{}) },
		"kill": func() error { return w.e.Kill(t.Context(), "kill", "KILL") },
		"remove": func() error {
			_, err := w.e.Remove(t.Context(), "remove", true, false)
			return err
		},
	}
	pids, first := map[string]int{}, map[string]int{}
	ids := map[string]string{}
	for name := range ends {
		c := w.start(engine.Spec{Name: name, Command: []string{"sleep", "1000"}})
		first[name], ids[name] = c.Pid, c.ID
	}
	w.start(engine.Spec{Name: "healthy", Command: []string{"sleep", "1000"}})
	if err := w.e.Close(); err != nil {
		t.Fatal(err)
	}
	for name, id := range ids {
		w.forgetStart(id)
		pids[name] = w.freeze(id)
	}
	w.open()
	var g sync.WaitGroup
	for name, end := range ends {
		d, err := w.e.Inspect(t.Context(), name)
		if want := fmt.Sprintf("process %d in state T", pids[name]); err != nil || !strings.Contains(d.Error, want) {
			t.Errorf("%q, %v, want it to tell of %s", d.Error, err, want)
		}
		g.Go(func() {
			for what, err := range map[string]error{"start": w.e.Start(t.Context(), name), "remove": func() error {
				_, err := w.e.Remove(t.Context(), name, false, false)
				return err
			}()} {
				if !errors.Is(err, shim.ErrNoAnswer) || !strings.Contains(err.Error(), name) ||
					!strings.Contains(err.Error(), strconv.Itoa(pids[name])) {
					t.Errorf("%s %s: %v", what, name, err)
				}
			}
			if err := end(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if r := w.exec("healthy", "echo", "well"); r.out != "well\n" {
		t.Errorf("exec in the healthy one: %+v", r)
	}
	g.Wait()
	for name := range ends {
		gone(t, pids[name])
		gone(t, first[name])
	}
}

// forgetStart makes the record what it was before the container started.
func (w *world) forgetStart(id string) {
	w.t.Helper()
	r, err := w.store.Get(w.t.Context(), cnm.Key{Kind: cnm.KindContainer, ID: id})
	if err != nil {
		w.t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(r.Value, &fields); err != nil {
		w.t.Fatal(err)
	}
	fields["status"] = "created"
	delete(fields, "pid")
	value, err := json.Marshal(fields)
	if err == nil {
		err = w.store.Commit(w.t.Context(), cnm.Write{Key: r.Key, Revision: r.Revision, Value: value})
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// So many wait for an answer that the kernel takes no more: that is no answer either.
func TestSupervisorThatTooManyWaitFor(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "stuck", Command: []string{"sleep", "1000"}})
	if err := w.e.Close(); err != nil {
		t.Fatal(err)
	}
	w.freeze(c.ID)
	dir, err := os.Open(filepath.Join(w.dir, "run/containers", c.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for {
		conn, err := net.Dial("unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), shim.SocketName))
		if errors.Is(err, syscall.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	w.open()
	if d, err := w.e.Inspect(t.Context(), "stuck"); err != nil || d.Status != engine.Running ||
		!strings.Contains(d.Error, "does not answer") {
		t.Errorf("%s, %q, %v", d.Status, d.Error, err)
	}
	if _, err := w.e.Remove(t.Context(), "stuck", true, false); err != nil {
		t.Error(err)
	}
}

// A process that waits for a disk does not end when it is killed. Who ends its container is told, and not kept.
func TestProcessThatDoesNotEnd(t *testing.T) {
	w := newWorld(t)
	command := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	disk, at := filepath.Join(t.TempDir(), "disk"), filepath.Join(t.TempDir(), "at")
	for _, err := range []error{os.Mkdir(at, 0o755), os.WriteFile(disk, nil, 0o600), os.Truncate(disk, 16<<20)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	command("mkfs.ext4", "-q", disk)
	command("mount", "-o", "loop", disk, at)
	defer command("umount", at)
	c := w.start(engine.Spec{Name: "stuck", Command: sh("while :; do echo x >> /disk/file; done"),
		Mounts: []engine.Mount{{Source: at, Target: "/disk"}}})
	command("fsfreeze", "-f", at)
	thaw := sync.OnceFunc(func() { command("fsfreeze", "-u", at) })
	defer thaw()
	await.True(t, "it waits for the disk", func() bool { return shim.ProcessState(c.Pid) == "D" })
	now := time.Duration(0)
	if err := w.e.Stop(t.Context(), "stuck", engine.StopOptions{Timeout: &now}); !errors.Is(err, cnm.ErrInUse) ||
		!strings.Contains(err.Error(), fmt.Sprintf("%d, in state D", c.Pid)) {
		t.Errorf("stop: %v", err)
	}
	if d, err := w.e.Inspect(t.Context(), "stuck"); err != nil || d.Status != engine.Running {
		t.Errorf("%s, %v", d.Status, err)
	}
	thaw()
	if _, err := w.e.Remove(t.Context(), "stuck", true, false); err != nil {
		t.Error(err)
	}
}

// Who looks does not wait for who starts or stops.
func TestLookingWaitsForNobody(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "slow", Image: "busybox", Command: []string{"sh", "-c", "trap '' TERM; sleep 1000"}})
	ended := make(chan error)
	forever := -time.Second
	go func() { ended <- w.e.Stop(t.Context(), "slow", engine.StopOptions{Timeout: &forever}) }()
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
