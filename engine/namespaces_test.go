package engine_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/await"
)

func namespaceOf(t *testing.T, pid int, kind string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestWhoseNamespaces(t *testing.T) {
	w := newWorld(t)
	sleep := []string{"sleep", "1000"}
	donor := w.start(engine.Spec{Name: "donor", Command: sleep, IpcMode: "shareable", Options: engine.Options{
		ShmSize: 4 << 20}})
	self := os.Getpid()
	kinds := []string{"pid", "ipc", "uts", "cgroup"}
	for name, tt := range map[string]struct {
		spec   engine.Spec
		shared map[string]int // with whom, by kind
	}{
		"of its own": {engine.Spec{}, nil},
		"said": {engine.Spec{PidMode: "private", IpcMode: "private", UTSMode: "private", CgroupNSMode: "private"},
			nil},
		"none": {engine.Spec{IpcMode: "none"}, nil},
		"the host's": {engine.Spec{PidMode: "host", IpcMode: "host", UTSMode: "host", CgroupNSMode: "host"},
			map[string]int{"pid": self, "ipc": self, "uts": self, "cgroup": self}},
		"another's": {engine.Spec{PidMode: "container:donor", IpcMode: "container:" + donor.ID[:12]},
			map[string]int{"pid": donor.Pid, "ipc": donor.Pid}},
		"its own users'": {engine.Spec{UserNS: "auto", CgroupNSMode: "host"}, map[string]int{"cgroup": self}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.spec.Command = sleep
			c := w.start(tt.spec)
			for _, kind := range kinds {
				got, with := namespaceOf(t, c.Pid, kind), self
				if tt.shared[kind] != 0 {
					with = tt.shared[kind]
				}
				if shared := got == namespaceOf(t, with, kind); shared != (tt.shared[kind] != 0) {
					t.Errorf("%s: %s is shared with %d: %t", name, kind, with, shared)
				}
				if in := w.exec(c.ID, "readlink", "/proc/self/ns/"+kind); strings.TrimSpace(in.out) != got {
					t.Errorf("a further command's %s is %+v, the first one's %s", kind, in, got)
				}
			}
		})
	}
}

func TestSharedMemoryIsShared(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "donor", Command: sh("echo there > /dev/shm/f; sleep 1000"), IpcMode: "shareable",
		Options: engine.Options{ShmSize: 4 << 20}})
	got := w.mustRun(engine.Spec{Command: sh("cat /dev/shm/f; df -k /dev/shm | tail -n 1 | awk '{print $2}'; " +
		"echo back > /dev/shm/g"), IpcMode: "container:donor", Remove: true}, "")
	if got.out != "there\n4096\n" {
		t.Errorf("%+v", got)
	}
	if got := w.exec("donor", "cat", "/dev/shm/g"); got.out != "back\n" {
		t.Errorf("the other way: %+v", got)
	}
	if got := w.mustRun(engine.Spec{Command: sh("grep -c /dev/shm /proc/mounts"), IpcMode: "none", Remove: true},
		""); got.out != "0\n" {
		t.Errorf("none: %+v", got)
	}
	mark := filepath.Join("/dev/shm", filepath.Base(w.dir)+fmt.Sprint(os.Getpid()))
	got = w.mustRun(engine.Spec{Command: []string{"touch", mark}, IpcMode: "host", Remove: true}, "")
	if got.Code != 0 {
		t.Errorf("the host's: %+v", got)
	}
	if err := os.Remove(mark); err != nil {
		t.Errorf("what it wrote into the host's: %v", err)
	}
}

// A donor that puts a link in the place of its /dev/shm shares nothing else with that.
func TestALinkForSharedMemoryIsNotFollowed(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "donor", Command: sh("umount /dev/shm && rmdir /dev/shm && ln -s / /dev/shm && " +
		"echo done > /done; sleep 1000"), IpcMode: "shareable", Options: engine.Options{Privileged: true}})
	await.True(t, "the donor has its link", func() bool { return w.exec("donor", "cat", "/done").out == "done\n" })
	c := w.create(engine.Spec{Command: sh("ls /dev/shm"), IpcMode: "container:donor"})
	_, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{})
	if logs := w.logs(c.ID); err == nil && logs != "" {
		t.Errorf("it has %q", logs)
	}
}

func TestHostname(t *testing.T) {
	w := newWorld(t)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	got := w.mustRun(engine.Spec{Command: sh("hostname; cat /etc/hostname; echo $HOSTNAME"), UTSMode: "host",
		Remove: true}, "")
	if got.out != host+"\n"+host+"\n"+host+"\n" {
		t.Errorf("%+v", got)
	}
}

// running lists processes with an argument that only this test's have.
func running(mark string) []string {
	var out []string
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && bytes.Contains(b, []byte(mark)) &&
			!bytes.Contains(b, []byte("setsid")) {
			out = append(out, l)
		}
	}
	return out
}

