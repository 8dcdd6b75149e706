package view

import (
	"cmp"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// hostConfigView is what of the host a container gets.
type hostConfigView struct {
	Binds                                                    []string
	NetworkMode                                              string
	PortBindings                                             map[string][]Binding
	AutoRemove                                               bool
	CapAdd, CapDrop                                          []string
	DNS                                                      []string `json:"Dns"`
	DNSSearch                                                []string `json:"DnsSearch"`
	DNSOptions                                               []string `json:"DnsOptions"`
	ExtraHosts                                               []string
	Privileged, ReadonlyRootfs                               bool
	UsernsMode                                               string
	Memory                                                   int64
	NanoCPUs                                                 int64 `json:"NanoCpus"`
	PidsLimit                                                int64
	Sysctls                                                  map[string]string `json:",omitempty"`
	RestartPolicy                                            restartView
	LogConfig                                                logView
	ContainerIDFile, CgroupnsMode, IpcMode, PidMode, UTSMode string
	GroupAdd, Links, SecurityOpt                             []string
	OomScoreAdj                                              int32
	ShmSize                                                  int64
	Runtime                                                  string
	Init                                                     *bool             `json:",omitempty"`
	Tmpfs                                                    map[string]string `json:",omitempty"`
	Mounts                                                   []longMountView   `json:",omitempty"`
	Annotations                                              map[string]string `json:",omitempty"`
	CPUShares                                                int64             `json:"CpuShares"`
	CgroupParent                                             string
	BlkioWeight                                              uint32
	BlkioWeightDevice                                        []weightView
	BlkioDeviceReadBps, BlkioDeviceWriteBps                  []rateView
	BlkioDeviceReadIOps, BlkioDeviceWriteIOps                []rateView
	CPUPeriod                                                int64 `json:"CpuPeriod"`
	CPUQuota                                                 int64 `json:"CpuQuota"`
	CPURealtimePeriod                                        int64 `json:"CpuRealtimePeriod"`
	CPURealtimeRuntime                                       int64 `json:"CpuRealtimeRuntime"`
	CpusetCpus, CpusetMems                                   string
	Devices                                                  []deviceView
	DeviceCgroupRules                                        []string
	MemoryReservation, MemorySwap                            int64
	MemorySwappiness                                         *int64
	OomKillDisable                                           bool
	Ulimits                                                  []ulimitView
}

type restartView struct {
	Name              string
	MaximumRetryCount int32
}

type logView struct {
	Type   string
	Config map[string]string
}

type weightView struct {
	Path   string
	Weight uint64
}

type rateView struct {
	Path string
	Rate uint64
}

type deviceView struct{ PathOnHost, PathInContainer, CgroupPermissions string }

type ulimitView struct {
	Name       string
	Hard, Soft int64
}

// longMountView is a mount as --mount describes it.
type longMountView struct {
	Type     string
	Source   string `json:",omitempty"`
	Target   string
	ReadOnly bool `json:",omitempty"`
}

func each[T, V any](list []T, f func(T) V) []V {
	out := make([]V, 0, len(list))
	for _, t := range list {
		out = append(out, f(t))
	}
	return out
}

func rates(list []*apiv1.BlockDevice) []rateView {
	return each(list, func(d *apiv1.BlockDevice) rateView { return rateView{d.GetPath(), d.GetValue()} })
}

func hostConfig(s *apiv1.ContainerSpec) hostConfigView {
	r := s.GetResources()
	if r == nil {
		r = &apiv1.Resources{}
	}
	v := hostConfigView{
		NetworkMode: "bridge", PortBindings: bindings(PortMappings(s.GetPorts())), AutoRemove: s.GetRemove(),
		CapAdd: s.GetCapAdd(), CapDrop: s.GetCapDrop(), DNS: s.GetDns(),
		DNSSearch: s.GetDnsSearch(), DNSOptions: s.GetDnsOptions(), ExtraHosts: s.GetExtraHosts(),
		Privileged: s.GetPrivileged(), ReadonlyRootfs: s.GetReadOnly(), UsernsMode: s.GetUserns(),
		Sysctls:         s.GetSysctls(),
		RestartPolicy:   restartView{cmp.Or(s.GetRestart().GetName(), "no"), s.GetRestart().GetMaxRetries()},
		LogConfig:       logView{cmp.Or(s.GetLogDriver(), "json-file"), OrEmpty(s.GetLogOptions())},
		ContainerIDFile: s.GetCidfile(), CgroupnsMode: cmp.Or(s.GetCgroupnsMode(), "private"),
		IpcMode: cmp.Or(s.GetIpcMode(), "private"), PidMode: s.GetPidMode(), UTSMode: s.GetUtsMode(),
		GroupAdd: s.GetGroupAdd(), Links: s.GetLinks(), SecurityOpt: securityOptions(s),
		OomScoreAdj: s.GetOomScoreAdj(), ShmSize: cmp.Or(s.GetShmSize(), 64<<20), Runtime: s.GetRuntime(),
		Annotations: s.GetAnnotations(), CgroupParent: s.GetCgroupParent(), DeviceCgroupRules: s.GetDeviceRules(),
		Devices: each(s.GetDevices(), func(d *apiv1.Device) deviceView {
			return deviceView{d.GetSource(), cmp.Or(d.GetTarget(), d.GetSource()), cmp.Or(d.GetPermissions(), "rwm")}
		}),
		Ulimits: each(s.GetUlimits(), func(u *apiv1.Ulimit) ulimitView {
			return ulimitView{u.GetName(), u.GetHard(), u.GetSoft()}
		}),
	}
	if n := s.GetNetworks(); len(n) > 0 {
		v.NetworkMode = n[0].GetNetwork()
	}
	if s.GetInit() {
		v.Init = new(true)
	}
	for _, m := range s.GetMounts() {
		v.addMount(m)
	}
	v.addLimits(r)
	return v
}

// addLimits adds what an update can change.
func (v *hostConfigView) addLimits(r *apiv1.Resources) {
	v.Memory, v.MemoryReservation, v.MemorySwap = r.GetMemory(), r.GetMemoryReservation(), r.GetMemorySwap()
	v.MemorySwappiness, v.OomKillDisable = r.MemorySwappiness, r.GetOomKillDisable()
	v.NanoCPUs, v.PidsLimit, v.CPUShares = r.GetNanoCpus(), r.GetPidsLimit(), r.GetCpuShares()
	v.CPUPeriod, v.CPUQuota = r.GetCpuPeriod(), r.GetCpuQuota()
	v.CPURealtimePeriod, v.CPURealtimeRuntime = r.GetCpuRtPeriod(), r.GetCpuRtRuntime()
	v.CpusetCpus, v.CpusetMems, v.BlkioWeight = r.GetCpusetCpus(), r.GetCpusetMems(), r.GetBlkioWeight()
	v.BlkioWeightDevice = each(r.GetBlkioWeightDevice(), func(d *apiv1.BlockDevice) weightView {
		return weightView{d.GetPath(), d.GetValue()}
	})
	v.BlkioDeviceReadBps, v.BlkioDeviceWriteBps = rates(r.GetReadBps()), rates(r.GetWriteBps())
	v.BlkioDeviceReadIOps, v.BlkioDeviceWriteIOps = rates(r.GetReadIops()), rates(r.GetWriteIops())
}

// securityOptions are the values of --security-opt.
func securityOptions(s *apiv1.ContainerSpec) []string {
	var out []string
	if s.GetNoNewPrivileges() {
		out = append(out, "no-new-privileges")
	}
	if s.GetSeccomp() != "" {
		out = append(out, "seccomp="+s.GetSeccomp())
	}
	if s.GetApparmor() != "" {
		out = append(out, "apparmor="+s.GetApparmor())
	}
	if s.GetUnmasked() {
		out = append(out, "systempaths=unconfined")
	}
	return out
}

// addMount has a mount in the short form where that says all of it.
func (v *hostConfigView) addMount(m *apiv1.Mount) {
	if t := m.GetTmpfs(); t != nil {
		if v.Tmpfs == nil {
			v.Tmpfs = map[string]string{}
		}
		v.Tmpfs[m.GetTarget()] = tmpfsOptions(t, m.GetReadOnly())
		return
	}
	if m.GetVolume() && anonymous(m.GetSource()) {
		return // of Config.Volumes
	}
	if m.GetSubpath() != "" || m.GetNonRecursive() || m.GetReadOnlyNonRecursive() {
		kind := "bind"
		if m.GetVolume() {
			kind = "volume"
		}
		v.Mounts = append(v.Mounts, longMountView{kind, m.GetSource(), m.GetTarget(), m.GetReadOnly()})
		return
	}
	var options []string
	if m.GetReadOnly() {
		options = append(options, "ro")
	}
	if m.GetNoCopy() {
		options = append(options, "nocopy")
	}
	if m.GetPropagation() != "" {
		options = append(options, m.GetPropagation())
	}
	bind := m.GetSource() + ":" + m.GetTarget()
	if len(options) > 0 {
		bind += ":" + strings.Join(options, ",")
	}
	v.Binds = append(v.Binds, bind)
}

func tmpfsOptions(t *apiv1.Tmpfs, readOnly bool) string {
	options := append([]string{}, t.GetOptions()...)
	if readOnly {
		options = append(options, "ro")
	}
	if t.GetSize() > 0 {
		options = append(options, "size="+strconv.FormatInt(t.GetSize(), 10))
	}
	if t.GetMode() > 0 {
		options = append(options, "mode="+strconv.FormatUint(uint64(t.GetMode()), 8))
	}
	return strings.Join(options, ",")
}
