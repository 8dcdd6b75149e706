package engine_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

func TestCgroupParent(t *testing.T) {
	w := newWorld(t)
	absolute := w.cgroup + "-apart/deep"
	t.Cleanup(func() {
		if err := shim.RemoveCgroup(w.cgroup + "-apart"); err != nil {
			t.Error(err)
		}
	})
	for wish, dir := range map[string]string{"team/a": w.cgroup + "/team/a", absolute: absolute} {
		c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, CgroupParent: wish})
		cgroup := dir + "/" + c.ID
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", c.Pid))
		if err != nil || !strings.Contains(string(text), ":"+cgroup+"\n") {
			t.Errorf("%s: it is in %s, %v", wish, text, err)
		}
		// What a supervisor leaves that dies is found there too.
		if err := syscall.Kill(shimPid(t, c), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		await.True(t, "it has ended", func() bool { return w.inspect(c.ID).Status == engine.Exited })
		if left := cgroupsOf(cgroup); len(left) > 0 {
			t.Errorf("%s: left are %v", wish, left)
		}
	}
}

// A container whose record is gone is found by what its run directory says of its cgroup.
func TestCgroupParentWithoutARecord(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, CgroupParent: "team", PidMode: "host",
		Networks: []cnm.AttachRequest{{Network: "host"}}})
	pid := shimPid(t, c)
	if err := w.e.Close(); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	r, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindContainer, ID: c.ID})
	if err == nil {
		err = w.store.Commit(t.Context(), cnm.Write{Key: r.Key, Revision: r.Revision}) // without a value: it goes
	}
	if err != nil {
		t.Fatal(err)
	}
	gone(t, pid)
	w.open()
	if left := cgroupsOf(w.cgroup + "/team/" + c.ID); len(left) > 0 {
		t.Errorf("left are %v", left)
	}
	if err := os.RemoveAll(w.dir + "/root/containers/" + c.ID); err != nil {
		t.Error(err)
	}
	if err := w.snaps.Remove(t.Context(), c.ID); err != nil {
		t.Error(err)
	}
}

func TestCgroupParentsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	other := w.create(engine.Spec{})
	for _, wish := range []string{other.ID, "/a/" + other.ID + "/b", "/", "//", "..", "/a/../..",
		"a/../../b", "/a/./b", "a//b", "/cgroup.procs", "cgroup.procs/x", "/tasks/x", strings.Repeat("x", 256),
		strings.Repeat("x/", 600), "a\nb"} {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", CgroupParent: wish})
		told, ok := errors.AsType[*cnm.Error](err)
		if wish == "cgroup.procs/x" { // netd's own cgroup is not there before its first container is
			if err != nil {
				t.Errorf("%s: %v", wish, err)
			}
			continue
		}
		if !ok || told.Field != "cgroup-parent" || told.Remedy == "" {
			t.Errorf("%q: %v", wish, err)
		}
	}
}
