package engine_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
)

func TestUlimits(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Options: engine.Options{Ulimits: []shim.Ulimit{
		{Name: "nofile", Soft: 100, Hard: 200}, {Name: "core", Soft: 0, Hard: -1},
		{Name: "nproc", Soft: 50, Hard: 50}}}})
	got := w.exec(c.ID, "sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc")
	if got.out != "100\n200\n0\nunlimited\n" {
		t.Errorf("inside: %+v", got)
	}
	for kind, want := range map[int]unix.Rlimit{unix.RLIMIT_NOFILE: {Cur: 100, Max: 200},
		unix.RLIMIT_NPROC: {Cur: 50, Max: 50}} {
		var limit unix.Rlimit
		if err := unix.Prlimit(c.Pid, kind, nil, &limit); err != nil || limit != want {
			t.Errorf("limit %d: the kernel has %+v, %v", kind, limit, err)
		}
	}
}

func TestWhatProcessesGet(t *testing.T) {
	w := newWorld(t)
	for name, tt := range map[string]struct {
		spec         engine.Spec
		script, want string
	}{
		"shared memory": {engine.Spec{Options: engine.Options{ShmSize: 8 << 20}},
			"df -k /dev/shm | tail -n 1 | awk '{print $2}'", "8192"},
		"shared memory as usual": {engine.Spec{}, "df -k /dev/shm | tail -n 1 | awk '{print $2}'", "65536"},
		"score for memory": {engine.Spec{Options: engine.Options{OOMScoreAdj: 321}},
			"cat /proc/1/oom_score_adj", "321"},
		"groups": {engine.Spec{Options: engine.Options{Groups: []string{"lamps", "77", "77"}}}, "id -G",
			"0 77 2000"},
		"groups of a user": {engine.Spec{User: "1000", Options: engine.Options{Groups: []string{"77"}}}, "id -G",
			"1000 77 2000"},
		"domain": {engine.Spec{Options: engine.Options{Domainname: "example.org"}},
			"cat /proc/sys/kernel/domainname", "example.org"},
		"domain with users of its own": {engine.Spec{UserNS: "auto", Options: engine.Options{Domainname: "a.b"}},
			"cat /proc/sys/kernel/domainname", "a.b"},
		"no new privileges": {engine.Spec{Options: engine.Options{NoNewPrivs: true}},
			"grep NoNewPrivs /proc/1/status | tr -d '\\t'", "NoNewPrivs:1"},
		"new privileges":   {engine.Spec{}, "grep NoNewPrivs /proc/1/status | tr -d '\\t'", "NoNewPrivs:0"},
		"default filter":   {engine.Spec{}, "grep Seccomp: /proc/1/status | tr -d '\\t'", "Seccomp:2"},
		"default AppArmor": {engine.Spec{Options: engine.Options{AppArmor: shim.Unconfined}}, "echo runs", "runs"},
		"no filter": {engine.Spec{Options: engine.Options{Seccomp: shim.Unconfined}},
			"grep Seccomp: /proc/1/status | tr -d '\\t'", "Seccomp:0"},
		"a filter of its own": {engine.Spec{Options: engine.Options{Seccomp: noMkdir}},
			"mkdir /tmp/x 2>&1; grep Seccomp: /proc/1/status | tr -d '\\t'",
			"mkdir: can't create directory '/tmp/x': Value too large for defined data type\nSeccomp:2"},
		"a filter of its own, privileged": {engine.Spec{Options: engine.Options{Seccomp: noMkdir, Privileged: true}},
			"mkdir /tmp/x 2>/dev/null || echo refused", "refused"},
		"masked": {engine.Spec{}, "wc -c < /proc/keys; touch /proc/sys/vm/swappiness 2>&1 | grep -c Read-only",
			"0\n1"},
		"unmasked": {engine.Spec{Options: engine.Options{Unmasked: true}}, "grep -c ' /proc/' /proc/mounts", "0"},
	} {
		t.Run(name, func(t *testing.T) {
			tt.spec.Command, tt.spec.Remove = sh(tt.script), true
			if got := w.mustRun(tt.spec, ""); strings.TrimSpace(got.out) != tt.want {
				t.Errorf("got %q %q %s, want %q", got.out, got.err, got.Error, tt.want)
			}
		})
	}
}

// noMkdir is a profile in Docker's form: all but two system calls are allowed.
const noMkdir = `{"defaultAction": "SCMP_ACT_ALLOW", "archMap": [{"architecture": "SCMP_ARCH_X86_64"},
	{"architecture": "SCMP_ARCH_AARCH64"}], "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO",
	"errnoRet": 75, "includes": {"minKernel": "4.0"}}]}`

