package engine_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
)

// kernelHas reads a file of a container's cgroup, wherever its hierarchy is.
func (w *world) kernelHas(dir, file string) string {
	w.t.Helper()
	for _, d := range cgroupsOf(dir) {
		if b, err := os.ReadFile(filepath.Join(d, file)); err == nil {
			return strings.Join(strings.Fields(string(b)), " ")
		}
	}
	return "none"
}

// aBlockDevice is one of the host's, and its number.
func aBlockDevice(t *testing.T) (path, number string) {
	t.Helper()
	disks, err := filepath.Glob("/sys/block/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range disks {
		path := filepath.Join("/dev", filepath.Base(d))
		if major, minor, err := shim.BlockNumber(path); err == nil {
			return path, fmt.Sprintf("%d:%d", major, minor)
		}
	}
	t.Fatalf("none of %v is in /dev", disks)
	return "", ""
}

func TestLimitsReachTheKernel(t *testing.T) {
	w := newWorld(t)
	path, number := aBlockDevice(t)
	swappiness := int64(7)
	device := []shim.BlockDevice{{Path: path, Value: 1 << 20}}
	type files map[string]string
	for name, tt := range map[string]struct {
		r           engine.Resources
		v1, unified files
	}{
		"memory": {engine.Resources{Memory: 64 << 20, MemoryReservation: 32 << 20}, files{
			"memory.limit_in_bytes": "67108864", "memory.soft_limit_in_bytes": "33554432",
			"memory.memsw.limit_in_bytes": "134217728"},
			files{"memory.max": "67108864", "memory.low": "33554432", "memory.swap.max": "67108864"}},
		"swappiness": {engine.Resources{MemorySwappiness: &swappiness}, files{"memory.swappiness": "7"}, nil},
		"swap": {engine.Resources{Memory: 64 << 20, MemorySwap: 96 << 20},
			files{"memory.memsw.limit_in_bytes": "100663296"}, files{"memory.swap.max": "33554432"}},
		"no swap": {engine.Resources{Memory: 64 << 20, MemorySwap: 64 << 20},
			files{"memory.memsw.limit_in_bytes": "67108864"}, files{"memory.swap.max": "0"}},
		"swap without end": {engine.Resources{Memory: 64 << 20, MemorySwap: -1},
			files{"memory.memsw.limit_in_bytes": "9223372036854771712"}, files{"memory.swap.max": "max"}},
		"no killing": {engine.Resources{Memory: 64 << 20, OOMKillDisable: true},
			files{"memory.oom_control": "oom_kill_disable 1 under_oom 0 oom_kill 0"}, nil},
		"processors": {engine.Resources{CPUPeriod: 50000, CPUQuota: 20000, CPUShares: 512, CpusetCPUs: "0",
			CpusetMems: "0"}, files{"cpu.cfs_period_us": "50000", "cpu.cfs_quota_us": "20000", "cpu.shares": "512",
			"cpuset.cpus": "0", "cpuset.mems": "0"},
			files{"cpu.max": "20000 50000", "cpu.weight": "59", "cpuset.cpus": "0", "cpuset.mems": "0"}},
		"shares out of range": {engine.Resources{CPUShares: 1}, files{"cpu.shares": "2"}, files{"cpu.weight": "1"}},
		"processes":           {engine.Resources{PidsLimit: 77}, files{"pids.max": "77"}, files{"pids.max": "77"}},
		"no end of them":      {engine.Resources{PidsLimit: -1}, files{"pids.max": "max"}, files{"pids.max": "max"}},
		"disks": {engine.Resources{BlkioWeight: 300, ReadBps: device, WriteBps: device, ReadIOps: device,
			WriteIOps: device}, files{"blkio.bfq.weight": "300",
			"blkio.throttle.read_bps_device":   number + " 1048576",
			"blkio.throttle.write_bps_device":  number + " 1048576",
			"blkio.throttle.read_iops_device":  number + " 1048576",
			"blkio.throttle.write_iops_device": number + " 1048576"},
			files{"io.max": number + " rbps=1048576 wbps=1048576 riops=1048576 wiops=1048576"}},
	} {
		t.Run(name, func(t *testing.T) {
			want, inside := tt.v1, "/sys/fs/cgroup/*/"
			if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
				want, inside = tt.unified, "/sys/fs/cgroup/"
			}
			made, warnings, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Options: limits(tt.r),
				Command: []string{"sleep", "1000"}, Networks: []cnm.AttachRequest{{Network: "none"}}})
			if err != nil || (len(warnings) > 0) != (want == nil) {
				t.Fatalf("%q, %v", warnings, err)
			}
			if err := w.e.Start(t.Context(), made.ID); err != nil {
				t.Fatal(err)
			}
			for file, want := range want {
				if got := w.kernelHas(w.cgroup+"/"+made.ID, file); got != want {
					t.Errorf("%s is %q, want %q", file, got, want)
				}
				// The container sees its own limits: that is its cgroup namespace.
				if got := w.exec(made.ID, "sh", "-c", "cat "+inside+file); got.Code != 0 ||
					strings.Join(strings.Fields(got.out), " ") != want {
					t.Errorf("inside, %s is %+v, want %q", file, got, want)
				}
			}
		})
	}
}

