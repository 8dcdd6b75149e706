package cli

import (
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// This file has the shapes that inspect shows. They have Docker's field names
// where Docker has the field, so that people's templates keep working.

type networkView struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamView
	Internal   bool
	Builtin    bool
	Link       string       // of the host
	Cluster    *clusterView `json:",omitempty"` // of networks that reach other hosts
	Containers map[string]memberView
	Options    map[string]string
	Labels     map[string]string
}

// Id is Docker's spelling in templates.
func (v networkView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

type ipamView struct {
	Driver string
	Config []poolView
}

type poolView struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

type memberView struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
}

func viewNetwork(n *apiv1.Network) networkView {
	v := networkView{
		Name: n.GetName(), ID: n.GetId(), Created: stamp(n.GetCreated()), Scope: n.GetScope(), Driver: n.GetDriver(),
		EnableIPv4: n.GetIpv4(), EnableIPv6: n.GetIpv6(), Internal: n.GetInternal(), Builtin: n.GetBuiltin(), Link: n.GetLink(),
		IPAM: ipamView{Driver: "default", Config: []poolView{}}, Containers: map[string]memberView{},
		Options: orEmpty(n.GetOptions()), Labels: orEmpty(n.GetLabels()), Cluster: viewCluster(n),
	}
	for _, p := range n.GetPools() {
		v.IPAM.Config = append(v.IPAM.Config, poolView{
			Subnet: p.GetSubnet(), IPRange: p.GetIpRange(), Gateway: p.GetGateway(), AuxiliaryAddresses: p.GetAuxAddresses(),
		})
	}
	for _, e := range n.GetEndpoints() {
		m := memberView{Name: e.GetContainer(), EndpointID: e.GetId(), MacAddress: e.GetMacAddress()}
		for _, s := range e.GetAddresses() {
			if p, err := netip.ParsePrefix(s); err == nil && p.Addr().Is4() {
				m.IPv4Address = s
			} else {
				m.IPv6Address = s
			}
		}
		key := e.GetContainerId()
		if key == "" {
			key = e.GetSandboxId() // a bare sandbox
		}
		v.Containers[key] = m
	}
	return v
}

type containerView struct {
	ID              string `json:"Id"`
	Created         time.Time
	Path            string
	Args            []string
	State           stateView
	Image           string // ID
	LogPath         string
	Name            string // with Docker's leading slash
	HostConfig      hostConfigView
	Mounts          []mountView
	Config          configView
	NetworkSettings networkSettingsView
	RootPath        string
}

