package engine_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

// shimPid finds a container's supervisor: the parent of its first process.
func shimPid(t *testing.T, c engine.Container) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.Pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
	pid, err := strconv.Atoi(fields[2])
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil || strings.TrimSpace(string(name)) != "net-shim" {
		t.Fatalf("the parent of %d is %d, %s: %v", c.Pid, pid, name, err)
	}
	return pid
}

// gone waits for a process to end.
func gone(t *testing.T, pid int) {
	t.Helper()
	await.True(t, fmt.Sprintf("process %d has ended", pid), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

func TestRestartUnderARunningContainer(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "keeper", Command: sh("echo up; read x; exit 21"), OpenStdin: true})
	w.restart()
	got := w.inspect("keeper")
	if got.Status != engine.Running || got.Pid != c.Pid || !got.Started.Equal(c.Started) {
		t.Errorf("after a restart: %+v, before: %+v", got, c)
	}
	if r := w.exec("keeper", "echo", "hi"); r.out != "hi\n" {
		t.Errorf("exec: %+v", r)
	}
	a := w.attach("keeper", false)
	fmt.Fprintln(a.in, "go")
	if st := a.end(t); st.Code != 21 {
		t.Errorf("exit %+v", st)
	}
}

func TestExitWhileAway(t *testing.T) {
	for _, remove := range []bool{false, true} {
		t.Run(fmt.Sprintf("remove=%v", remove), func(t *testing.T) {
			w := newWorld(t)
			c := w.start(engine.Spec{Command: sh("read x < /data/go; exit 22"), Remove: remove,
				Mounts: []engine.Mount{{Source: w.fifo(), Target: "/data/go"}}})
			if err := w.e.Close(); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(w.dir, "fifo"), []byte("x\n"), 0); err != nil {
				t.Fatal(err)
			}
			gone(t, c.Pid)
			w.open()
			if end, err := w.e.Wait(t.Context(), c.ID, engine.WaitNotRunning, nil); err != nil || end.Code != 22 {
				t.Fatalf("the end was %+v, %v", end, err)
			}
			d, err := w.e.Inspect(t.Context(), c.ID)
			switch {
			case remove && !errors.Is(err, cnm.ErrNotFound):
				t.Errorf("still there: %+v, %v", d, err)
			case !remove && (err != nil || d.Status != engine.Exited || d.ExitCode != 22):
				t.Errorf("got %+v, %v", d, err)
			}
		})
	}
}

func (w *world) fifo() string {
	path := filepath.Join(w.dir, "fifo")
	if err := syscall.Mkfifo(path, 0o666); err != nil {
		w.t.Fatal(err)
	}
	return path
}

func TestSupervisorKilled(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprintf("away=%v", away), func(t *testing.T) {
			w := newWorld(t)
			c := w.start(engine.Spec{Command: sh("sleep 1000 & sleep 1000")})
			shim := shimPid(t, c)
			if away {
				if err := w.e.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Kill(shim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			gone(t, c.Pid) // nothing lives on unseen
			if away {
				gone(t, shim)
				w.open()
			}
			if st := w.wait(c.ID); st.Code != 137 || !strings.Contains(st.Error, "net-shim") {
				t.Errorf("got %+v", st)
			}
			if n := w.nets.count(); n != 0 {
				t.Errorf("%d sandboxes are left", n)
			}
			if left := cgroupsOf(w.cgroup + "/" + c.ID); len(left) != 0 {
				t.Errorf("cgroups are left: %v", left)
			}
			if err := w.e.Start(t.Context(), c.ID); err != nil {
				t.Errorf("start again: %v", err)
			}
		})
	}
}