func TestExecHasTheGroupsToo(t *testing.T) {
	w := newWorld(t)
	c := w.start(engine.Spec{Command: []string{"sleep", "1000"}, Options: engine.Options{Groups: []string{"lamps"}}})
	if got := w.exec(c.ID, "id", "-G"); got.out != "0 2000\n" {
		t.Errorf("%+v", got)
	}
	_, err := w.run(engine.Spec{Command: []string{"true"}, Remove: true,
		Options: engine.Options{Groups: []string{"nobody-here"}}}, "")
	if !errors.Is(err, cnm.ErrInvalid) || !strings.Contains(err.Error(), "nobody-here") {
		t.Errorf("a group that the image has not: %v", err)
	}
}

func TestSecurityThatIsRefused(t *testing.T) {
	w := newWorld(t)
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	ulimit := func(name string, soft, hard int64) engine.Options {
		return engine.Options{Ulimits: []shim.Ulimit{{Name: name, Soft: soft, Hard: hard}}}
	}
	noProfile := "not a profile's name"
	if on, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || on[0] != 'Y' {
		noProfile = "no AppArmor"
	}
	profile := func(rule string) engine.Options {
		return engine.Options{Seccomp: `{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [` + rule + `]}`}
	}
	for _, tt := range []struct {
		field   string
		part    string
		options engine.Options
	}{
		{"ulimit", "no such limit", ulimit("files", 1, 1)},
		{"ulimit", "above the hard one", ulimit("nofile", 2, 1)},
		{"ulimit", "above the hard one", ulimit("nofile", -1, 1)},
		{"ulimit", "negative", ulimit("nofile", 1, -2)},
		{"ulimit", "", ulimit("nofile", 1, 1<<40)},
		{"ulimit", "twice", engine.Options{Ulimits: []shim.Ulimit{{Name: "core"}, {Name: "core"}}}},
		{"shm-size", "negative", engine.Options{ShmSize: -1}},
		{"oom-score-adj", "out of range", engine.Options{OOMScoreAdj: 1001}},
		{"oom-score-adj", "out of range", engine.Options{OOMScoreAdj: -1001}},
		{"group-add", "neither", engine.Options{Groups: []string{""}}},
		{"group-add", "not a group's number", engine.Options{Groups: []string{"-1"}}},
		{"group-add", "too many", engine.Options{Groups: make([]string, 300)}},
		{"domainname", "not a domain", engine.Options{Domainname: "a b"}},
		{"security-opt", "Decoding", engine.Options{Seccomp: "nonsense"}},
		{"security-opt", "nothing", engine.Options{Seccomp: "{}"}},
		{"security-opt", "larger", engine.Options{Seccomp: strings.Repeat(" ", 1<<20)}},
		{"security-opt", "SCMP_ACT_NOTIFY", profile(`{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}`)},
		{"security-opt", "NONESUCH", profile(`{"names": ["mkdir"], "action": "NONESUCH"}`)},
		{"security-opt", "no system call", profile(`{"action": "SCMP_ACT_ERRNO"}`)},
		{"security-opt", "argument 9", profile(`{"names": ["a"], "action": "SCMP_ACT_ERRNO",
			"args": [{"index": 9, "op": "SCMP_CMP_EQ"}]}`)},
		{"security-opt", noProfile, engine.Options{AppArmor: "a b"}},
		{"device", "not an absolute path", engine.Options{Devices: []shim.Device{{Source: "null"}}}},
		{"device", "below /", engine.Options{Devices: []shim.Device{{Source: "/dev/null", Target: "x"}}}},
		{"device", "permissions", engine.Options{Devices: []shim.Device{{Source: "/dev/null", Permissions: "rx"}}}},
		{"device-cgroup-rule", "KIND", engine.Options{DeviceRules: []string{"c 1:3"}}},
		{"device-cgroup-rule", "KIND", engine.Options{DeviceRules: []string{"x 1:3 r"}}},
		{"device-cgroup-rule", "KIND", engine.Options{DeviceRules: []string{"c 1:-3 r"}}},
	} {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Options: tt.options})
		told, ok := errors.AsType[*cnm.Error](err)
		if !ok || told.Field != tt.field || told.Kind != cnm.ErrInvalid || told.Remedy == "" ||
			!strings.Contains(told.Reason, tt.part) {
			t.Errorf("%s: got %v, want %q", tt.field, err, tt.part)
		}
	}
}

// What takes CAP_SYS_RESOURCE is refused where netd has it not, and done where it has.
func TestLimitsAboveNetds(t *testing.T) {
	w := newWorld(t)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var effective uint64
	for line := range strings.Lines(string(status)) {
		if n, _ := fmt.Sscanf(line, "CapEff: %x", &effective); n == 1 {
			break
		}
	}
	may := effective&(1<<unix.CAP_SYS_RESOURCE) != 0
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	hard := int64(own.Max)
	if !may { // else fs.nr_open may be in the way
		hard++
	}
	for field, o := range map[string]engine.Options{
		"ulimit":        {Ulimits: []shim.Ulimit{{Name: "nofile", Soft: 10, Hard: hard}}},
		"oom-score-adj": {OOMScoreAdj: -500},
	} {
		_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Options: o})
		told, refused := errors.AsType[*cnm.Error](err)
		if refused == may || refused && (told.Field != field || !strings.Contains(told.Reason, "CAP_SYS_RESOURCE")) {
			t.Errorf("%s: with the capability %t, got %v", field, may, err)
		}
	}
}

