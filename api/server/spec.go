package server

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim"
	"github.com/vethloom/vethloom/plan"
)

// This file has what is asked of a container, both ways.

func decodeSpec(s *apiv1.ContainerSpec) (engine.Spec, error) {
	out := engine.Spec{
		Name: s.GetName(), Image: s.GetImage(), Command: s.GetCommand(), Entrypoint: s.GetEntrypoint(),
		Env: s.GetEnv(), WorkDir: s.GetWorkDir(), User: s.GetUser(), Hostname: s.GetHostname(),
		TTY: s.GetTty(), OpenStdin: s.GetOpenStdin(), StdinOnce: s.GetStdinOnce(), Remove: s.GetRemove(),
		PublishAll: s.GetPublishAll(),
		Options: engine.Options{
			Resources: decodeResources(s.GetResources()), Sysctls: s.GetSysctls(),
			Ulimits: list(s.GetUlimits(), func(u *apiv1.Ulimit) shim.Ulimit {
				return shim.Ulimit{Name: u.GetName(), Soft: u.GetSoft(), Hard: u.GetHard()}
			}),
			ShmSize: s.GetShmSize(), OOMScoreAdj: int(s.GetOomScoreAdj()), Domainname: s.GetDomainname(),
			Groups: s.GetGroupAdd(), Privileged: s.GetPrivileged(), ReadOnly: s.GetReadOnly(),
			NoNewPrivs: s.GetNoNewPrivileges(), Seccomp: s.GetSeccomp(), AppArmor: s.GetApparmor(),
			Unmasked: s.GetUnmasked(),
			Devices: list(s.GetDevices(), func(d *apiv1.Device) shim.Device {
				return shim.Device{Source: d.GetSource(), Target: d.GetTarget(), Permissions: d.GetPermissions()}
			}),
			DeviceRules: s.GetDeviceRules(),
		},
		CapAdd: s.GetCapAdd(), CapDrop: s.GetCapDrop(),
		UserNS: s.GetUserns(), StopSignal: s.GetStopSignal(), StopTimeout: s.GetStopTimeout().AsDuration(),
		ExtraHosts: s.GetExtraHosts(), Labels: s.GetLabels(),
		DNSSearch: s.GetDnsSearch(), DNSOptions: s.GetDnsOptions(),
		PidMode: s.GetPidMode(), IpcMode: s.GetIpcMode(), UTSMode: s.GetUtsMode(), CgroupNSMode: s.GetCgroupnsMode(),
		CgroupParent: s.GetCgroupParent(), Init: s.GetInit(), Restart: decodeRestart(s.GetRestart()),
		Health: decodeHealthcheck(s.GetHealthcheck()), LogDriver: s.GetLogDriver(), LogOptions: s.GetLogOptions(),
		VolumesFrom: s.GetVolumesFrom(), Links: s.GetLinks(), Annotations: s.GetAnnotations(),
		Runtime: s.GetRuntime(), Platform: s.GetPlatform(),
		Client: engine.ClientNotes{AttachStdin: s.GetAttachStdin(), AttachStdout: s.GetAttachStdout(),
			AttachStderr: s.GetAttachStderr(), CIDFile: s.GetCidfile()},
		Mounts: list(s.GetMounts(), decodeMount),
	}
	var err error
	if out.Expose, err = decodeExposed(s.GetExpose()); err != nil {
		return out, err
	}
	if out.Networks, err = decodeConnects(s.GetNetworks()); err != nil {
		return out, err
	}
	if out.Ports, err = decodePorts(s.GetPorts()); err != nil {
		return out, err
	}
	out.DNS, err = decodeAddrs("dns", s.GetDns())
	return out, err
}

