package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/store/bolt"
)

// The victim is this test binary, run again as a netd that kills itself with -9
// before or after one of its steps: a call to the store, the network, or the disk.
const (
	victimDir  = "VETHLOOM_TEST_VICTIM_DIR"
	victimStep = "VETHLOOM_TEST_VICTIM_STEP" // odd: before a call; even: after it; 0: never
	victimPids = 99                          // is what it updates a container to
)

type steps struct {
	at, now atomic.Int64
}

func (s *steps) step() {
	if s.now.Add(1) == s.at.Load() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // the signal is on its way
	}
}

func (s *steps) around() func() {
	s.step()
	return s.step
}

type stepStore struct {
	cnm.Store
	*steps
}

func (s stepStore) Commit(ctx context.Context, w ...cnm.Write) error {
	defer s.around()()
	return s.Store.Commit(ctx, w...)
}

// fileNetworks has a file for each sandbox, which a crash does not remove.
type fileNetworks struct {
	engine.Networks // of the rest nothing is called
	dir             string
	*steps
}

func (n fileNetworks) CreateSandbox(_ context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
	defer n.around()()
	return cnm.Sandbox{ID: r.ID, Host: true}, nil, os.WriteFile(filepath.Join(n.dir, r.ID), nil, 0o600)
}

func (n fileNetworks) DeleteSandbox(_ context.Context, id string) error {
	defer n.around()()
	if err := os.Remove(filepath.Join(n.dir, id)); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n fileNetworks) Sandbox(_ context.Context, id string) (cnm.Sandbox, []cnm.Endpoint, error) {
	return cnm.Sandbox{ID: id, Host: true}, nil, nil
}

func (n fileNetworks) Publish(context.Context, string, []cnm.PortMapping) error { return nil }

func (n fileNetworks) Network(_ context.Context, ref string) (cnm.Network, error) {
	return cnm.Network{ID: ref, Name: ref, Driver: cnm.DriverBridge}, nil
}

func (n fileNetworks) Rename(context.Context, string, string) error { return nil }

func (n fileNetworks) Settled() {}

func (n fileNetworks) NetNSPath(cnm.Sandbox) string { return "" }

type stepSnapshots struct {
	engine.Snapshots
	*steps
}

func (s stepSnapshots) Prepare(ctx context.Context, id string, lower []string) ([]snapshot.Mount, error) {
	defer s.around()()
	return s.Snapshots.Prepare(ctx, id, lower)
}

func (s stepSnapshots) Remove(ctx context.Context, id string) error {
	defer s.around()()
	return s.Snapshots.Remove(ctx, id)
}

type stepImages struct {
	engine.Images
	*steps
}

func (s stepImages) Resolve(ctx context.Context, ref string) (image.Image, error) {
	s.step()
	return s.Images.Resolve(ctx, ref)
}

// openVictim opens an engine on a directory that outlives processes.
func openVictim(dir string, s *steps) (*engine.Engine, func() error, error) {
	ctx := context.Background()
	for _, d := range []string{"nets", "store", "run"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, nil, err
		}
	}
	store, err := bolt.Open(ctx, bolt.Config{StateFile: filepath.Join(dir, "store/state.db"),
		RuntimeFile: filepath.Join(dir, "store/runtime.db"), BootID: "boot"})
	if err != nil {
		return nil, nil, err
	}
	snaps, err := snapshot.Open(filepath.Join(dir, "snapshots"))
	if err != nil {
		return nil, nil, err
	}
	e, err := engine.New(ctx, engine.Config{
		Store: stepStore{store, s}, Networks: fileNetworks{dir: filepath.Join(dir, "nets"), steps: s},
		Snapshots: stepSnapshots{snaps, s},
		Images:    stepImages{&images{root: filepath.Join(dir, "rootfs")}, s},
		Root:      filepath.Join(dir, "root"), Run: filepath.Join(dir, "run"), ShimPath: filepath.Join(dir, "net-shim"),
		CgroupParent: victimCgroup(dir), BootID: "boot",
	})
	return e, store.Close, err
}

func victimCgroup(dir string) string {
	return "/vethloom-test-crash-" + strings.NewReplacer("/", "", "_", "").Replace(dir)
}

// victim lives through what a netd does with containers.
func victim(dir string) error {
	s := &steps{}
	at, err := strconv.Atoi(os.Getenv(victimStep))
	if err != nil {
		return err
	}
	s.at.Store(int64(at))
	e, _, err := openVictim(dir, s)
	if err != nil {
		return err
	}
	if os.Getenv(victimCopies) != "" {
		return copyForEver(e)
	}
	e.Resume()
	ctx := context.Background()
	make := func(s engine.Spec) (engine.Container, error) {
		s.Image, s.Networks = "busybox", []cnm.AttachRequest{{Network: "host"}}
		c, _, err := e.Create(ctx, s)
		return c, err
	}
	c, err := make(engine.Spec{Name: "long", Command: []string{"sleep", "1000"}})
	if err != nil {
		return err
	}
	if err := e.Start(ctx, c.ID); err != nil {
		return err
	}
	if _, err := e.Update(ctx, c.ID, engine.Update{Resources: engine.Resources{PidsLimit: victimPids}}); err != nil {
		return err
	}
	short, err := make(engine.Spec{Name: "short", Command: sh("exit 3"), Remove: true})
	if err != nil {
		return err
	}
	if _, err := e.Attach(ctx, short.ID, true, engine.Stdio{}); err != nil {
		return err
	}
	if err := killedAgain(ctx, e, make); err != nil {
		return err
	}
	zero := time.Duration(0)
	if err := e.Stop(ctx, c.ID, engine.StopOptions{Timeout: &zero}); err != nil {
		return err
	}
	if _, err := e.Remove(ctx, c.ID, false, true); err != nil {
		return err
	}
	return e.Close()
}

