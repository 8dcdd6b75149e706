package engine_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

const (
	notPermitted = "operation not permitted"
	readOnly     = "Read-only file system"
)

// attackers is a world with the program of testdata/attack in its image.
func attackers(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	build := exec.Command("go", "build", "-o", filepath.Join(w.images.root, "attack"), "./testdata/attack")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return w
}

// TestEscapes tries published ways out of a container, one by one, as its root. Each is stopped by what is said of it.
func TestEscapes(t *testing.T) {
	w := attackers(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}})
	user := w.start(engine.Spec{Command: []string{"sleep", "1000"}, UserNS: "auto"})
	for _, tt := range []struct {
		name, stops string
		attack      string // of the program
		script      string // or of the shell
		want        string // in what it prints
	}{
		{"open_by_handle_at of a disk's root (shocker, 2014)", "seccomp", "open_by_handle_at", "", notPermitted},
		{"the user's keyring", "seccomp", "keyctl", "", notPermitted},
		{"a new key (CVE-2016-0728)", "seccomp", "add_key", "", notPermitted},
		{"asking for a key", "seccomp", "request_key", "", notPermitted},
		{"a program for the kernel (CVE-2021-3490)", "seccomp", "bpf", "", notPermitted},
		{"performance counters", "seccomp", "perf_event_open", "", notPermitted},
		{"page faults of its own (races: CVE-2016-6187)", "seccomp", "userfaultfd", "", notPermitted},
		{"io_uring (CVE-2022-29582)", "seccomp", "io_uring_setup", "", notPermitted},
		{"a kernel module", "seccomp, no CAP_SYS_MODULE", "init_module", "", notPermitted},
		{"a kernel module of a file", "seccomp, no CAP_SYS_MODULE", "finit_module", "", notPermitted},
		{"removing one", "seccomp, no CAP_SYS_MODULE", "delete_module", "", notPermitted},
		{"another kernel", "seccomp, no CAP_SYS_BOOT", "kexec_load", "", notPermitted},
		{"the host's restart", "seccomp, no CAP_SYS_BOOT", "reboot", "", notPermitted},
		{"swap", "seccomp, no CAP_SYS_ADMIN", "swapon", "", notPermitted},
		{"accounting into a file", "seccomp, no CAP_SYS_PACCT", "acct", "", notPermitted},
		{"a mount", "seccomp, no CAP_SYS_ADMIN", "mount", "", notPermitted},
		{"the end of one", "seccomp, no CAP_SYS_ADMIN", "umount2", "", notPermitted},
		{"another root", "seccomp, no CAP_SYS_ADMIN", "pivot_root", "", notPermitted},
		{"others' namespaces", "seccomp, no CAP_SYS_ADMIN", "setns", "", notPermitted},
		{"a copy of a mount", "seccomp, no CAP_SYS_ADMIN", "open_tree", "", notPermitted},
		{"a file system (CVE-2022-0185)", "seccomp, no CAP_SYS_ADMIN", "fsopen", "", notPermitted},
		{"a mount that moves", "seccomp, no CAP_SYS_ADMIN", "move_mount", "", notPermitted},
		{"quotas", "seccomp, no CAP_SYS_ADMIN", "quotactl", "", notPermitted},
		{"the host's clock", "seccomp, no CAP_SYS_TIME", "settimeofday", "", notPermitted},
		{"the kernel's log", "seccomp, no CAP_SYSLOG", "syslog", "", notPermitted},
		{"what goes on in file systems", "seccomp, no CAP_SYS_ADMIN", "fanotify_init", "", notPermitted},
		{"cookies of directories", "seccomp", "lookup_dcookie", "", notPermitted},
		{"an odd personality (CVE-2009-1895)", "seccomp", "personality", "", notPermitted},
		{"user and cgroup namespaces (CVE-2022-0492)", "seccomp", "namespaces", "", notPermitted},
		{"a user namespace by clone", "seccomp", "clone", "", notPermitted},
		{"and by clone3", "seccomp: as if the kernel had none", "clone3", "", "function not implemented"},
		{"the hypervisor's sockets", "seccomp", "socket 40 1 0", "", notPermitted},
		{"packets of the host's links", "a network namespace of its own", "",
			"ls /sys/class/net", "lo\n"},
		{"out of a root by chroot", "pivot_root: there is no other above", "chroot", "", "the same root"},
		{"release_agent (CVE-2022-0492)", "cgroups are mounted read-only", "",
			"for f in /sys/fs/cgroup/*/; do echo x > $f/release_agent && echo done; done", ""},
		{"devices for all", "cgroups are mounted read-only", "",
			"echo 'a *:* rwm' > /sys/fs/cgroup/devices/devices.allow", ""},
		{"core_pattern", "/proc/sys is read-only", "", "echo '|/x' > /proc/sys/kernel/core_pattern", readOnly},
		{"modprobe", "/proc/sys is read-only", "", "echo /x > /proc/sys/kernel/modprobe", ""},
		{"binfmt_misc", "/proc/sys is read-only", "", "echo x > /proc/sys/fs/binfmt_misc/register", ""},
		{"dirty pages of the host", "/proc/sys is read-only", "", "echo 1 > /proc/sys/vm/drop_caches", readOnly},
		{"sysrq", "it is read-only", "", "echo b > /proc/sysrq-trigger", ""},
		{"interrupts", "/proc/irq is read-only", "", "echo 1 > /proc/irq/default_smp_affinity", readOnly},
		{"uevent_helper", "/sys is read-only", "", "echo /x > /sys/kernel/uevent_helper", ""},
		{"a driver's uevent", "/sys is read-only", "", "echo add > /sys/class/mem/null/uevent", readOnly},
		{"pages of the kernel", "/sys is read-only", "", "echo 1 > /sys/kernel/mm/ksm/run", readOnly},
		{"the host's memory", "it is masked", "", "head -c 16 /proc/kcore | wc -c", "0\n"},
		{"keys of others", "they are masked", "", "wc -c < /proc/keys", "0\n"},
		{"firmware", "it is masked", "", "ls /sys/firmware | wc -l", "0\n"},
		{"timers of others", "they are masked", "", "cat /proc/timer_list 2>/dev/null | wc -c", "0\n"},
		{"the disk", "the device cgroup", "", "mknod /tmp/d b 254 0 && head -c 1 /tmp/d", "Operation not permitted"},
		{"the host's kernel messages", "the device cgroup", "", "mknod /tmp/k c 1 11 && head -c 1 /tmp/k",
			"Operation not permitted"},
		{"the memory's device", "the device cgroup", "", "mknod /tmp/m c 1 1 && head -c 1 /tmp/m",
			"Operation not permitted"},
		{"processes of the host", "a PID namespace of its own", "",
			"cat /proc/1/comm", "sleep\n"},
		{"capabilities by inheritance (CVE-2022-24769)", "none is inheritable", "",
			"grep -c '^CapInh:.*[1-9a-f]' /proc/self/status", "0\n"},
		{"descriptors of the host (CVE-2024-21626)", "all are closed", "",
			"ls -l /proc/1/fd /proc/self/fd | grep -c -E ' -> /(sys|proc/[0-9]+/(ns|exe)|run|root|work)'", "0\n"},
		{"netd's socket", "it is not there", "",
			"find / -xdev -type s 2>/dev/null | wc -l; ls /run /var/run 2>/dev/null | grep -c sock", "0\n0\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"/attack"}, strings.Fields(tt.attack)...)
			if tt.script != "" {
				args = sh(tt.script)
			}
			for kind, id := range map[string]string{"as the host's root": c.ID, "as another": user.ID} {
				got := w.exec(id, args...)
				out := got.out + got.err
				if strings.Contains(out, "done\n") || !strings.Contains(out, tt.want) ||
					tt.want == "" && got.Code == 0 {
					if kind == "as another" && got.Code != 0 && !strings.Contains(out, "done\n") {
						continue // a user namespace stops many before what is said of them does
					}
					t.Errorf("%s: %s did not stop it: code %d, %q", kind, tt.stops, got.Code, out)
				}
			}
		})
	}
}