// Id is Docker's spelling in templates.
func (v containerView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

type stateView struct {
	Status     string
	Running    bool
	Paused     bool
	Restarting bool
	OOMKilled  bool
	Dead       bool
	Pid        int32
	ExitCode   int32
	Error      string
	StartedAt  time.Time
	FinishedAt time.Time
}

type hostConfigView struct {
	Binds          []string
	NetworkMode    string
	PortBindings   map[string][]bindingView
	AutoRemove     bool
	CapAdd         []string
	CapDrop        []string
	DNS            []string `json:"Dns"`
	ExtraHosts     []string
	Privileged     bool
	ReadonlyRootfs bool
	UsernsMode     string
	Memory         int64
	NanoCPUs       int64 `json:"NanoCpus"`
	PidsLimit      int64
}

type mountView struct {
	Type        string
	Name        string `json:",omitempty"`
	Source      string
	Destination string
	RW          bool
}

type configView struct {
	Hostname    string
	User        string
	Tty         bool
	OpenStdin   bool
	Env         []string
	Cmd         []string
	Image       string
	WorkingDir  string
	Entrypoint  []string
	Labels      map[string]string
	StopSignal  string `json:",omitempty"`
	StopTimeout *int64 `json:",omitempty"` // seconds
}

type networkSettingsView struct {
	SandboxID  string
	SandboxKey string
	Ports      map[string][]bindingView
	Networks   map[string]*endpointView
}

type bindingView struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// HostIp is Docker's spelling in templates.
func (b bindingView) HostIp() string { return b.HostIP } //nolint:staticcheck // templates say .HostIp

type endpointView struct {
	NetworkID           string
	EndpointID          string
	Gateway             string
	IPAddress           string
	IPPrefixLen         int
	IPv6Gateway         string
	GlobalIPv6Address   string
	GlobalIPv6PrefixLen int
	MacAddress          string
	GwPriority          int32
	Aliases             []string
	InterfaceName       string
	HostLink            string
}

func viewContainer(c *apiv1.Container) containerView {
	s := c.GetSpec()
	v := containerView{
		ID: c.GetId(), Created: stamp(c.GetCreated()), Args: []string{}, Image: c.GetImageId(), LogPath: c.GetLogPath(),
		Name: "/" + s.GetName(), RootPath: c.GetRootPath(),
		State: stateView{
			Status: c.GetStatus(), Running: c.GetStatus() == "running" || c.GetStatus() == "paused", Paused: c.GetStatus() == "paused",
			OOMKilled: c.GetOomKilled(), Pid: c.GetPid(), ExitCode: c.GetExitCode(), Error: c.GetError(),
			StartedAt: stamp(c.GetStarted()), FinishedAt: stamp(c.GetFinished()),
		},
		Config: configView{
			Hostname: s.GetHostname(), User: s.GetUser(), Tty: s.GetTty(), OpenStdin: s.GetOpenStdin(), Env: s.GetEnv(),
			Cmd: s.GetCommand(), Image: s.GetImage(), WorkingDir: s.GetWorkDir(), Entrypoint: s.GetEntrypoint(),
			Labels: orEmpty(s.GetLabels()), StopSignal: s.GetStopSignal(),
		},
		HostConfig: hostConfigView{
			NetworkMode: "bridge", PortBindings: bindings(s.GetPorts()), AutoRemove: s.GetRemove(),
			CapAdd: s.GetCapAdd(), CapDrop: s.GetCapDrop(), DNS: s.GetDns(), ExtraHosts: s.GetExtraHosts(),
			Privileged: s.GetPrivileged(), ReadonlyRootfs: s.GetReadOnly(), UsernsMode: s.GetUserns(),
			Memory: s.GetMemory(), NanoCPUs: s.GetNanoCpus(), PidsLimit: s.GetPidsLimit(),
		},
		Mounts:          []mountView{},
		NetworkSettings: viewNetworkSettings(c.GetSandbox()),
	}
	if args := c.GetArgs(); len(args) > 0 {
		v.Path, v.Args = args[0], args[1:]
	}
	if t := s.GetStopTimeout(); t != nil {
		seconds := int64(t.AsDuration() / time.Second)
		v.Config.StopTimeout = &seconds
	}
	if n := s.GetNetworks(); len(n) > 0 {
		v.HostConfig.NetworkMode = n[0].GetNetwork()
	}
	for _, m := range s.GetMounts() {
		v.addMount(m)
	}
	return v
}

func (v *containerView) addMount(m *apiv1.Mount) {
	mount := mountView{Type: "bind", Source: m.GetSource(), Destination: m.GetTarget(), RW: !m.GetReadOnly()}
	if m.GetVolume() {
		mount.Type, mount.Name = "volume", m.GetSource()
	}
	v.Mounts = append(v.Mounts, mount)
	bind := m.GetSource() + ":" + m.GetTarget()
	if m.GetReadOnly() {
		bind += ":ro"
	}
	v.HostConfig.Binds = append(v.HostConfig.Binds, bind)
}

func viewNetworkSettings(sb *apiv1.Sandbox) networkSettingsView {
	v := networkSettingsView{
		SandboxID: sb.GetId(), SandboxKey: sb.GetNetnsPath(),
		Ports: map[string][]bindingView{}, Networks: map[string]*endpointView{},
	}
	for _, e := range sb.GetEndpoints() {
		v.Networks[e.GetNetwork()] = viewEndpoint(e)
		maps.Copy(v.Ports, bindings(e.GetPorts()))
	}
	return v
}

func viewEndpoint(e *apiv1.Endpoint) *endpointView {
	v := &endpointView{
		NetworkID: e.GetNetworkId(), EndpointID: e.GetId(), MacAddress: e.GetMacAddress(), GwPriority: e.GetGatewayPriority(),
		Aliases: e.GetAliases(), InterfaceName: e.GetInterface(), HostLink: e.GetHostLink(),
	}
	for _, s := range e.GetAddresses() {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
		case p.Addr().Is4():
			v.IPAddress, v.IPPrefixLen = p.Addr().String(), p.Bits()
		default:
			v.GlobalIPv6Address, v.GlobalIPv6PrefixLen = p.Addr().String(), p.Bits()
		}
	}
	for _, g := range e.GetGateways() {
		if strings.Contains(g, ":") {
			v.IPv6Gateway = g
		} else {
			v.Gateway = g
		}
	}
	return v
}