// killedAgain has a container that is looked after be started again by its policy.
func killedAgain(ctx context.Context, e *engine.Engine, make func(engine.Spec) (engine.Container, error)) error {
	c, err := make(engine.Spec{Name: "again", Command: []string{"sleep", "1000"}, Restart: policy(engine.RestartAlways),
		Health: &engine.Healthcheck{Test: []string{"CMD", "true"}, Interval: 10 * time.Millisecond}})
	if err != nil {
		return err
	}
	if err := e.Start(ctx, c.ID); err != nil {
		return err
	}
	// An Inspect would be a step.
	runs := func(count int) (pid int) {
		list, _ := e.List(ctx, true)
		for _, now := range list {
			if now.ID == c.ID && now.Status == engine.Running && now.RestartCount == count && now.Health != nil &&
				now.Health.Status == engine.HealthGood {
				pid = now.Pid
			}
		}
		return pid
	}
	for count := range 2 {
		if !await.Holds(func() bool { return runs(count) != 0 }) {
			return fmt.Errorf("it is not well after %d restarts", count)
		}
		if err := syscall.Kill(runs(count), syscall.SIGKILL); err != nil {
			return err
		}
	}
	_, err = e.Remove(ctx, c.ID, true, true)
	return err
}

func newVictimDir(t *testing.T) string {
	w := newWorld(t) // for the binary and the root filesystem
	dir := filepath.Join(w.dir, "v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.images.root, filepath.Join(dir, "rootfs")); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(w.config().ShimPath, filepath.Join(dir, "net-shim")); err != nil {
		t.Fatal(err)
	}
	return dir
}

func victimCommand(dir string, step int) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), victimDir+"="+dir, fmt.Sprintf("%s=%d", victimStep, step))
	return cmd
}

// converges opens what a killed netd left, and asks that all of it is accounted for.
func converges(t *testing.T, dir, when string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), await.Patience)
	defer cancel()
	e, closeStore, err := openVictim(dir, &steps{})
	if err != nil {
		t.Fatalf("%s: open: %v", when, err)
	}
	list, err := e.List(ctx, true)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	for _, c := range list {
		running := c.Status == engine.Running
		if running && c.Spec.Name == "short" { // it ends by itself, and goes
			if st, err := e.Wait(ctx, c.ID, engine.WaitNotRunning, nil); err == nil && st.Code != 3 || err != nil &&
				!errors.Is(err, cnm.ErrNotFound) {
				t.Errorf("%s: %+v, %v", when, st, err)
			}
			continue
		}
		alive := c.Pid > 0 && syscall.Kill(c.Pid, 0) == nil
		switch {
		case running && !alive: // it was killed just now, and its supervisor is about to say so
			if st, err := e.Wait(ctx, c.ID, engine.WaitNotRunning, nil); err != nil || st.Code != 137 {
				t.Errorf("%s: %s has no process %d, and its end is %+v, %v", when, c.Spec.Name, c.Pid, st, err)
			}
		case alive && !running:
			t.Errorf("%s: %s is %s, but its process %d is alive", when, c.Spec.Name, c.Status, c.Pid)
		}
		if c.Spec.Name == "long" && c.Status == engine.Exited && c.ExitCode != 137 || c.Spec.Name == "short" &&
			c.Status == engine.Exited {
			t.Errorf("%s: %+v", when, c)
		}
		if running && alive && c.Spec.PidsLimit == victimPids { // written down, so it has it
			if got := pidsMax(t, victimCgroup(dir), c.ID); got != strconv.Itoa(victimPids) {
				t.Errorf("%s: pids.max of %s is %s", when, c.Spec.Name, got)
			}
		}
		if c.Status == engine.Created { // it can be begun again
			if err := e.Start(ctx, c.ID); err != nil {
				t.Errorf("%s: start %s: %v", when, c.Spec.Name, err)
			}
		}
		if _, err := e.Remove(ctx, c.ID, true, true); err != nil && !errors.Is(err, cnm.ErrNotFound) {
			t.Errorf("%s: remove %s: %v", when, c.Spec.Name, err)
		}
	}
	if err := errors.Join(e.Close(), closeStore()); err != nil {
		t.Errorf("%s: close: %v", when, err)
	}
	for _, d := range []string{"nets/*", "root/containers/*", "run/containers/*", "snapshots/[^.]*"} {
		if entries, _ := filepath.Glob(filepath.Join(dir, d)); len(entries) != 0 {
			t.Errorf("%s: left in %s: %v", when, d, entries)
		}
	}
	if left := cgroupsOf(victimCgroup(dir)); len(left) != 0 {
		t.Errorf("%s: cgroups are left: %v", when, left)
	}
}

func TestKilledAtEveryStep(t *testing.T) {
	dir := newVictimDir(t)
	for step := 1; ; step++ {
		out, err := victimCommand(dir, step).CombinedOutput()
		if err == nil {
			if step < 20 {
				t.Errorf("only %d steps", step)
			}
			break
		}
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("step %d: %v: %s", step, err, out)
		}
		converges(t, dir, fmt.Sprintf("killed at step %d", step))
		if t.Failed() {
			return
		}
	}
	converges(t, dir, "not killed")
}

func TestKilledAtAnyTime(t *testing.T) {
	dir := newVictimDir(t)
	for range 25 {
		cmd := victimCommand(dir, 0)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after := time.Duration(rand.IntN(400)) * time.Millisecond
		timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
		cmd.Wait() // killed, or through
		timer.Stop()
		converges(t, dir, fmt.Sprintf("killed after %s", after))
		if t.Failed() {
			return
		}
	}
}
