package box

import (
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules, in the cgroup managers

	"github.com/vethloom/vethloom/engine/shim"
)

const (
	// cpuPeriod is the window a CPU limit is measured in, in microseconds.
	cpuPeriod = 100_000
	// minQuota is the least of it that the kernel takes.
	minQuota = 1000
)

// Limits are limits as cgroups have them. Those that the kernel cannot set are left out; see [shim.Resources.Feasible].
// Devices are no part of them.
func Limits(r shim.Resources) (*cgroups.Resources, error) {
	r, _ = r.Feasible()
	out := &cgroups.Resources{
		Memory: r.Memory, MemoryReservation: r.MemoryReservation, MemorySwap: r.MemorySwap,
		OomKillDisable: r.OOMKillDisable,
		CpuShares:      uint64(r.CPUShares), CpuPeriod: uint64(r.CPUPeriod), CpuQuota: r.CPUQuota,
		CpuRtPeriod: uint64(r.CPURTPeriod), CpuRtRuntime: r.CPURTRuntime,
		CpusetCpus: r.CpusetCPUs, CpusetMems: r.CpusetMems,
		BlkioWeight: r.BlkioWeight,
	}
	if r.MemorySwappiness != nil {
		swappiness := uint64(*r.MemorySwappiness)
		out.MemorySwappiness = &swappiness
	}
	if r.NanoCPUs > 0 {
		out.CpuPeriod = cpuPeriod
		out.CpuQuota = max(r.NanoCPUs*cpuPeriod/1e9, minQuota)
	}
	if r.PidsLimit != 0 {
		out.PidsLimit = &r.PidsLimit
	}
	if cgroups.IsCgroup2UnifiedMode() {
		out.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(out.CpuShares)
	}
	return out, blockLimits(r, out)
}

func blockLimits(r shim.Resources, out *cgroups.Resources) error {
	for _, d := range r.BlkioWeightDevice {
		major, minor, err := blockNumber(d)
		if err != nil {
			return err
		}
		out.BlkioWeightDevice = append(out.BlkioWeightDevice,
			cgroups.NewWeightDevice(int64(major), int64(minor), uint16(d.Value), 0))
	}
	for _, t := range []struct {
		from []shim.BlockDevice
		to   *[]*cgroups.ThrottleDevice
	}{
		{r.ReadBps, &out.BlkioThrottleReadBpsDevice}, {r.WriteBps, &out.BlkioThrottleWriteBpsDevice},
		{r.ReadIOps, &out.BlkioThrottleReadIOPSDevice}, {r.WriteIOps, &out.BlkioThrottleWriteIOPSDevice},
	} {
		for _, d := range t.from {
			major, minor, err := blockNumber(d)
			if err != nil {
				return err
			}
			*t.to = append(*t.to, cgroups.NewThrottleDevice(int64(major), int64(minor), d.Value))
		}
	}
	return nil
}

func blockNumber(d shim.BlockDevice) (major, minor uint32, err error) {
	if major, minor, err = shim.BlockNumber(d.Path); err != nil {
		return 0, 0, &shim.Error{Code: shim.CodeInvalid, Message: "limit a device: " + err.Error()}
	}
	return major, minor, nil
}