// bindings lists published ports by "port/proto", ranges port by port. A mapping
// for every address is two, as Docker shows it.
func bindings(ports []*apiv1.PortMapping) map[string][]bindingView {
	out := map[string][]bindingView{}
	for _, p := range ports {
		ips := []string{p.GetHostIp()}
		if p.GetHostIp() == "" {
			ips = []string{"0.0.0.0", "::"}
		}
		for i := range max(p.GetCount(), 1) {
			key := strconv.Itoa(int(p.GetContainerPort()+i)) + "/" + p.GetProto()
			port := ""
			if p.GetHostPort() != 0 {
				port = strconv.Itoa(int(p.GetHostPort() + i))
			}
			for _, ip := range ips {
				out[key] = append(out[key], bindingView{HostIP: ip, HostPort: port})
			}
		}
	}
	return out
}

type imageView struct {
	ID           string `json:"Id"`
	RepoTags     []string
	Created      time.Time
	Size         int64
	Os           string
	Architecture string
	RootFS       rootFSView
	Config       imageConfigView
}

// Id is Docker's spelling in templates.
func (v imageView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

type rootFSView struct {
	Type   string
	Layers []string
}

type imageConfigView struct {
	User         string
	Env          []string
	Entrypoint   []string
	Cmd          []string
	WorkingDir   string
	ExposedPorts map[string]struct{} `json:",omitempty"`
	Labels       map[string]string
}

func viewImage(i *apiv1.Image) imageView {
	v := imageView{
		ID: i.GetId(), RepoTags: slices.Concat([]string{}, i.GetReferences()), Created: stamp(i.GetCreated()), Size: i.GetSize(),
		Os: i.GetOs(), Architecture: i.GetArchitecture(), RootFS: rootFSView{"layers", i.GetLayers()},
		Config: imageConfigView{
			User: i.GetUser(), Env: i.GetEnv(), Entrypoint: i.GetEntrypoint(), Cmd: i.GetCommand(),
			WorkingDir: i.GetWorkDir(), Labels: orEmpty(i.GetLabels()),
		},
	}
	for _, p := range i.GetExposedPorts() {
		if v.Config.ExposedPorts == nil {
			v.Config.ExposedPorts = map[string]struct{}{}
		}
		v.Config.ExposedPorts[p] = struct{}{}
	}
	return v
}

type volumeView struct {
	Name       string
	Driver     string
	Scope      string
	Mountpoint string
	CreatedAt  time.Time
	Labels     map[string]string
	Containers []string
}

func viewVolume(v *apiv1.Volume) volumeView {
	return volumeView{
		Name: v.GetName(), Driver: "local", Scope: "local", Mountpoint: v.GetMountpoint(),
		CreatedAt: stamp(v.GetCreated()), Labels: orEmpty(v.GetLabels()), Containers: slices.Concat([]string{}, v.GetContainers()),
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// labelList is labels on one line.
func labelList(m map[string]string) string {
	parts := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}
