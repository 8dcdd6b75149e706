package box

import (
	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules, in the cgroup managers
	devices "github.com/opencontainers/cgroups/devices/config"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/vethloom/vethloom/engine/shim"
)

// cpuPeriod is the window a CPU limit is measured in, in microseconds.
const cpuPeriod = 100_000

// resources are a container's limits, and the devices that it may use.
func resources(b shim.Bundle) *cgroups.Resources {
	r := &cgroups.Resources{Memory: b.Memory}
	if b.Memory > 0 {
		r.MemorySwap = b.Memory // no swap beyond the limit
	}
	if b.NanoCPUs > 0 {
		r.CpuPeriod = cpuPeriod
		r.CpuQuota = max(b.NanoCPUs*cpuPeriod/1e9, 1000) // the kernel takes no quota below 1 ms
	}
	if b.PidsLimit > 0 {
		r.PidsLimit = &b.PidsLimit
	}
	r.Devices = []*devices.Rule{{
		Type: devices.WildcardDevice, Major: devices.Wildcard, Minor: devices.Wildcard,
		Permissions: "rwm", Allow: b.Privileged,
	}}
	if !b.Privileged {
		for _, d := range specconv.AllowedDevices {
			r.Devices = append(r.Devices, &d.Rule)
		}
	}
	return r
}
