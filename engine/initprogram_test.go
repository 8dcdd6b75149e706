package engine_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/internal/await"
)

func TestAnInitReapsWhatIsLeft(t *testing.T) {
	w := newWorld(t)
	// The shell leaves a child behind that ends; without an init, sleep is its parent and never asks.
	script := sh("(sleep 0.01 &); exec sleep 1000")
	sleeps := func(c engine.Container) string { // the states of all that are left
		return w.exec(c.ID, "sh", "-c", "cat /proc/[0-9]*/stat | awk '$2 == \"(sleep)\" { print $3 }' | sort").out
	}
	plain := w.start(engine.Spec{Command: script})
	await.Value(t, "the short one is a zombie", "S\nZ\n", func() string { return sleeps(plain) })
	c := w.start(engine.Spec{Command: script, Init: true, Options: engine.Options{ReadOnly: true}})
	await.Value(t, "the short one is gone", "S\n", func() string { return sleeps(c) })
	want := strings.Join(append([]string{"/sbin/docker-init", "--"}, script...), "\x00") + "\x00"
	if got := w.exec(c.ID, "cat", "/proc/1/cmdline"); got.out != want {
		t.Errorf("first process %q", got.out)
	}
	if got := w.exec(c.ID, "sh", "-c", "echo > /sbin/docker-init"); got.Code == 0 {
		t.Error("it wrote into the host's init")
	}
	if err := w.e.Stop(t.Context(), c.ID, engine.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.inspect(c.ID); got.ExitCode != 143 { // the init hands the signal on
		t.Errorf("%+v", got)
	}
}

func TestAnInitWithUsersOfItsOwn(t *testing.T) {
	w := newWorld(t)
	script := "cat /proc/1/comm; id -u; ulimit -n; df -k /dev/shm | grep -c 4096; head -c 3 /dev/mine | wc -c"
	got := w.mustRun(engine.Spec{Command: sh(script), Init: true, UserNS: "auto", Remove: true, Options: engine.Options{
		ShmSize: 4 << 20, Ulimits: []shim.Ulimit{{Name: "nofile", Soft: 99, Hard: 99}},
		Devices: []shim.Device{{Source: "/dev/zero", Target: "/dev/mine"}}}}, "")
	if got.out != "docker-init\n0\n99\n1\n3\n" || got.Code != 0 {
		t.Errorf("%+v", got)
	}
}

func TestNoInitOnTheHost(t *testing.T) {
	w := newWorld(t)
	dynamic, err := os.ReadFile("/usr/bin/env")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"none": nil, "dynamic": dynamic, "a script": []byte("#!/bin/sh\n")} {
		dir := t.TempDir()
		if text != nil {
			if err := os.WriteFile(filepath.Join(dir, "tini"), text, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		t.Setenv("PATH", dir)
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Init: true})
		told, ok := errors.AsType[*cnm.Error](err)
		if !ok || told.Field != "init" || !strings.Contains(told.Remedy, "install") ||
			strings.Contains(told.Reason, dir) != (text != nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAnInitWithAnothersProcesses(t *testing.T) {
	w := newWorld(t)
	made, warnings, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Init: true, PidMode: "host",
		Command: []string{"sleep", "1000"}, Networks: []cnm.AttachRequest{{Network: "none"}}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "init") {
		t.Fatalf("%q, %v", warnings, err)
	}
	if err := w.e.Start(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.exec(made.ID, "ls", "/sbin/docker-init"); got.Code == 0 {
		t.Error("it has an init all the same")
	}
}
