package cli_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
)

// Each flag of run and create asks for what it says, and for nothing else.
func TestFlagsBecomeWishes(t *testing.T) {
	c := command{netd: newNetd(t), dir: t.TempDir()}
	if err := os.WriteFile(filepath.Join(c.dir, "p.json"), []byte("{ \"a\": 1 }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := func(n uint64) []shim.BlockDevice { return []shim.BlockDevice{{Path: "/dev/vda", Value: n}} }
	type spec = engine.Spec
	for flags, edit := range map[string]func(*spec){
		"": func(*spec) {},
		"--restart on-failure:2": func(s *spec) {
			s.Restart = engine.RestartPolicy{Name: engine.RestartOnFailure, MaxRetries: 2}
		},
		"--restart no --rm": func(s *spec) { s.Restart.Name, s.Remove = engine.RestartNo, true },
		"--init":            func(s *spec) { s.Init = true },
		"--health-cmd true": func(s *spec) {
			s.Health = &engine.Healthcheck{Test: []string{"CMD-SHELL", "true"}}
		},
		"--health-interval 1m":    func(s *spec) { s.Health = &engine.Healthcheck{Interval: time.Minute} },
		"--health-timeout 2s":     func(s *spec) { s.Health = &engine.Healthcheck{Timeout: 2 * time.Second} },
		"--health-retries 4":      func(s *spec) { s.Health = &engine.Healthcheck{Retries: 4} },
		"--health-start-period=0": func(s *spec) { s.Health = &engine.Healthcheck{} },
		"--no-healthcheck":        func(s *spec) { s.Health = &engine.Healthcheck{Test: []string{"NONE"}} },
		"--ulimit nofile=5:6": func(s *spec) {
			s.Ulimits = []shim.Ulimit{{Name: "nofile", Soft: 5, Hard: 6}}
		},
		"--shm-size 1g": func(s *spec) { s.ShmSize = 1 << 30 },
		"--device /dev/fuse:/dev/f:r": func(s *spec) {
			s.Devices = []shim.Device{{Source: "/dev/fuse", Target: "/dev/f", Permissions: "r"}}
		},
		"--security-opt no-new-privileges":      func(s *spec) { s.NoNewPrivs = true },
		"--security-opt seccomp=unconfined":     func(s *spec) { s.Seccomp = "unconfined" },
		"--security-opt seccomp=p.json":         func(s *spec) { s.Seccomp = `{"a":1}` },
		"--security-opt apparmor=x":             func(s *spec) { s.AppArmor = "x" },
		"--security-opt systempaths=unconfined": func(s *spec) { s.Unmasked = true },
		"--pid container:x":                     func(s *spec) { s.PidMode = "container:x" },
		"--ipc none":                            func(s *spec) { s.IpcMode = "none" },
		"--uts host":                            func(s *spec) { s.UTSMode = "host" },
		"--cgroupns host":                       func(s *spec) { s.CgroupNSMode = "host" },
		"--cgroup-parent /x":                    func(s *spec) { s.CgroupParent = "/x" },
		"--userns auto":                         func(s *spec) { s.UserNS = "auto" },
		"--oom-score-adj -500":                  func(s *spec) { s.OOMScoreAdj = -500 },
		"--oom-kill-disable":                    func(s *spec) { s.OOMKillDisable = true },
		"-c 512":                                func(s *spec) { s.CPUShares = 512 },
		"--cpu-period 5 --cpu-quota 6":          func(s *spec) { s.CPUPeriod, s.CPUQuota = 5, 6 },
		"--cpu-rt-period 5 --cpu-rt-runtime 6":  func(s *spec) { s.CPURTPeriod, s.CPURTRuntime = 5, 6 },
		"--cpuset-cpus 0 --cpuset-mems 0-1":     func(s *spec) { s.CpusetCPUs, s.CpusetMems = "0", "0-1" },
		"--cpus 0.25":                           func(s *spec) { s.NanoCPUs = 25e7 },
		"-m 1g --memory-swap -1":                func(s *spec) { s.Memory, s.MemorySwap = 1<<30, -1 },
		"--memory-reservation 1m":               func(s *spec) { s.MemoryReservation = 1 << 20 },
		"--memory-swappiness 0":                 func(s *spec) { s.MemorySwappiness = new(int64(0)) },
		"--pids-limit 7":                        func(s *spec) { s.PidsLimit = 7 },
		"--kernel-memory 1m":                    func(*spec) {},
		"--blkio-weight 10":                     func(s *spec) { s.BlkioWeight = 10 },
		"--blkio-weight-device /dev/vda:20":     func(s *spec) { s.BlkioWeightDevice = disk(20) },
		"--device-read-bps /dev/vda:1k":         func(s *spec) { s.ReadBps = disk(1024) },
		"--device-write-bps /dev/vda:2":         func(s *spec) { s.WriteBps = disk(2) },
		"--device-read-iops /dev/vda:3":         func(s *spec) { s.ReadIOps = disk(3) },
		"--device-write-iops /dev/vda:4":        func(s *spec) { s.WriteIOps = disk(4) },
		"--log-driver none":                     func(s *spec) { s.LogDriver = engine.LogNone },
		"--log-opt max-file=2":                  func(s *spec) { s.LogOptions = map[string]string{"max-file": "2"} },
		"--link db":                             func(s *spec) { s.Links = []string{"db:db"} },
		"--group-add 5 --domainname x":          func(s *spec) { s.Groups, s.Domainname = []string{"5"}, "x" },
		"--annotation a=b":                      func(s *spec) { s.Annotations = map[string]string{"a": "b"} },
		"--runtime crun":                        func(s *spec) { s.Runtime = "crun" },
		"--volumes-from x:ro":                   func(s *spec) { s.VolumesFrom = []string{"x:ro"} },
		"-a stdin": func(s *spec) {
			s.Client = engine.ClientNotes{AttachStdin: true}
		},
		"--disable-content-trust=false": func(*spec) {},
		"--volume-driver d -v x:/x -v /y:/y": func(s *spec) {
			s.Mounts = []engine.Mount{{Source: "x", Target: "/x", Volume: true, Driver: "d"},
				{Source: "/y", Target: "/y"}}
		},
		"--mount type=bind,src=here,dst=/x": func(s *spec) {
			s.Mounts = []engine.Mount{{Source: filepath.Join(c.dir, "here"), Target: "/x", MustExist: true}}
		},
		"--tmpfs /x:size=1m": func(s *spec) {
			s.Mounts = []engine.Mount{{Target: "/x", Tmpfs: &engine.Tmpfs{Size: 1 << 20}}}
		},
	} {
		out, errs, code := c.run("create " + flags + " busybox true")
		if code != 0 {
			t.Errorf("create %s: %s", flags, errs)
			continue
		}
		ct, err := c.netd.domain.Inspect(t.Context(), out[:64])
		if err != nil {
			t.Fatal(err)
		}
		want := engine.Spec{Image: "busybox", Command: []string{"true"},
			Client: engine.ClientNotes{AttachStdout: true, AttachStderr: true}}
		edit(&want)
		if diff := cmp.Diff(want, ct.Spec, cmpopts.EquateEmpty(), cmpopts.IgnoreFields(engine.Spec{}, "Name",
			"Networks", "Client.CIDFile")); diff != "" {
			t.Errorf("create %s asks for something else (-want +got):\n%s", flags, diff)
		}
		if _, errs, code := c.run("rm " + ct.ID); code != 0 {
			t.Fatal(errs)
		}
	}
}

// A terminal shows what is used in place of what was; elsewhere it is shown once more.
func TestStatsOnATerminal(t *testing.T) {
	x := newTTY(t)
	if _, _, err := x.netd.domain.Create(t.Context(), engine.Spec{Name: "web", Image: "busybox"}); err != nil {
		t.Fatal(err)
	}
	code := x.run("stats", "-a", "--format", "{{.Name}} {{.PIDs}}")
	x.expect(t, "\x1b[2J\x1b[Hweb 3\x1b[K")
	x.expect(t, "\x1b[J\x1b[Hweb 3\x1b[K")
	x.netd.domain.Fail("Stats", os.ErrClosed)
	exits(t, code, 1)
}
