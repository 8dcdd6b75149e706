package engine_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

func shellCheck(line string) *engine.Healthcheck {
	return &engine.Healthcheck{Test: []string{"CMD-SHELL", line}, Interval: 50 * time.Millisecond, Retries: 2}
}

func (w *world) health(ref, want string) engine.Health {
	w.t.Helper()
	var h engine.Health
	await.True(w.t, ref+" is "+want, func() bool {
		got := w.inspect(ref).Health
		if got == nil {
			return false
		}
		h = *got
		return h.Status == want
	})
	return h
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	sleep := []string{"sleep", "1000"}
	w.start(engine.Spec{Name: "c", Command: sleep, Health: shellCheck("echo look; test -e /tmp/ok || exit 7")})
	w.start(engine.Spec{Name: "none", Command: sleep, Health: &engine.Healthcheck{Test: []string{"NONE"}}})
	slow := shellCheck("echo before; sleep 1000")
	slow.Timeout = 100 * time.Millisecond
	w.start(engine.Spec{Name: "slow", Command: sleep, Health: slow})
	early := shellCheck("exit 1")
	early.StartPeriod, early.StartInterval = time.Hour, 20*time.Millisecond
	w.start(engine.Spec{Name: "early", Command: sleep, Health: early})
	loud := shellCheck("yes | head -c 100000")
	w.start(engine.Spec{Name: "loud", Command: sleep, Health: loud})

	h := w.health("c", engine.HealthUnhealthy)
	if last := h.Log[len(h.Log)-1]; h.Failing < 2 || last.ExitCode != 7 || last.Output != "look\n" {
		t.Errorf("%+v", h)
	}
	w.exec("c", "touch", "/tmp/ok")
	if h = w.health("c", engine.HealthGood); h.Failing != 0 {
		t.Errorf("%+v", h)
	}
	if h = w.health("loud", engine.HealthGood); len(h.Log[0].Output) != 4096 {
		t.Errorf("%d bytes are kept", len(h.Log[0].Output))
	}
	h = w.health("slow", engine.HealthUnhealthy)
	if h.Log[0].ExitCode != -1 || !strings.Contains(h.Log[0].Output, "exceeded timeout (100ms)") {
		t.Errorf("%+v", h.Log[0])
	}
	await.True(t, "five are kept", func() bool { return len(w.inspect("early").Health.Log) == 5 })
	if h := w.health("early", engine.HealthStarting); h.Failing != 0 {
		t.Errorf("early: %+v", h)
	}
	if c := w.inspect("none"); c.Health != nil {
		t.Errorf("none: %+v", c.Health)
	}

	if err := w.e.Pause(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	before := w.inspect("c").Health
	seen := time.Now()
	await.True(t, "the others are looked at meanwhile", func() bool {
		log := w.inspect("loud").Health.Log
		return log[0].Start.After(seen)
	})
	if after := w.inspect("c").Health; len(after.Log) != len(before.Log) ||
		!slices.EqualFunc(after.Log, before.Log, func(a, b engine.HealthProbe) bool { return a.Start.Equal(b.Start) }) {
		t.Errorf("paused: %+v, before: %+v", after, before)
	}
	if err := w.e.Unpause(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if got := w.inspect("c").Health; got == nil || got.Status != engine.HealthGood {
		t.Errorf("after a restart of netd: %+v", got)
	}
	w.exec("c", "rm", "/tmp/ok")
	w.health("c", engine.HealthUnhealthy)
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.events, "health_status: healthy") || !slices.Contains(w.events, "health_status: unhealthy") {
		t.Errorf("events: %v", w.events)
	}
}

// However often a container is looked at, who lost the connection to a command of his learns how it ended.
func TestChecksPushOutNoCommand(t *testing.T) {
	w := newWorld(t)
	check := shellCheck("true")
	check.Interval = 5 * time.Millisecond
	c := w.start(engine.Spec{Name: "c", Command: []string{"sleep", "1000"}, Health: check})
	client := shim.Client{Dir: filepath.Join(w.dir, "run/containers", c.ID)}
	stream, err := client.Exec(t.Context(), "his", shim.Process{Args: sh("exit 5")}, false)
	if err != nil {
		t.Fatal(err)
	}
	stream.Close()
	var last time.Time
	for range 12 { // more than are kept
		await.True(t, "it is looked at again", func() bool {
			h := w.inspect("c").Health
			if len(h.Log) == 0 || !h.Log[len(h.Log)-1].Start.After(last) {
				return false
			}
			last = h.Log[len(h.Log)-1].Start
			return true
		})
	}
	if stream, err = client.Rejoin(t.Context(), "his", false, [2]int64{}, shim.Size{}); err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("output: %v", err)
	}
	if exit, ok := stream.Exit(); !ok || exit.Code != 5 {
		t.Errorf("its end: %+v, %t", exit, ok)
	}
}