// Realtime is divided from the top down: a container gets what its parent has.
func TestRealtime(t *testing.T) {
	w := newWorld(t)
	spec := engine.Spec{Command: []string{"sleep", "1000"}, CgroupParent: "realtime",
		Options: limits(engine.Resources{CPURTPeriod: 1000000, CPURTRuntime: 1000})}
	if _, missing := spec.Feasible(); len(missing) > 0 { // refused, as TestLimitsWithoutControllers sees
		t.Logf("the kernel has no %v", missing)
		return
	}
	c := w.create(spec)
	if err := w.e.Start(t.Context(), c.ID); err == nil || !strings.Contains(err.Error(), "cpu.rt_runtime_us") {
		t.Errorf("a parent without any: %v", err)
	}
	for _, dir := range []string{w.cgroup, w.cgroup + "/realtime"} {
		if err := os.WriteFile("/sys/fs/cgroup/cpu"+dir+"/cpu.rt_runtime_us", []byte("2000"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if got := w.kernelHas(w.cgroup+"/realtime/"+c.ID, "cpu.rt_runtime_us"); got != "1000" {
		t.Errorf("the kernel has %s", got)
	}
}

func TestLimitsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	number := func(n int64) *int64 { return &n }
	path, _ := aBlockDevice(t)
	disk := func(value uint64, path string) []shim.BlockDevice {
		return []shim.BlockDevice{{Path: path, Value: value}}
	}
	for field, all := range map[string][]engine.Resources{
		"memory":             {{Memory: -1}, {Memory: 6<<20 - 1}},
		"memory-reservation": {{MemoryReservation: 1}, {Memory: 64 << 20, MemoryReservation: 65 << 20}},
		"memory-swap":        {{MemorySwap: -2}, {MemorySwap: 64 << 20}, {Memory: 64 << 20, MemorySwap: 63 << 20}},
		"memory-swappiness":  {{MemorySwappiness: number(101)}, {MemorySwappiness: number(-2)}},
		"cpus":               {{NanoCPUs: 1}, {NanoCPUs: 4096e9}},
		"cpu-period":         {{NanoCPUs: 1e9, CPUPeriod: 1000}, {CPUPeriod: 999}, {CPUPeriod: 1000001}},
		"cpu-quota":          {{NanoCPUs: 1e9, CPUQuota: 1000}, {CPUQuota: 999}, {CPUQuota: -2}},
		"cpu-shares":         {{CPUShares: -1}},
		"cpuset-cpus": {{CpusetCPUs: "4095"}, {CpusetCPUs: "0-999999999"}, {CpusetCPUs: "x"},
			{CpusetCPUs: "1-0"}},
		"cpuset-mems":    {{CpusetMems: "77"}, {CpusetMems: "0,,"}},
		"cpu-rt-runtime": {{CPURTRuntime: -1}, {CPURTRuntime: 2, CPURTPeriod: 1}},
		"cpu-rt-period":  {{CPURTPeriod: 1000001}},
		"pids-limit":     {{PidsLimit: -2}},
		"blkio-weight":   {{BlkioWeight: 9}, {BlkioWeight: 1001}},
		"blkio-weight-device": {{BlkioWeightDevice: disk(9, path)},
			{BlkioWeightDevice: disk(10, "/dev/null")}},
		"device-read-bps":   {{ReadBps: disk(1, "loop7")}},
		"device-write-bps":  {{WriteBps: disk(1, "/dev/nonesuch")}},
		"device-read-iops":  {{ReadIOps: disk(1, "/etc/passwd")}},
		"device-write-iops": {{WriteIOps: disk(1, "")}},
	} {
		for _, r := range all {
			_, _, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Options: limits(r)})
			told, ok := errors.AsType[*cnm.Error](err)
			if !ok || told.Field != field || told.Kind != cnm.ErrInvalid || told.Reason == "" || told.Remedy == "" {
				t.Errorf("%s, %+v: %v", field, r, err)
			}
		}
	}
}

func TestNoKillingWithoutALimitIsWarnedOf(t *testing.T) {
	w := newWorld(t)
	_, warnings, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox",
		Options: limits(engine.Resources{OOMKillDisable: true}), Networks: []cnm.AttachRequest{{Network: "none"}}})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "--memory") {
		t.Errorf("%q, %v", warnings, err)
	}
}

// TestLimitsWithoutControllers runs with cgroups v2 alone (see TestUnifiedHierarchy): the host uses their controllers
// with v1, so what is asked for is left out, and said.
func TestLimitsWithoutControllers(t *testing.T) {
	if os.Getenv("VETHLOOM_UNIFIED") == "" {
		unified(t, "^TestLimitsWithoutControllers$")
		return
	}
	w := newWorld(t)
	swappiness := int64(7)
	made, warnings, err := w.e.Create(t.Context(), engine.Spec{Image: "busybox", Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "none"}}, Options: limits(engine.Resources{Memory: 64 << 20,
			MemorySwappiness: &swappiness, OOMKillDisable: true, CPUShares: 512, PidsLimit: 7, CpusetCPUs: "0",
			NanoCPUs: 1e9, BlkioWeight: 100})})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"memory:", "swap", "memory-swappiness:", "oom-kill-disable:", "cpu-shares:",
		"pids-limit:", "cpuset-cpus", "cpus:", "blkio-weight:"} {
		if !strings.Contains(strings.Join(warnings, "\n"), want) {
			t.Errorf("no word of %s in %q", want, warnings)
		}
	}
	if err := w.e.Start(t.Context(), made.ID); err != nil {
		t.Error(err)
	}
	_, _, err = w.e.Create(t.Context(), engine.Spec{Image: "busybox",
		Options: limits(engine.Resources{CPURTRuntime: 1000})})
	if told, ok := errors.AsType[*cnm.Error](err); !ok || told.Field != "cpu-rt-runtime" {
		t.Errorf("realtime: %v", err)
	}
}