func encodeSpec(s engine.Spec) *apiv1.ContainerSpec {
	return &apiv1.ContainerSpec{
		Name: s.Name, Image: s.Image, Command: s.Command, Entrypoint: s.Entrypoint, Env: s.Env,
		WorkDir: s.WorkDir, User: s.User, Hostname: s.Hostname, Tty: s.TTY, OpenStdin: s.OpenStdin, Remove: s.Remove,
		StdinOnce: s.StdinOnce,
		Networks:  list(s.Networks, encodeConnect), Ports: list(s.Ports, encodePort),
		Resources: encodeResources(s.Resources), Sysctls: s.Sysctls, CapAdd: s.CapAdd, CapDrop: s.CapDrop,
		Ulimits: list(s.Ulimits, func(u shim.Ulimit) *apiv1.Ulimit {
			return &apiv1.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard}
		}),
		ShmSize: s.ShmSize, OomScoreAdj: int32(s.OOMScoreAdj), Domainname: s.Domainname, GroupAdd: s.Groups,
		Privileged: s.Privileged, ReadOnly: s.ReadOnly, NoNewPrivileges: s.NoNewPrivs, Seccomp: s.Seccomp,
		Apparmor: s.AppArmor, Unmasked: s.Unmasked,
		Devices: list(s.Devices, func(d shim.Device) *apiv1.Device {
			return &apiv1.Device{Source: d.Source, Target: d.Target, Permissions: d.Permissions}
		}),
		DeviceRules: s.DeviceRules, Userns: s.UserNS, StopSignal: s.StopSignal, StopTimeout: duration(s.StopTimeout),
		Dns: list(s.DNS, addr), DnsSearch: s.DNSSearch, DnsOptions: s.DNSOptions,
		Expose:     list(s.Expose, func(p plan.NamePort) string { return fmt.Sprintf("%d/%s", p.Port, p.Proto) }),
		ExtraHosts: s.ExtraHosts, Labels: s.Labels,
		PidMode: s.PidMode, IpcMode: s.IpcMode, UtsMode: s.UTSMode, CgroupnsMode: s.CgroupNSMode,
		CgroupParent: s.CgroupParent, Init: s.Init, Restart: encodeRestart(s.Restart),
		Healthcheck: encodeHealthcheck(s.Health), LogDriver: s.LogDriver, LogOptions: s.LogOptions,
		Links: s.Links, Annotations: s.Annotations, Runtime: s.Runtime, Platform: s.Platform,
		AttachStdin: s.Client.AttachStdin, AttachStdout: s.Client.AttachStdout, AttachStderr: s.Client.AttachStderr,
		Cidfile: s.Client.CIDFile, Mounts: list(s.Mounts, encodeMount),
	}
}

func decodeResources(r *apiv1.Resources) engine.Resources {
	if r == nil {
		return engine.Resources{}
	}
	return engine.Resources{
		Memory: r.GetMemory(), MemoryReservation: r.GetMemoryReservation(), MemorySwap: r.GetMemorySwap(),
		MemorySwappiness: r.MemorySwappiness, NanoCPUs: r.GetNanoCpus(), CPUShares: r.GetCpuShares(),
		CPUPeriod: r.GetCpuPeriod(), CPUQuota: r.GetCpuQuota(), CPURTPeriod: r.GetCpuRtPeriod(),
		CPURTRuntime: r.GetCpuRtRuntime(), CpusetCPUs: r.GetCpusetCpus(), CpusetMems: r.GetCpusetMems(),
		PidsLimit: r.GetPidsLimit(), OOMKillDisable: r.GetOomKillDisable(),
		BlkioWeight:       uint16(min(r.GetBlkioWeight(), maxWeight)),
		BlkioWeightDevice: list(r.GetBlkioWeightDevice(), decodeBlock),
		ReadBps:           list(r.GetReadBps(), decodeBlock), WriteBps: list(r.GetWriteBps(), decodeBlock),
		ReadIOps: list(r.GetReadIops(), decodeBlock), WriteIOps: list(r.GetWriteIops(), decodeBlock),
	}
}

// maxWeight keeps a weight that is too large one that is refused for it.
const maxWeight = 1<<16 - 1

func encodeResources(r engine.Resources) *apiv1.Resources {
	return &apiv1.Resources{
		Memory: r.Memory, MemoryReservation: r.MemoryReservation, MemorySwap: r.MemorySwap,
		MemorySwappiness: r.MemorySwappiness, NanoCpus: r.NanoCPUs, CpuShares: r.CPUShares,
		CpuPeriod: r.CPUPeriod, CpuQuota: r.CPUQuota, CpuRtPeriod: r.CPURTPeriod, CpuRtRuntime: r.CPURTRuntime,
		CpusetCpus: r.CpusetCPUs, CpusetMems: r.CpusetMems, PidsLimit: r.PidsLimit, OomKillDisable: r.OOMKillDisable,
		BlkioWeight: uint32(r.BlkioWeight), BlkioWeightDevice: list(r.BlkioWeightDevice, encodeBlock),
		ReadBps: list(r.ReadBps, encodeBlock), WriteBps: list(r.WriteBps, encodeBlock),
		ReadIops: list(r.ReadIOps, encodeBlock), WriteIops: list(r.WriteIOps, encodeBlock),
	}
}

