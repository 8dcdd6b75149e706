package docker

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/blkiodev"
	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
)

// This file has what is asked of a container's host, both ways.

// into completes a spec by a HostConfig, but for networks, ports and mounts.
func (h hostConfigBody) into(out *engine.Spec, n *notes) error {
	if err := h.absent(); err != nil {
		return err
	}
	var err error
	if out.Resources, err = decodeResources(h.Resources, n); err != nil {
		return err
	}
	n.ignored("KernelMemory", h.KernelMemory > 0)
	n.ignored("KernelMemoryTCP", h.KernelMemoryTCP > 0)
	out.Client.CIDFile = h.ContainerIDFile
	out.LogDriver, out.LogOptions = h.LogConfig.Type, h.LogConfig.Config
	out.Restart = decodeRestart(h.RestartPolicy)
	out.Remove, out.PublishAll = h.AutoRemove, h.PublishAllPorts
	out.VolumesFrom, out.Links, out.Annotations = h.VolumesFrom, h.Links, h.Annotations
	out.CapAdd, out.CapDrop = h.CapAdd, h.CapDrop
	out.CgroupNSMode, out.IpcMode, out.PidMode = string(h.CgroupnsMode), string(h.IpcMode), string(h.PidMode)
	out.UTSMode, out.UserNS, out.CgroupParent = string(h.UTSMode), string(h.UsernsMode), h.CgroupParent
	for _, a := range h.DNS {
		if a.IsValid() {
			out.DNS = append(out.DNS, a.Unmap())
		}
	}
	out.DNSOptions, out.DNSSearch, out.ExtraHosts = h.DNSOptions, h.DNSSearch, h.ExtraHosts
	out.Groups, out.OOMScoreAdj = h.GroupAdd, h.OomScoreAdj
	out.Privileged, out.ReadOnly = h.Privileged, h.ReadonlyRootfs
	out.ShmSize, out.Sysctls = h.ShmSize, h.Sysctls
	out.Init = h.Init != nil && *h.Init
	if !slices.Contains(usualRuntimes, h.Runtime) {
		out.Runtime = h.Runtime
	}
	for _, u := range h.Ulimits {
		if u != nil {
			out.Ulimits = append(out.Ulimits, shim.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
		}
	}
	for _, d := range h.Devices {
		out.Devices = append(out.Devices, shim.Device{Source: d.PathOnHost, Target: d.PathInContainer,
			Permissions: d.CgroupPermissions})
	}
	out.DeviceRules = h.DeviceCgroupRules
	return decodeSecurity(h.HostConfig, out, n)
}

// usualRuntimes are names of Docker's own runtime, for which net-shim stands.
var usualRuntimes = []string{"", "runc", "io.containerd.runc.v2"}

// absent refuses what Docker has and netd has not.
func (h hostConfigBody) absent() error {
	switch {
	case len(h.DeviceRequests) > 0:
		d := h.DeviceRequests[0]
		return unsupported("DeviceRequests", cmp.Or(d.Driver, fmt.Sprint(d.Capabilities)),
			"there are no drivers of devices, such as those for GPUs, here", "give the devices one by one: Devices")
	case h.Cgroup != "":
		return unsupported("Cgroup", string(h.Cgroup), "a container has a cgroup of its own", "leave it out")
	case len(h.StorageOpt) > 0:
		return unsupported("StorageOpt", sortedKeys(h.StorageOpt)[0],
			"the writable layer of a container has no options", "leave it out")
	case h.Umask != nil:
		return unsupported("Umask", fmt.Sprintf("%03o", *h.Umask), "the umask of a container is 022",
			"set it in the container")
	case !h.Isolation.IsDefault():
		return unsupported("Isolation", string(h.Isolation), "it is for Windows", "leave it out")
	}
	return nil
}

func decodeRestart(p container.RestartPolicy) engine.RestartPolicy {
	return engine.RestartPolicy{Name: string(p.Name), MaxRetries: p.MaximumRetryCount}
}

// decodeResources reads limits. A swappiness of -1 is none, as clients send it.
func decodeResources(r container.Resources, n *notes) (engine.Resources, error) {
	n.ignored("CpuCount", r.CPUCount != 0)
	n.ignored("CpuPercent", r.CPUPercent != 0)
	n.ignored("IOMaximumIOps", r.IOMaximumIOps != 0)
	n.ignored("IOMaximumBandwidth", r.IOMaximumBandwidth != 0)
	out := engine.Resources{
		Memory: r.Memory, MemoryReservation: r.MemoryReservation, MemorySwap: r.MemorySwap, NanoCPUs: r.NanoCPUs,
		CPUShares: r.CPUShares, CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota, CPURTPeriod: r.CPURealtimePeriod,
		CPURTRuntime: r.CPURealtimeRuntime, CpusetCPUs: r.CpusetCpus, CpusetMems: r.CpusetMems,
		OOMKillDisable: r.OomKillDisable != nil && *r.OomKillDisable, BlkioWeight: r.BlkioWeight,
	}
	if r.MemorySwappiness != nil && *r.MemorySwappiness != -1 {
		out.MemorySwappiness = r.MemorySwappiness
	}
	if r.PidsLimit != nil {
		out.PidsLimit = *r.PidsLimit
	}
	for _, d := range r.BlkioWeightDevice {
		if d != nil {
			out.BlkioWeightDevice = append(out.BlkioWeightDevice, shim.BlockDevice{Path: d.Path,
				Value: uint64(d.Weight)})
		}
	}
	for _, x := range []struct {
		from []*blkiodev.ThrottleDevice
		to   *[]shim.BlockDevice
	}{{r.BlkioDeviceReadBps, &out.ReadBps}, {r.BlkioDeviceWriteBps, &out.WriteBps},
		{r.BlkioDeviceReadIOps, &out.ReadIOps}, {r.BlkioDeviceWriteIOps, &out.WriteIOps}} {
		for _, d := range x.from {
			if d != nil {
				*x.to = append(*x.to, shim.BlockDevice{Path: d.Path, Value: d.Rate})
			}
		}
	}
	return out, nil
}

func encodeResources(s engine.Spec) container.Resources {
	r := s.Resources
	out := container.Resources{
		CPUShares: r.CPUShares, Memory: r.Memory, NanoCPUs: r.NanoCPUs, CgroupParent: s.CgroupParent,
		BlkioWeight: r.BlkioWeight, BlkioWeightDevice: []*blkiodev.WeightDevice{},
		BlkioDeviceReadBps: throttled(r.ReadBps), BlkioDeviceWriteBps: throttled(r.WriteBps),
		BlkioDeviceReadIOps: throttled(r.ReadIOps), BlkioDeviceWriteIOps: throttled(r.WriteIOps),
		CPUPeriod: r.CPUPeriod, CPUQuota: r.CPUQuota, CPURealtimePeriod: r.CPURTPeriod,
		CPURealtimeRuntime: r.CPURTRuntime, CpusetCpus: r.CpusetCPUs, CpusetMems: r.CpusetMems,
		Devices: []container.DeviceMapping{}, DeviceCgroupRules: s.DeviceRules, MemoryReservation: r.MemoryReservation,
		MemorySwap: r.MemorySwap, MemorySwappiness: r.MemorySwappiness, OomKillDisable: new(r.OOMKillDisable),
		Ulimits: []*container.Ulimit{},
	}
	if r.PidsLimit != 0 {
		out.PidsLimit = new(r.PidsLimit)
	}
	for _, d := range r.BlkioWeightDevice {
		out.BlkioWeightDevice = append(out.BlkioWeightDevice, &blkiodev.WeightDevice{Path: d.Path,
			Weight: uint16(d.Value)})
	}
	for _, d := range s.Devices {
		out.Devices = append(out.Devices, container.DeviceMapping{PathOnHost: d.Source,
			PathInContainer: cmp.Or(d.Target, d.Source), CgroupPermissions: cmp.Or(d.Permissions, "rwm")})
	}
	for _, u := range s.Ulimits {
		out.Ulimits = append(out.Ulimits, &container.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	return out
}

func throttled(devices []shim.BlockDevice) []*blkiodev.ThrottleDevice {
	out := []*blkiodev.ThrottleDevice{}
	for _, d := range devices {
		out = append(out, &blkiodev.ThrottleDevice{Path: d.Path, Rate: d.Value})
	}
	return out
}

// networkMode is how Docker says on which network a container is first.
func networkMode(s engine.Spec) string {
	if len(s.Networks) == 0 {
		return cnm.NetworkBridge
	}
	return s.Networks[0].Network
}

// encodeHostConfig is the HostConfig that would make the same container.
func encodeHostConfig(s engine.Spec) *container.HostConfig {
	out := &container.HostConfig{
		ContainerIDFile: s.Client.CIDFile,
		LogConfig:       container.LogConfig{Type: cmp.Or(s.LogDriver, engine.LogFiles), Config: s.LogOptions},
		NetworkMode:     container.NetworkMode(networkMode(s)), PortBindings: encodeBindings(s.Ports),
		RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyMode(cmp.Or(s.Restart.Name,
			engine.RestartNo)), MaximumRetryCount: s.Restart.MaxRetries},
		AutoRemove: s.Remove, Annotations: s.Annotations, CapAdd: s.CapAdd, CapDrop: s.CapDrop,
		CgroupnsMode: container.CgroupnsMode(cmp.Or(s.CgroupNSMode, "private")),
		DNS:          s.DNS, DNSOptions: s.DNSOptions, DNSSearch: s.DNSSearch, ExtraHosts: s.ExtraHosts,
		GroupAdd: s.Groups, IpcMode: container.IpcMode(cmp.Or(s.IpcMode, "private")), Links: s.Links,
		OomScoreAdj: s.OOMScoreAdj, PidMode: container.PidMode(s.PidMode), Privileged: s.Privileged,
		ReadonlyRootfs: s.ReadOnly, SecurityOpt: encodeSecurity(s), UTSMode: container.UTSMode(s.UTSMode),
		UsernsMode: container.UsernsMode(s.UserNS), ShmSize: cmp.Or(s.ShmSize, usualShm), Sysctls: s.Sysctls,
		Runtime: cmp.Or(s.Runtime, "runc"), Resources: encodeResources(s),
		MaskedPaths: maskedPaths(), ReadonlyPaths: readonlyPaths(), VolumesFrom: s.VolumesFrom,
	}
	if s.LogOptions == nil {
		out.LogConfig.Config = map[string]string{}
	}
	if s.Unmasked || s.Privileged {
		out.MaskedPaths, out.ReadonlyPaths = []string{}, []string{}
	}
	if s.Init {
		out.Init = new(true)
	}
	encodeMounts(s.Mounts, out)
	return out
}

// usualShm is the size of a /dev/shm that nobody has asked for another of, in bytes.
const usualShm = 64 << 20

// maskedPaths and readonlyPaths are what Docker hides and protects of /proc and /sys. Clients that make a container
// like another send them back.
func maskedPaths() []string {
	return []string{"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys",
		"/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware"}
}

func readonlyPaths() []string {
	return []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// decodeSecurity reads the options of security, of which each is NAME, NAME=VALUE or NAME:VALUE.
func decodeSecurity(h container.HostConfig, out *engine.Spec, n *notes) error {
	for _, o := range h.SecurityOpt {
		name, value, given := strings.Cut(o, "=")
		if colon, rest, ok := strings.Cut(o, ":"); ok && (!given || len(colon) < len(name)) {
			name, value, given = colon, rest, true
		}
		switch {
		case name == "no-new-privileges" && (!given || value == "true"):
			out.NoNewPrivs = true
		case name == "no-new-privileges" && value == "false":
			out.NoNewPrivs = false
		case name == "seccomp" && (value == "builtin" || value == "default"):
			out.Seccomp = ""
		case name == "seccomp" && value != "":
			out.Seccomp = value
		case name == "apparmor" && value != "":
			out.AppArmor = value
		case name == "systempaths" && value == "unconfined":
			out.Unmasked = true
		case name == "label":
			n.ignored("SecurityOpt "+o, value != "disable")
		default:
			return invalid("SecurityOpt", o, "is no option that is known here", "use no-new-privileges, "+
				"seccomp=PROFILE, apparmor=PROFILE, label=disable or systempaths=unconfined")
		}
	}
	return decodeSystemPaths(h, out)
}

// decodeSystemPaths tells from the paths whether /proc and /sys are to be hidden: all that is, or nothing.
func decodeSystemPaths(h container.HostConfig, out *engine.Spec) error {
	if h.MaskedPaths != nil && h.ReadonlyPaths != nil && len(h.MaskedPaths)+len(h.ReadonlyPaths) == 0 {
		out.Unmasked = true
		return nil
	}
	for _, x := range []struct {
		field       string
		given, have []string
	}{{"MaskedPaths", h.MaskedPaths, maskedPaths()}, {"ReadonlyPaths", h.ReadonlyPaths, readonlyPaths()}} {
		for _, p := range x.given {
			if !slices.Contains(x.have, p) {
				return unsupported(x.field, p, "single paths of /proc and /sys are not hidden or protected here",
					"leave it out, or give both lists empty to have nothing hidden")
			}
		}
	}
	return nil
}

func encodeSecurity(s engine.Spec) []string {
	var out []string
	if s.NoNewPrivs {
		out = append(out, "no-new-privileges")
	}
	if s.Seccomp != "" {
		out = append(out, "seccomp="+s.Seccomp)
	}
	if s.AppArmor != "" {
		out = append(out, "apparmor="+s.AppArmor)
	}
	return out
}
