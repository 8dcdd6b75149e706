package engine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/engine/shim"
)

// What the kernel takes at the least and at the most.
const (
	minMemory    = 6 << 20 // it and a first process need that much
	minNanoCPUs  = 10_000_000
	minCPUPeriod = 1000    // microseconds
	maxCPUPeriod = 1000000 // microseconds
	minCPUQuota  = 1000    // microseconds
	minBlkio     = 10
	maxBlkio     = 1000
	maxListed    = 1 << 16 // more processors or memory nodes than any host has
)

func checkLimits(s Spec) error {
	return errors.Join(checkStopTimeout(s.StopTimeout), checkResources(s.Resources))
}

func checkStopTimeout(d time.Duration) error {
	if d < 0 {
		return invalid("stop-timeout", d.String(), "negative", "give a time, or 0 for 10 seconds")
	}
	return nil
}

// checkResources refuses limits that no kernel could set.
func checkResources(r Resources) error {
	if r.PidsLimit < -1 {
		return invalid("pids-limit", strconv.FormatInt(r.PidsLimit, 10), "negative",
			"give a number of processes, or -1 for no limit")
	}
	return errors.Join(checkMemory(r), checkCPU(r), checkRealtime(r),
		checkSet("cpuset-cpus", r.CpusetCPUs, "/sys/devices/system/cpu/online"),
		checkSet("cpuset-mems", r.CpusetMems, "/sys/devices/system/node/online"), checkBlkio(r))
}

func checkMemory(r Resources) error {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	switch {
	case r.Memory < 0 || r.Memory > 0 && r.Memory < minMemory:
		return invalid("memory", number(r.Memory), "too small for any process", "give at least 6m, or 0 for no limit")
	case r.MemoryReservation < 0 || r.MemoryReservation > 0 && r.MemoryReservation < minMemory:
		return invalid("memory-reservation", number(r.MemoryReservation), "too small for any process",
			"give at least 6m, or 0 for none")
	case r.Memory > 0 && r.MemoryReservation > r.Memory:
		return invalid("memory-reservation", number(r.MemoryReservation), "more than the memory limit, "+
			number(r.Memory), "give less, or raise --memory")
	case r.MemorySwap < -1:
		return invalid("memory-swap", number(r.MemorySwap), "negative", "give a size, or -1 for no limit")
	case r.MemorySwap > 0 && r.Memory == 0:
		return invalid("memory-swap", number(r.MemorySwap), "it is memory and swap together, and memory has no limit",
			"give --memory too")
	case r.MemorySwap > 0 && r.MemorySwap < r.Memory:
		return invalid("memory-swap", number(r.MemorySwap), "it is memory and swap together, and less than the memory "+
			"alone, "+number(r.Memory), "give at least as much as --memory")
	case r.MemorySwappiness != nil && (*r.MemorySwappiness < -1 || *r.MemorySwappiness > 100):
		return invalid("memory-swappiness", number(*r.MemorySwappiness), "out of range",
			"give 0 to 100, or -1 for the host's")
	}
	return nil
}

func checkCPU(r Resources) error {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	cpus := strconv.FormatFloat(float64(r.NanoCPUs)/1e9, 'f', -1, 64)
	online := len(listed(hostList("/sys/devices/system/cpu/online")))
	switch {
	case r.NanoCPUs < 0 || r.NanoCPUs > 0 && r.NanoCPUs < minNanoCPUs:
		return invalid("cpus", cpus, "less than the kernel can measure", "give at least 0.01, or 0 for no limit")
	case online > 0 && r.NanoCPUs > int64(online)*1e9:
		return invalid("cpus", cpus, fmt.Sprintf("the host has %d", online), fmt.Sprintf("give 0.01 to %d", online))
	case r.NanoCPUs > 0 && r.CPUPeriod != 0:
		return invalid("cpu-period", number(r.CPUPeriod), "--cpus sets it", "leave out one of the two")
	case r.NanoCPUs > 0 && r.CPUQuota != 0:
		return invalid("cpu-quota", number(r.CPUQuota), "--cpus sets it", "leave out one of the two")
	case r.CPUPeriod != 0 && (r.CPUPeriod < minCPUPeriod || r.CPUPeriod > maxCPUPeriod):
		return invalid("cpu-period", number(r.CPUPeriod), "out of range", "give 1000 to 1000000 microseconds")
	case r.CPUQuota > 0 && r.CPUQuota < minCPUQuota || r.CPUQuota < -1:
		return invalid("cpu-quota", number(r.CPUQuota), "out of range",
			"give at least 1000 microseconds, or -1 for no limit")
	case r.CPUShares < 0:
		return invalid("cpu-shares", number(r.CPUShares), "negative", "give 2 to 262144; 1024 is the usual")
	}
	return nil
}

