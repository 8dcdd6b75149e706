package shim

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The least and the most that the kernel takes.
const (
	minCPUShares = 2
	maxCPUShares = 1 << 18
)

// bound is a limit: whether it is asked for, how it is left out, and where the kernel has it.
type bound struct {
	name    string // of the flag
	given   bool
	leave   func(*Resources)
	v1      []string // files of the older hierarchies, of which one is there
	unified string   // the controller of the unified hierarchy; "": it has none for it
}

// bounds are those that may be missing.
func (r *Resources) bounds() []bound {
	throttles := len(r.ReadBps)+len(r.WriteBps)+len(r.ReadIOps)+len(r.WriteIOps) > 0
	return []bound{
		{"memory", r.Memory != 0, func(r *Resources) { r.Memory, r.MemorySwap = 0, 0 },
			[]string{"memory/memory.limit_in_bytes"}, "memory"},
		{"memory-reservation", r.MemoryReservation != 0, func(r *Resources) { r.MemoryReservation = 0 },
			[]string{"memory/memory.soft_limit_in_bytes"}, "memory"},
		{"memory-swap", r.MemorySwap != 0, func(r *Resources) { r.MemorySwap = 0 },
			[]string{"memory/memory.memsw.limit_in_bytes"}, swapBound},
		{"memory-swappiness", r.MemorySwappiness != nil, func(r *Resources) { r.MemorySwappiness = nil },
			[]string{"memory/memory.swappiness"}, ""},
		{"oom-kill-disable", r.OOMKillDisable, func(r *Resources) { r.OOMKillDisable = false },
			[]string{"memory/memory.oom_control"}, ""},
		{"cpus", r.NanoCPUs != 0, func(r *Resources) { r.NanoCPUs = 0 }, []string{"cpu/cpu.cfs_quota_us"}, "cpu"},
		{"cpu-period and cpu-quota", r.CPUPeriod != 0 || r.CPUQuota != 0,
			func(r *Resources) { r.CPUPeriod, r.CPUQuota = 0, 0 }, []string{"cpu/cpu.cfs_quota_us"}, "cpu"},
		{"cpu-shares", r.CPUShares != 0, func(r *Resources) { r.CPUShares = 0 }, []string{"cpu/cpu.shares"}, "cpu"},
		{"cpu-rt-runtime", r.CPURTPeriod != 0 || r.CPURTRuntime != 0,
			func(r *Resources) { r.CPURTPeriod, r.CPURTRuntime = 0, 0 }, []string{"cpu/cpu.rt_runtime_us"}, ""},
		{"cpuset-cpus and cpuset-mems", r.CpusetCPUs != "" || r.CpusetMems != "",
			func(r *Resources) { r.CpusetCPUs, r.CpusetMems = "", "" }, []string{"cpuset/cpuset.cpus"}, "cpuset"},
		{"pids-limit", r.PidsLimit != 0, func(r *Resources) { r.PidsLimit = 0 }, []string{"pids/cgroup.procs"}, "pids"},
		// The scheduler bfq has the weights of kernels of today, in cgroups below the top; there it has its counters.
		{"blkio-weight", r.BlkioWeight != 0, func(r *Resources) { r.BlkioWeight = 0 },
			[]string{"blkio/blkio.weight", "blkio/blkio.bfq.io_serviced"}, "io"},
		{"blkio-weight-device", len(r.BlkioWeightDevice) > 0, func(r *Resources) { r.BlkioWeightDevice = nil },
			[]string{"blkio/blkio.weight_device", "blkio/blkio.bfq.io_serviced"}, "io"},
		{"device-read-bps and its like", throttles,
			func(r *Resources) { r.ReadBps, r.WriteBps, r.ReadIOps, r.WriteIOps = nil, nil, nil, nil },
			[]string{"blkio/blkio.throttle.read_bps_device"}, "io"},
	}
}

// swapBound stands for a limit of swap, which is part of the memory controller, and not in every kernel.
const swapBound = "swap"

// Feasible is what of the limits the kernel can set, with what follows from others filled in, and the names of those
// that it cannot.
func (r Resources) Feasible() (Resources, []string) {
	if r.Memory > 0 && r.MemorySwap == 0 {
		r.MemorySwap = -1
		if r.Memory <= math.MaxInt64/2 {
			r.MemorySwap = 2 * r.Memory
		}
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness < 0 { // the host's
		r.MemorySwappiness = nil
	}
	if r.CPUShares != 0 {
		r.CPUShares = min(max(r.CPUShares, minCPUShares), maxCPUShares)
	}
	var missing []string
	has := controls()
	for _, b := range r.bounds() {
		if b.given && !has(b) {
			b.leave(&r)
			missing = append(missing, b.name)
		}
	}
	return r, missing
}

// controls tells which limits the kernel can set where containers are.
func controls() func(bound) bool {
	var st unix.Statfs_t
	if unix.Statfs(cgroupMount, &st) != nil || st.Type != unix.CGROUP2_SUPER_MAGIC {
		return func(b bound) bool {
			return slices.ContainsFunc(b.v1, func(file string) bool { return exists(filepath.Join(cgroupMount, file)) })
		}
	}
	text, _ := os.ReadFile(filepath.Join(cgroupMount, DelegatedCgroup(), "cgroup.controllers")) // none: no controllers
	there := strings.Fields(string(text))
	return func(b bound) bool {
		if b.unified == swapBound {
			return slices.Contains(there, "memory") && swapAccounted()
		}
		return slices.Contains(there, b.unified)
	}
}

// swapAccounted looks at this process's own cgroup. The top has no limits: there nothing is known, and the kernel's
// default is that it can.
func swapAccounted() bool {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	for line := range bytes.Lines(text) {
		if own, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("0::")); ok {
			dir := filepath.Join(cgroupMount, string(own))
			return exists(filepath.Join(dir, "memory.swap.max")) || !exists(filepath.Join(dir, "memory.max"))
		}
	}
	return true
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// BlockNumber is the number of a block device of the host.
func BlockNumber(path string) (major, minor uint32, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, 0, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return 0, 0, fmt.Errorf("%s is not a block device", path)
	}
	return unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev)), nil
}
