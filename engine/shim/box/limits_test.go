package box

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/engine/shim"
)

// TestLimitsOfTheUnifiedHierarchy looks at what is written where cgroups v2 have every controller. They are there for a
// mount namespace of its own, as far as the list of controllers tells; the files are a directory's.
func TestLimitsOfTheUnifiedHierarchy(t *testing.T) {
	if os.Getenv("VETHLOOM_UNIFIED") == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		list := filepath.Join(t.TempDir(), "controllers")
		if err := os.WriteFile(list, []byte("cpuset cpu io memory hugetlb pids\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		const script = `mount --make-rprivate / && { umount -R /sys/fs/cgroup || true; } &&
			mount -t cgroup2 none /sys/fs/cgroup && mount --bind "$1" /sys/fs/cgroup/cgroup.controllers &&
			VETHLOOM_UNIFIED=1 exec "$0" -test.run '^TestLimitsOfTheUnifiedHierarchy$'`
		if out, err := exec.Command("unshare", "--mount", "sh", "-c", script, self, list).CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	cgroups.TestMode = true
	swappiness := int64(5)
	node := filepath.Join(t.TempDir(), "disk")
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 7))); err != nil {
		t.Fatal(err)
	}
	disk := []shim.BlockDevice{{Path: node, Value: 1000}}
	for name, tt := range map[string]struct {
		r       shim.Resources
		want    map[string]string
		missing string
	}{
		"memory": {shim.Resources{Memory: 64 << 20, MemoryReservation: 32 << 20},
			map[string]string{"memory.max": "67108864", "memory.swap.max": "67108864", "memory.low": "33554432"}, ""},
		"no swap": {shim.Resources{Memory: 64 << 20, MemorySwap: 64 << 20},
			map[string]string{"memory.max": "67108864", "memory.swap.max": "0"}, ""},
		"swap without end": {shim.Resources{Memory: 64 << 20, MemorySwap: -1},
			map[string]string{"memory.max": "67108864", "memory.swap.max": "max"}, ""},
		"processors": {shim.Resources{NanoCPUs: 500_000_000, CPUShares: 1024, CpusetCPUs: "0", CpusetMems: "0"},
			map[string]string{"cpu.max": "50000 100000", "cpu.weight": "100", "cpuset.cpus": "0", "cpuset.mems": "0"},
			""},
		"period": {shim.Resources{CPUPeriod: 50000, CPUQuota: 20000},
			map[string]string{"cpu.max": "20000 50000"}, ""},
		"least shares": {shim.Resources{CPUShares: 1}, map[string]string{"cpu.weight": "1"}, ""},
		"processes":    {shim.Resources{PidsLimit: 7}, map[string]string{"pids.max": "7"}, ""},
		"no end":       {shim.Resources{PidsLimit: -1}, map[string]string{"pids.max": "max"}, ""},
		"disks": {shim.Resources{BlkioWeight: 1000, ReadBps: disk},
			map[string]string{"io.weight": "10000", "io.max": "7:7 rbps=1000"}, ""},
		"what it has not": {shim.Resources{MemorySwappiness: &swappiness, OOMKillDisable: true, CPURTRuntime: 1}, nil,
			"memory-swappiness oom-kill-disable cpu-rt-runtime"},
	} {
		dir := filepath.Join(t.TempDir(), "cgroup")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		_, missing := tt.r.Feasible()
		if got := strings.Join(missing, " "); got != tt.missing {
			t.Errorf("%s: it lacks %q, want %q", name, got, tt.missing)
		}
		limits, err := Limits(tt.r)
		if err != nil {
			t.Fatal(err)
		}
		limits.SkipDevices = true
		manager, err := fs2.NewManager(&cgroups.Cgroup{Resources: limits}, dir)
		if err == nil {
			err = manager.Set(limits)
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil || len(entries) != len(tt.want)+1 {
			t.Errorf("%s: %d files, want %d, %v", name, len(entries), len(tt.want)+1, err)
		}
		for file, want := range tt.want {
			if got, err := os.ReadFile(filepath.Join(dir, file)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, %v, want %q", name, file, got, err, want)
			}
		}
	}
}