func TestHealthOverRestarts(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "c", Command: []string{"sleep", "1000"}, Restart: policy(engine.RestartAlways),
		Health: shellCheck("true")})
	w.health("c", engine.HealthGood)
	if err := syscall.Kill(shimPid(t, c), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := w.again("c", 1)
	await.True(t, "the new run is looked at", func() bool {
		h := w.inspect("c").Health
		return h.Status == engine.HealthGood && h.Log[0].Start.After(again.Started)
	})
}

func TestHealthchecksThatCannotBe(t *testing.T) {
	w := newWorld(t)
	for want, h := range map[string]engine.Healthcheck{
		"Interval":           {Interval: time.Microsecond},
		"Retries":            {Retries: -1},
		"not a health check": {Test: []string{"SHELL", "true"}},
	} {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Health: &h})
		if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// The check of a container without one is its image's, also for the next netd; it may go without.
func TestHealthOfTheImage(t *testing.T) {
	w := newWorld(t)
	sleep := []string{"sleep", "1000"}
	w.images.health = []byte(`{"Test":["CMD-SHELL","test -e /tmp/ok || exit 7"],"Interval":50000000,"Retries":2}`)
	w.start(engine.Spec{Name: "c", Command: sleep})
	w.start(engine.Spec{Name: "other", Command: sleep, Health: shellCheck("true")})
	w.start(engine.Spec{Name: "none", Command: sleep, Health: &engine.Healthcheck{Test: []string{"NONE"}}})
	h := w.health("c", engine.HealthUnhealthy)
	if last := h.Log[len(h.Log)-1]; last.ExitCode != 7 || h.Failing < 2 {
		t.Errorf("%+v", h)
	}
	w.health("other", engine.HealthGood)
	w.restart()
	w.exec("c", "touch", "/tmp/ok")
	w.health("c", engine.HealthGood)
	if c := w.inspect("none"); c.Health != nil {
		t.Errorf("none: %+v", c.Health)
	}
}

func (w *world) pidsMax(c engine.Container) string {
	w.t.Helper()
	return pidsMax(w.t, w.cgroup, c.ID)
}

func pidsMax(t testing.TB, cgroup, id string) string {
	t.Helper()
	for _, p := range []string{"pids", ""} {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", p, cgroup, id, "pids.max"))
		if err == nil {
			return strings.TrimSpace(string(b))
		}
	}
	t.Fatal("no pids.max")
	return ""
}

func TestUpdate(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "c", Command: []string{"sleep", "1000"}})
	update := func(u engine.Update) {
		t.Helper()
		if _, err := w.e.Update(t.Context(), "c", u); err != nil {
			t.Fatal(err)
		}
	}
	update(engine.Update{Resources: engine.Resources{PidsLimit: 77, NanoCPUs: 5e8}})
	if got := w.pidsMax(c); got != "77" {
		t.Errorf("pids.max: %s", got)
	}
	if _, err := w.e.Update(t.Context(), "c", engine.Update{Resources: engine.Resources{Memory: 1}}); !errors.Is(err,
		cnm.ErrInvalid) {
		t.Errorf("one byte of memory: %v", err)
	}
	update(engine.Update{Resources: engine.Resources{PidsLimit: -1}, Restart: new(policy(engine.RestartAlways))})
	if got := w.pidsMax(c); got != "max" {
		t.Errorf("pids.max: %s", got)
	}
	// Devices are as they were: those that it has, and one that it may make and not open.
	r := w.exec("c", sh("head -c 1 /dev/zero >/dev/null && mknod /tmp/kmsg c 1 11 && ! (: </tmp/kmsg)")...)
	if r.Code != 0 || !strings.Contains(r.err, "not permitted") {
		t.Errorf("exec: %+v", r)
	}
	if err := syscall.Kill(c.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := w.again("c", 1); got.Spec.PidsLimit != -1 || got.Spec.NanoCPUs != 5e8 {
		t.Errorf("%+v", got.Spec.Resources)
	}
	if err := w.e.Kill(t.Context(), "c", ""); err != nil {
		t.Fatal(err)
	}
	w.becomes("c", engine.Exited)
	update(engine.Update{Resources: engine.Resources{PidsLimit: 55}})
	if err := w.e.Start(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if got := w.pidsMax(c); got != "55" {
		t.Errorf("pids.max after a start: %s", got)
	}
	if err := (shim.Client{Dir: filepath.Join(w.dir, "run/containers", c.ID)}).Update(t.Context(),
		engine.Resources{PidsLimit: 44}); err != nil {
		t.Fatal(err)
	}
	if got := w.pidsMax(c); got != "44" {
		t.Errorf("pids.max by the supervisor: %s", got)
	}
}

// A netd that was killed after it had written an update down leaves it to the next one. TestKilledAtEveryStep does it
// with a kill.
func TestUpdateIsCaughtUp(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "c", Command: []string{"sleep", "1000"},
		Options: engine.Options{Resources: engine.Resources{PidsLimit: 77}}})
	if err := w.e.Close(); err != nil {
		t.Fatal(err)
	}
	w.rewrite(c.ID, `"pidsLimit":77`, `"pidsLimit":66`)
	w.rewrite(c.ID, `"phase":`, `"updating":true,"phase":`)
	w.open()
	if got := w.pidsMax(c); got != "66" {
		t.Errorf("pids.max: %s", got)
	}
	r, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindContainer, ID: c.ID})
	if err != nil || strings.Contains(string(r.Value), "updating") {
		t.Errorf("the record is %s, %v", r.Value, err)
	}
}