// A container that has itself run as its own supervisor's program cannot write that (CVE-2019-5736): what it gets hold
// of is a sealed copy.
func TestTheRuntimeCannotBeOverwritten(t *testing.T) {
	w := attackers(t)
	program, err := os.ReadFile(filepath.Join(w.images.root, "attack"))
	if err != nil {
		t.Fatal(err)
	}
	// Where the program that is attacked looks for its loader there is the attack.
	loaders := []string{"lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1"}
	for _, loader := range loaders {
		path := filepath.Join(w.images.root, loader)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	evil := filepath.Join(w.images.root, "evil")
	if err := os.WriteFile(evil, []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	digest := func() [32]byte {
		b, err := os.ReadFile(shimtest.Binary(t))
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(b)
	}
	before := digest()
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}})
	for name, got := range map[string]result{
		"exec":          w.exec(c.ID, "/evil"),
		"first process": w.mustRun(engine.Spec{Command: []string{"/evil"}, Remove: true}, ""),
	} {
		if !strings.HasPrefix(got.out, "held, ") || strings.Contains(got.out, "written") {
			t.Errorf("%s: it says %q %q", name, got.out, got.err)
		}
	}
	if digest() != before {
		t.Error("net-shim was overwritten")
	}
}

// A working directory among the descriptors of the runtime leads nowhere (CVE-2024-21626).
func TestWorkingDirectoryInTheRuntime(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}})
	for fd := range 24 {
		for _, dir := range []string{fmt.Sprintf("/proc/self/fd/%d", fd), fmt.Sprintf("/proc/1/fd/%d", fd)} {
			up := strings.Repeat("../", 20) + w.dir
			got, err := w.run(engine.Spec{Command: []string{"ls", up}, WorkDir: dir, Remove: true}, "")
			if err == nil && got.Code == 0 {
				t.Fatalf("from %s it sees the host: %q", dir, got.out)
			}
		}
	}
	got := w.exec(c.ID, "ls", "-l", "/proc/self/fd")
	for line := range strings.Lines(got.out) {
		_, target, ok := strings.Cut(strings.TrimSpace(line), " -> ")
		if ok && !strings.HasPrefix(target, "pipe:") && !strings.HasPrefix(target, "/dev/null") &&
			!strings.HasPrefix(target, "/proc/") {
			t.Errorf("a further command has %s", line)
		}
	}
}