// Where a container's processes are not in a PID namespace of its own, they end with it all the same.
func TestNothingOutlivesASharedPIDNamespace(t *testing.T) {
	w := newWorld(t)
	w.start(engine.Spec{Name: "donor", Command: []string{"sleep", "1000"}})
	mark := fmt.Sprintf("77%d.5", os.Getpid())
	script := sh("setsid sleep " + mark + " & (setsid sleep " + mark + " &); trap 'exit 3' TERM; echo up; " +
		"while true; do wait; sleep 0.05; done")
	for _, mode := range []string{"host", "container:donor"} {
		for name, end := range map[string]func(c engine.Container){
			"exit": func(c engine.Container) {
				if err := w.e.Stop(t.Context(), c.ID, engine.StopOptions{}); err != nil {
					t.Error(err)
				}
			},
			"kill": func(c engine.Container) {
				if err := w.e.Kill(t.Context(), c.ID, "KILL"); err != nil {
					t.Error(err)
				}
			},
			"supervisor killed": func(c engine.Container) {
				if err := unix.Kill(shimPid(t, c), unix.SIGKILL); err != nil {
					t.Error(err)
				}
			},
			"supervisor killed while netd is away": func(c engine.Container) {
				pid := shimPid(t, c)
				if err := w.e.Close(); err != nil {
					t.Fatal(err)
				}
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Error(err)
				}
				w.open()
			},
			"removed": func(c engine.Container) {
				if _, err := w.e.Remove(t.Context(), c.ID, true, false); err != nil {
					t.Error(err)
				}
			},
		} {
			t.Run(mode+" "+name, func(t *testing.T) {
				c := w.start(engine.Spec{Command: script, PidMode: mode})
				await.True(t, "its processes run", func() bool { return len(running(mark)) == 2 })
				end(c)
				await.True(t, "all of them ended", func() bool { return len(running(mark)) == 0 })
				await.True(t, "it is known to have ended", func() bool {
					got, err := w.e.Inspect(t.Context(), c.ID)
					return errors.Is(err, cnm.ErrNotFound) || err == nil && got.Status == engine.Exited
				})
				if left := cgroupsOf(w.cgroup + "/" + c.ID); len(left) > 0 && name != "removed" {
					t.Errorf("cgroups %v", left)
				}
			})
		}
	}
	if got := w.inspect("donor"); got.Status != engine.Running {
		t.Errorf("the donor: %+v", got)
	}
}

func TestTheDonorEnds(t *testing.T) {
	w := newWorld(t)
	donor := w.start(engine.Spec{Name: "donor", Command: []string{"sleep", "1000"}, IpcMode: "shareable"})
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, PidMode: "container:donor",
		IpcMode: "container:donor"})
	if err := w.e.Kill(t.Context(), donor.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	await.True(t, "it ends with the donor", func() bool { return w.inspect(c.ID).Status == engine.Exited })
	if got := w.inspect(c.ID); got.ExitCode != 137 {
		t.Errorf("%+v", got)
	}
	err := w.e.Start(t.Context(), c.ID)
	if told, ok := errors.AsType[*cnm.Error](err); !ok || !errors.Is(err, engine.ErrNotRunning) || told.Remedy == "" {
		t.Errorf("a start without its donor: %v", err)
	}
	if err := w.e.Start(t.Context(), donor.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.e.Start(t.Context(), c.ID); err != nil {
		t.Errorf("and with it: %v", err)
	}
}

func TestNamespacesThatAreRefused(t *testing.T) {
	w := newWorld(t)
	w.create(engine.Spec{Name: "selfish"})
	shm := engine.Options{ShmSize: 1 << 20}
	for _, tt := range []struct {
		field string
		spec  engine.Spec
	}{
		{"pid", engine.Spec{PidMode: "mine"}}, {"pid", engine.Spec{PidMode: "container:"}},
		{"ipc", engine.Spec{IpcMode: "mine"}}, {"ipc", engine.Spec{IpcMode: "container:selfish"}},
		{"uts", engine.Spec{UTSMode: "container:selfish"}}, {"cgroupns", engine.Spec{CgroupNSMode: "none"}},
		{"hostname", engine.Spec{UTSMode: "host", Hostname: "x"}},
		{"domainname", engine.Spec{UTSMode: "host", Options: engine.Options{Domainname: "x"}}},
		{"sysctl", engine.Spec{IpcMode: "host", Options: sysctls("kernel.msgmax", "9000")}},
		{"sysctl", engine.Spec{IpcMode: "container:selfish", Options: sysctls("fs.mqueue.msg_max", "17")}},
		{"shm-size", engine.Spec{IpcMode: "host", Options: shm}},
		{"pid", engine.Spec{PidMode: "host", UserNS: "auto"}}, {"ipc", engine.Spec{IpcMode: "host", UserNS: "auto"}},
		{"uts", engine.Spec{UTSMode: "host", UserNS: "auto"}},
	} {
		tt.spec.Image = "busybox"
		_, _, err := w.e.Create(t.Context(), tt.spec)
		told, ok := errors.AsType[*cnm.Error](err)
		if !ok || told.Field != tt.field || told.Kind != cnm.ErrInvalid || told.Remedy == "" {
			t.Errorf("%+v: %v", tt.spec, err)
		}
	}
	_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", PidMode: "container:nobody"})
	if !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a container that there is not: %v", err)
	}
}