func checkRealtime(r Resources) error {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	if r.CPURTPeriod == 0 && r.CPURTRuntime == 0 {
		return nil
	}
	asked := Resources{CPURTPeriod: r.CPURTPeriod, CPURTRuntime: r.CPURTRuntime}
	_, missing := asked.Feasible()
	switch {
	case len(missing) > 0:
		return invalid("cpu-rt-runtime", number(r.CPURTRuntime),
			"the host's kernel divides no realtime among cgroups: that takes cgroups v1 and CONFIG_RT_GROUP_SCHED",
			"leave it out")
	case r.CPURTPeriod < 0 || r.CPURTPeriod > maxCPUPeriod:
		return invalid("cpu-rt-period", number(r.CPURTPeriod), "out of range", "give up to 1000000 microseconds")
	case r.CPURTRuntime < 0:
		return invalid("cpu-rt-runtime", number(r.CPURTRuntime), "negative", "give microseconds")
	case r.CPURTPeriod > 0 && r.CPURTRuntime > r.CPURTPeriod:
		return invalid("cpu-rt-runtime", number(r.CPURTRuntime), "more than the period, "+number(r.CPURTPeriod),
			"give less, or raise --cpu-rt-period")
	}
	return nil
}

// checkSet refuses a list of processors or memory nodes that the host has not.
func checkSet(field, given, file string) error {
	if given == "" {
		return nil
	}
	want := listed(given)
	if len(want) == 0 {
		return invalid(field, given, "not a list", "write numbers and ranges: 0-2,4")
	}
	online := hostList(file)
	have := listed(online)
	if len(have) == 0 {
		return nil // it does not tell; the kernel will
	}
	for _, n := range want {
		if !slices.Contains(have, n) {
			return invalid(field, given, fmt.Sprintf("the host has no %d, only %s", n, online), "choose among those")
		}
	}
	return nil
}

func hostList(file string) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// listed reads numbers and ranges, as cpuset(7) has them. What is none, or has more than any host, gives nothing.
func listed(list string) []int {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err != nil || err2 != nil || to < from || len(out) > maxListed {
			return nil
		}
		for n := from; n <= to; n++ {
			out = append(out, int(n))
		}
	}
	return out
}

func checkBlkio(r Resources) error {
	outside := func(weight uint64) bool { return weight < minBlkio || weight > maxBlkio }
	if r.BlkioWeight != 0 && outside(uint64(r.BlkioWeight)) {
		return invalid("blkio-weight", fmt.Sprint(r.BlkioWeight), "out of range", "give 10 to 1000, or 0 for none")
	}
	for _, list := range []struct {
		field   string
		devices []shim.BlockDevice
	}{
		{"blkio-weight-device", r.BlkioWeightDevice}, {"device-read-bps", r.ReadBps}, {"device-write-bps", r.WriteBps},
		{"device-read-iops", r.ReadIOps}, {"device-write-iops", r.WriteIOps},
	} {
		for _, d := range list.devices {
			value := fmt.Sprintf("%s:%d", d.Path, d.Value)
			if list.field == "blkio-weight-device" && outside(d.Value) {
				return invalid(list.field, value, "the weight is out of range", "give 10 to 1000")
			}
			if !filepath.IsAbs(d.Path) {
				return invalid(list.field, value, "not an absolute path", "write /dev/NAME:NUMBER")
			}
			if _, _, err := shim.BlockNumber(d.Path); err != nil {
				return invalid(list.field, value, err.Error(), "name a block device of the host")
			}
		}
	}
	return nil
}

// limitWarnings are about limits that will not be as asked for.
func limitWarnings(r Resources) []string {
	_, missing := r.Feasible()
	var out []string
	for _, name := range missing {
		if name == "memory-swap" && r.MemorySwap == 0 {
			out = append(out, "the host's kernel does not limit swap: the memory is limited without it")
			continue
		}
		out = append(out, name+": the host's kernel cannot limit it for cgroups: it is left out")
	}
	if r.OOMKillDisable && r.Memory == 0 && !slices.Contains(missing, "oom-kill-disable") {
		out = append(out, "oom-kill-disable without --memory: the container may take all of the host's memory")
	}
	return out
}