func TestReboot(t *testing.T) {
	for _, volatile := range []bool{true, false} {
		t.Run(fmt.Sprintf("volatile=%v", volatile), func(t *testing.T) {
			w := newWorld(t)
			run := w.start(engine.Spec{Name: "service", Command: []string{"sleep", "1000"}})
			temp := w.start(engine.Spec{Name: "temp", Command: []string{"sleep", "1000"}, Remove: true})
			idle := w.create(engine.Spec{Name: "idle"})
			if err := w.e.Close(); err != nil {
				t.Fatal(err)
			}
			for _, c := range []engine.Container{run, temp} {
				syscall.Kill(shimPid(t, c), syscall.SIGKILL)
				gone(t, c.Pid)
			}
			if volatile { // /run is a tmpfs
				if err := os.RemoveAll(filepath.Join(w.dir, "run")); err != nil {
					t.Fatal(err)
				}
			}
			w.boot = "boot-2"
			w.open()
			if got := w.inspect("service"); got.Status != engine.Exited || got.ExitCode != 255 ||
				!strings.Contains(got.Error, "restarted") {
				t.Errorf("service: %+v", got)
			}
			if _, err := w.e.Inspect(t.Context(), "temp"); !errors.Is(err, cnm.ErrNotFound) {
				t.Errorf("temp: %v", err)
			}
			if got := w.inspect("idle"); got.Status != engine.Created || got.ID != idle.ID {
				t.Errorf("idle: %+v", got)
			}
			if n := w.nets.count(); n != 0 {
				t.Errorf("%d sandboxes are left", n)
			}
		})
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{})
	w.nets.fail = errors.New("no addresses left")
	if err := w.e.Start(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "no addresses left") {
		t.Fatalf("got %v", err)
	}
	w.nets.fail = nil
	if got := w.inspect(c.ID); got.Status != engine.Created || !strings.Contains(got.Error, "no addresses left") {
		t.Errorf("record: %+v", got)
	}
	if left := cgroupsOf(w.cgroup + "/" + c.ID); len(left) != 0 {
		t.Errorf("cgroups: %v", left)
	}
	if left := shimsOf(w.dir); len(left) != 0 {
		t.Errorf("processes: %v", left)
	}
	if err := w.e.Start(t.Context(), c.ID); err != nil {
		t.Errorf("start again: %v", err)
	}
}

func TestCallerGivesUp(t *testing.T) {
	w := newWorld(t)
	c := w.create(engine.Spec{})
	ctx, cancel := context.WithCancel(t.Context())
	w.nets.hook = cancel
	if err := w.e.Start(ctx, c.ID); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	w.nets.hook = nil
	if got := w.inspect(c.ID); got.Status != engine.Created {
		t.Errorf("record: %+v", got)
	}
	if n := w.nets.count(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
}

func TestSharedNetwork(t *testing.T) {
	w := newWorld(t)
	join := []cnm.AttachRequest{{Network: "container:owner"}}
	owner := w.create(engine.Spec{Name: "owner", Command: []string{"sleep", "1000"}})
	guest := w.create(engine.Spec{Name: "guest", Command: []string{"sleep", "1000"}, Networks: join})
	if err := w.e.Start(t.Context(), "guest"); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("joined what does not run: %v", err)
	}
	if _, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox",
		Networks: []cnm.AttachRequest{{Network: "container:nobody"}}}); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("joined what does not exist: %v", err)
	}
	for _, name := range []string{"owner", "guest"} {
		if err := w.e.Start(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	ns := func(name string) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", w.inspect(name).Pid))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	if ns("owner") != ns("guest") {
		t.Error("they have two network namespaces")
	}
	before := ns("guest")
	if err := w.e.Kill(t.Context(), "owner", ""); err != nil {
		t.Fatal(err)
	}
	w.wait("owner")
	if w.nets.count() != 1 {
		t.Error("the sandbox went with its owner, not with the last container in it")
	}
	w.restart() // what is shared is found again
	if w.nets.count() != 1 {
		t.Error("the sandbox went with a restart")
	}
	if err := w.e.Start(t.Context(), "owner"); err != nil {
		t.Fatal(err)
	}
	if ns("owner") != before {
		t.Error("the owner came back to another namespace")
	}
	zero := time.Duration(0)
	for _, name := range []string{"owner", "guest"} {
		if err := w.e.Stop(t.Context(), name, engine.StopOptions{Timeout: &zero}); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.nets.count(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
	_, _ = owner, guest
}

func TestParallelStarts(t *testing.T) {
	w := newWorld(t)
	const n = 50
	var g sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		c := w.create(engine.Spec{Command: sh(fmt.Sprintf("exit %d", i)), Remove: true})
		g.Go(func() {
			st, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{})
			if err == nil && st.Code != i {
				err = fmt.Errorf("container %d ended with %+v", i, st)
			}
			errs[i] = err
		})
	}
	g.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
}