// What an image or a volume has in the place of /proc, of what is masked, or on the way of a mount leads nowhere else.
func TestMountsAreNotLedAstray(t *testing.T) {
	w := newWorld(t)
	source := t.TempDir()
	for _, target := range []string{"/proc", "/proc/self", "/proc/sys/kernel", "/mine/../proc"} {
		c := w.create(engine.Spec{Command: []string{"true"}, Mounts: []engine.Mount{{Source: source, Target: target}}})
		if err := w.e.Start(t.Context(), c.ID); err == nil {
			t.Errorf("a volume at %s hides what is masked there", target)
		}
	}
	// CVE-2021-30465, CVE-2019-16884: links in the image.
	outside := filepath.Join(w.dir, "outside")
	if err := os.Mkdir(outside, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(strings.Repeat("../", 20)+outside, filepath.Join(w.images.root, "led")); err != nil {
		t.Fatal(err)
	}
	got := w.mustRun(engine.Spec{Command: sh("touch /led/deep/file; ls " + outside + "/deep"), Remove: true,
		Mounts: []engine.Mount{{Source: source, Target: "/led/deep"}}}, "")
	if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 || got.out != "file\n" {
		t.Errorf("the host's directory has %v, %v; inside %+v", entries, err, got)
	}
	for _, name := range []string{"proc", "sys", "dev"} {
		path := filepath.Join(w.images.root, name)
		if err := errors.Join(os.Remove(path), os.Symlink(outside, path)); err != nil {
			t.Fatal(err)
		}
		c := w.create(engine.Spec{Command: sh("wc -c < /proc/keys; head -c 16 /proc/kcore 2>/dev/null | wc -c")})
		if _, err := w.e.Attach(t.Context(), c.ID, true, engine.Stdio{}); err == nil && w.logs(c.ID) != "0\n0\n" {
			t.Errorf("with a link at /%s: %q", name, w.logs(c.ID))
		}
		if entries, err := os.ReadDir(outside); err != nil || len(entries) > 0 {
			t.Errorf("with a link at /%s the host's directory has %v, %v", name, entries, err)
		}
		if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o755)); err != nil {
			t.Fatal(err)
		}
	}
}

// With the host's processes or network, those are seen, and not more than that.
func TestWhatTheHostsNamespacesGive(t *testing.T) {
	w := attackers(t)
	self := fmt.Sprint(os.Getpid())
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, PidMode: "host",
		Networks: []cnm.AttachRequest{{Network: "host"}}})
	supervisor := fmt.Sprint(shimPid(t, w.inspect(c.ID)))
	for _, pid := range []string{self, supervisor} {
		if got := w.exec(c.ID, "/attack", "ptrace", pid); got.out != notPermitted+"\n" {
			t.Errorf("ptrace: %+v", got)
		}
		if got := w.exec(c.ID, "/attack", "memory", pid); got.out != "permission denied\n" {
			t.Errorf("memory: %+v", got)
		}
		for _, file := range []string{"root/etc/passwd", "cwd/.", "environ", "fd/0", "maps", "exe"} {
			if got := w.exec(c.ID, "cat", "/proc/"+pid+"/"+file); got.Code == 0 || got.out != "" {
				t.Errorf("%s of a process of the host: %q", file, got.out)
			}
		}
	}
	// CVE-2020-15257: sockets without a path are reached by all with the network.
	got := w.exec(c.ID, "sh", "-c", "cat /proc/net/unix")
	for line := range strings.Lines(got.out) {
		if fields := strings.Fields(line); len(fields) > 7 && strings.HasPrefix(fields[7], "@") &&
			(strings.Contains(fields[7], "vethloom") || strings.Contains(fields[7], "shim")) {
			t.Errorf("a socket that it reaches: %s", line)
		}
	}
	if got.Code != 0 || !strings.Contains(got.out, "shim.sock") {
		t.Errorf("it sees no sockets at all: %+v", got)
	}
	if got := w.exec(c.ID, "ls", w.dir); got.Code == 0 {
		t.Errorf("it sees netd's files: %q", got.out)
	}
}

// A privilege that a program of the image would give is not given where that was asked for.
func TestNoNewPrivilegesHoldsSetUserIDPrograms(t *testing.T) {
	w := attackers(t)
	if err := os.Chmod(filepath.Join(w.images.root, "attack"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	for want, o := range map[string]engine.Options{"user 0\n": {}, "user 1000\n": {NoNewPrivs: true}} {
		got := w.mustRun(engine.Spec{Command: []string{"/attack", "identity"}, User: "1000", Remove: true,
			Options: o}, "")
		if got.out != want {
			t.Errorf("no new privileges %t: %q %q, want %q", o.NoNewPrivs, got.out, got.err, want)
		}
	}
}