// rewrite changes a record as another netd would have written it.
func (w *world) rewrite(id, from, to string) {
	w.t.Helper()
	r, err := w.store.Get(w.t.Context(), cnm.Key{Kind: cnm.KindContainer, ID: id})
	if err != nil || strings.Count(string(r.Value), from) != 1 {
		w.t.Fatalf("%q in %s, %v", from, r.Value, err)
	}
	value := []byte(strings.Replace(string(r.Value), from, to, 1))
	if err := w.store.Commit(w.t.Context(), cnm.Write{Key: r.Key, Value: value, Revision: r.Revision}); err != nil {
		w.t.Fatal(err)
	}
}

func TestPruneContainers(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "runs", Command: []string{"sleep", "1000"}})
	w.mustRun(engine.Spec{Name: "kept", Command: []string{"true"}}, "")
	w.mustRun(engine.Spec{Name: "due", Command: sh("dd if=/dev/zero of=/big bs=1M count=2")}, "")
	due := func(c engine.Container) bool { return c.Spec.Name != "kept" }
	ids, reclaimed, err := w.e.PruneContainers(t.Context(), due)
	if err != nil || len(ids) != 1 || reclaimed < 2<<20 {
		t.Errorf("%v, %d, %v", ids, reclaimed, err)
	}
	if list, err := w.e.List(t.Context(), true); err != nil || len(list) != 2 {
		t.Errorf("%d are left, %v", len(list), err)
	}
}

func (n *networks) Rename(_ context.Context, _, name string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls = append(n.calls, "rename "+name)
	return n.fail
}

func TestRename(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Name: "old", Command: []string{"sleep", "1000"}})
	w.create(engine.Spec{Name: "taken"})
	if err := w.e.Rename(t.Context(), "old", "taken"); !errors.Is(err, cnm.ErrExists) {
		t.Errorf("a name that is taken: %v", err)
	}
	if err := w.e.Rename(t.Context(), "old", "a name"); !errors.Is(err, cnm.ErrInvalid) {
		t.Errorf("no name: %v", err)
	}
	refuse := func(err error) {
		w.nets.mu.Lock()
		defer w.nets.mu.Unlock()
		w.nets.fail = err
	}
	refuse(errors.New("no network today"))
	if err := w.e.Rename(t.Context(), "old", "new"); err == nil {
		t.Error("it was renamed without its networks")
	}
	refuse(nil)
	if got := w.inspect("old"); got.ID != c.ID || got.Spec.Name != "old" {
		t.Errorf("after one that failed: %+v", got.Spec.Name)
	}
	if err := w.e.Rename(t.Context(), "old", "new"); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if got := w.inspect("new"); got.ID != c.ID || got.Spec.Name != "new" {
		t.Errorf("renamed: %+v", got)
	}
	if _, err := w.e.Inspect(t.Context(), "old"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("by the old name: %v", err)
	}
	w.create(engine.Spec{Name: "old"})
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(w.events, "rename") {
		t.Errorf("events: %v", w.events)
	}
}