func TestDevices(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(t.TempDir(), "devices")
	disk, number := aBlockDevice(t)
	var major, minor int
	if _, err := fmt.Sscanf(number, "%d:%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{os.MkdirAll(filepath.Join(dir, "deep"), 0o755),
		unix.Mknod(filepath.Join(dir, "deep/zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))),
		unix.Mknod(filepath.Join(dir, "kmsg"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 11))),
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o644), os.Symlink("deep/zero", filepath.Join(dir, "link"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	const look = "stat -c %t:%T $0; head -c 2 $0 >/dev/null 2>&1 && echo reads; " +
		"echo x 2>/dev/null > $0 && echo writes"
	at := func(source, target, permissions string) engine.Options {
		return engine.Options{Devices: []shim.Device{{Source: source, Target: target, Permissions: permissions}}}
	}
	for name, tt := range map[string]struct {
		options engine.Options
		path    string
		want    string
	}{
		"as on the host":     {at(disk, "", ""), disk, fmt.Sprintf("%x:%x\n", major, minor)},
		"by a link":          {at(filepath.Join(dir, "link"), "/dev/mine", ""), "/dev/mine", "1:5\nreads\nwrites\n"},
		"to be read":         {at("/dev/fuse", "/dev/fuse2", "r"), "/dev/fuse2", "a:e5\n"},
		"another's name":     {at("/dev/zero", "/dev/full", ""), "/dev/full", "1:5\nreads\nwrites\n"},
		"a directory":        {at(dir, "/dev/all", ""), "/dev/all/deep/zero", "1:5\nreads\nwrites\n"},
		"one is not to read": {at(filepath.Join(dir, "kmsg"), "/dev/k", "w"), "/dev/k", "1:b\nwrites\n"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "to be read" { // fuse cannot be read before it is mounted, but opened
				got := w.mustRun(engine.Spec{Command: sh("exec 3< /dev/fuse2 && echo opens; exec 3> /dev/fuse2"),
					Options: tt.options, Remove: true}, "")
				if got.out != "opens\n" || !strings.Contains(got.err, "not permitted") {
					t.Errorf("%+v", got)
				}
				return
			}
			got := w.mustRun(engine.Spec{Command: []string{"sh", "-c", look, tt.path}, Options: tt.options,
				Remove: true}, "")
			if !strings.HasPrefix(got.out, tt.want) {
				t.Errorf("got %q %q %s, want %q", got.out, got.err, got.Error, tt.want)
			}
		})
	}
	for name, source := range map[string]string{"not there": "/dev/nonesuch", "not one": filepath.Join(dir, "file"),
		"no devices": t.TempDir()} {
		c := w.create(engine.Spec{Options: at(source, "", "")})
		err := w.e.Start(t.Context(), c.ID)
		if told, ok := errors.AsType[*cnm.Error](err); !ok || told.Field != "device" || told.Value != source {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDeviceRules(t *testing.T) {
	w := newWorld(t)
	script := "mknod /tmp/k c 10 229 && exec 3< /tmp/k && echo opens"
	if got := w.mustRun(engine.Spec{Command: sh(script), Remove: true}, ""); strings.Contains(got.out, "opens") {
		t.Errorf("without a rule: %+v", got)
	}
	got := w.mustRun(engine.Spec{Command: sh(script), Remove: true,
		Options: engine.Options{DeviceRules: []string{"c 10:* r"}}}, "")
	if got.out != "opens\n" {
		t.Errorf("with a rule: %+v", got)
	}
}

func TestPrivileged(t *testing.T) {
	w := newWorld(t)
	disk, _ := aBlockDevice(t)
	script := "test -b " + disk + " && echo device; grep -c ' /proc/' /proc/mounts; " +
		"mount -t tmpfs none /mnt && echo mounts; grep Seccomp: /proc/self/status; touch /sys/fs/cgroup/*/x 2>&1 | " +
		"grep -c Read-only"
	got := w.mustRun(engine.Spec{Command: sh(script), Remove: true,
		Mounts: []engine.Mount{{Source: t.TempDir(), Target: "/mnt"}}, Options: engine.Options{Privileged: true,
			Devices: []shim.Device{{Source: "/dev/zero", Target: "/dev/mine"}}}}, "")
	if got.out != "device\n0\nmounts\nSeccomp:\t0\n0\n" {
		t.Errorf("%+v", got)
	}
}