func decodeBlock(b *apiv1.BlockDevice) shim.BlockDevice {
	return shim.BlockDevice{Path: b.GetPath(), Value: b.GetValue()}
}

func encodeBlock(b shim.BlockDevice) *apiv1.BlockDevice {
	return &apiv1.BlockDevice{Path: b.Path, Value: b.Value}
}

func decodeRestart(p *apiv1.RestartPolicy) engine.RestartPolicy {
	return engine.RestartPolicy{Name: p.GetName(), MaxRetries: int(p.GetMaxRetries())}
}

func encodeRestart(p engine.RestartPolicy) *apiv1.RestartPolicy {
	if p == (engine.RestartPolicy{}) {
		return nil
	}
	return &apiv1.RestartPolicy{Name: p.Name, MaxRetries: int32(p.MaxRetries)}
}

// duration leaves none unset.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

func decodeHealthcheck(h *apiv1.Healthcheck) *engine.Healthcheck {
	if h == nil {
		return nil
	}
	return &engine.Healthcheck{Test: h.GetTest(), Interval: h.GetInterval().AsDuration(),
		Timeout: h.GetTimeout().AsDuration(), StartPeriod: h.GetStartPeriod().AsDuration(),
		StartInterval: h.GetStartInterval().AsDuration(), Retries: int(h.GetRetries())}
}

func encodeHealthcheck(h *engine.Healthcheck) *apiv1.Healthcheck {
	if h == nil {
		return nil
	}
	return &apiv1.Healthcheck{Test: h.Test, Interval: duration(h.Interval), Timeout: duration(h.Timeout),
		StartPeriod: duration(h.StartPeriod), StartInterval: duration(h.StartInterval), Retries: int32(h.Retries)}
}

func encodeChecks(h *engine.Health) *apiv1.Health {
	if h == nil {
		return nil
	}
	return &apiv1.Health{Status: h.Status, FailingStreak: int32(h.Failing),
		Log: list(h.Log, func(p engine.HealthProbe) *apiv1.HealthProbe {
			return &apiv1.HealthProbe{Start: timestamp(p.Start), End: timestamp(p.End), ExitCode: int32(p.ExitCode),
				Output: p.Output}
		})}
}

func decodeMount(m *apiv1.Mount) engine.Mount {
	out := engine.Mount{
		Source: m.GetSource(), Target: m.GetTarget(), ReadOnly: m.GetReadOnly(), Volume: m.GetVolume(),
		Propagation: m.GetPropagation(), NonRecursive: m.GetNonRecursive(), MustExist: m.GetMustExist(),
		ShallowReadOnly: m.GetReadOnlyNonRecursive(), NoCopy: m.GetNoCopy(), Subpath: m.GetSubpath(),
		Driver: m.GetDriver(), DriverOptions: m.GetDriverOptions(), Labels: m.GetLabels(),
	}
	if t := m.GetTmpfs(); t != nil {
		out.Tmpfs = &engine.Tmpfs{Size: t.GetSize(), Mode: t.GetMode(), Options: t.GetOptions()}
	}
	return out
}

func encodeMount(m engine.Mount) *apiv1.Mount {
	out := &apiv1.Mount{
		Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly, Volume: m.Volume,
		Propagation: m.Propagation, NonRecursive: m.NonRecursive, MustExist: m.MustExist,
		ReadOnlyNonRecursive: m.ShallowReadOnly, NoCopy: m.NoCopy, Subpath: m.Subpath,
		Driver: m.Driver, DriverOptions: m.DriverOptions, Labels: m.Labels,
	}
	if t := m.Tmpfs; t != nil {
		out.Tmpfs = &apiv1.Tmpfs{Size: t.Size, Mode: t.Mode, Options: t.Options}
	}
	return out
}
