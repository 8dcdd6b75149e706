package view

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// This file has the shapes that inspect shows. They have Docker's field names
// where Docker has the field, so that people's templates keep working.

type networkView struct {
	Name       string
	ID         string `json:"Id"`
	Created    Moment
	Scope      string
	Driver     string
	EnableIPv4 bool
	EnableIPv6 bool
	IPAM       ipamView
	Internal   bool
	ConfigFrom configFromView
	ConfigOnly bool
	Builtin    bool
	Link       string       // of the host
	Cluster    *clusterView `json:",omitempty"` // of networks that reach other hosts
	Containers map[string]memberView
	Options    map[string]string
	Labels     map[string]string
}

// Id is Docker's spelling in templates.
func (v networkView) Id() string { return v.ID } //nolint:staticcheck // templates say .Id

// configFromView names the network that one was made from.
type configFromView struct{ Network string }

type ipamView struct {
	Driver  string
	Options map[string]string `json:",omitempty"`
	Config  []poolView
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
	Engine      string `json:",omitempty"` // whose container it is, where it is none of vethloom's own
	Path        string `json:",omitempty"` // fast or slow
	PathReason  string `json:",omitempty"` // why it is slow
}

func Network(n *apiv1.Network) networkView {
	v := networkView{
		Name: n.GetName(), ID: n.GetId(), Created: Time(n.GetCreated()), Scope: n.GetScope(), Driver: n.GetDriver(),
		EnableIPv4: n.GetIpv4(), EnableIPv6: n.GetIpv6(), Internal: n.GetInternal(), Builtin: n.GetBuiltin(),
		Link: n.GetLink(), ConfigFrom: configFromView{n.GetConfigFrom()}, ConfigOnly: n.GetConfigOnly(),
		IPAM: ipamView{Driver: "default", Config: []poolView{}}, Containers: map[string]memberView{},
		Options: OrEmpty(n.GetOptions()), Labels: OrEmpty(n.GetLabels()), Cluster: viewCluster(n),
	}
	if driver := n.GetIpamDriver(); driver != "" {
		v.IPAM.Driver, v.IPAM.Options = driver, n.GetIpamOptions()
	}
	for _, p := range n.GetPools() {
		v.IPAM.Config = append(v.IPAM.Config, poolView{
			Subnet: p.GetSubnet(), IPRange: p.GetIpRange(), Gateway: p.GetGateway(),
			AuxiliaryAddresses: p.GetAuxAddresses(),
		})
	}
	for _, e := range n.GetEndpoints() {
		m := memberView{Name: e.GetContainer(), EndpointID: e.GetId(), MacAddress: e.GetMacAddress(),
			Engine: e.GetEngine()}
		m.Path, m.PathReason = Path(e)
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

type networkSettingsView struct {
	SandboxID  string
	SandboxKey string
	Ports      map[string][]Binding
	Networks   map[string]*endpointView
	// those of the network that provides the default route, as scripts written for one network expect
	IPAddress, Gateway, GlobalIPv6Address, IPv6Gateway, MacAddress string
	IPPrefixLen, GlobalIPv6PrefixLen                               int
}

type Binding struct {
	HostIP   string `json:"HostIp"`
	HostPort string
}

// HostIp is Docker's spelling in templates.
func (b Binding) HostIp() string { return b.HostIP } //nolint:staticcheck // templates say .HostIp

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
	Sysctls             map[string]string `json:",omitempty"`
	HostLink            string
	Path                string `json:",omitempty"` // fast or slow
	PathReason          string `json:",omitempty"` // why it is slow
}

func NetworkSettingsOf(sb *apiv1.Sandbox) networkSettingsView {
	v := networkSettingsView{
		SandboxID: sb.GetId(), SandboxKey: sb.GetNetnsPath(),
		Ports: map[string][]Binding{}, Networks: map[string]*endpointView{},
	}
	var first *apiv1.Endpoint
	for _, e := range sb.GetEndpoints() {
		v.Networks[e.GetNetwork()] = viewEndpoint(e)
		maps.Copy(v.Ports, bindings(EndpointPorts(e)))
		if first == nil || e.GetGatewayPriority() > first.GetGatewayPriority() {
			first = e
		}
	}
	if first != nil {
		e := viewEndpoint(first)
		v.IPAddress, v.IPPrefixLen, v.Gateway, v.MacAddress = e.IPAddress, e.IPPrefixLen, e.Gateway, e.MacAddress
		v.GlobalIPv6Address, v.GlobalIPv6PrefixLen = e.GlobalIPv6Address, e.GlobalIPv6PrefixLen
		v.IPv6Gateway = e.IPv6Gateway
	}
	return v
}

func viewEndpoint(e *apiv1.Endpoint) *endpointView {
	v := &endpointView{
		NetworkID: e.GetNetworkId(), EndpointID: e.GetId(), MacAddress: e.GetMacAddress(),
		GwPriority: e.GetGatewayPriority(),
		Aliases:    e.GetAliases(), InterfaceName: e.GetInterface(), HostLink: e.GetHostLink(),
		Sysctls: e.GetSysctls(),
	}
	v.Path, v.PathReason = Path(e)
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

// Path is how packets of an endpoint pass its host, fast or slow, and why it is slow. Both are empty where that is not
// known, as of endpoints on other nodes.
func Path(e *apiv1.Endpoint) (path, reason string) {
	switch p := e.GetPath(); {
	case p == nil:
		return "", ""
	case p.GetFast():
		return "fast", ""
	default:
		return "slow", p.GetReason()
	}
}

// EndpointPorts are the ports of an endpoint as they answer: one for every address of the host does so in the families
// that the endpoint has.
func EndpointPorts(e *apiv1.Endpoint) []cnm.PortMapping {
	families := map[bool]netip.Addr{}
	for _, a := range e.GetAddresses() {
		switch p, err := netip.ParsePrefix(a); {
		case err != nil:
		case p.Addr().Is4():
			families[true] = netip.IPv4Unspecified()
		default:
			families[false] = netip.IPv6Unspecified()
		}
	}
	out := PortMappings(e.GetPorts())
	for i := range out {
		if !out[i].HostIP.IsValid() && len(families) == 1 {
			out[i].HostIP = families[families[true].IsValid()]
		}
	}
	return out
}

// PortMappings are mappings that the daemon has checked.
func PortMappings(ports []*apiv1.PortMapping) []cnm.PortMapping {
	out := make([]cnm.PortMapping, len(ports))
	for i, p := range ports {
		out[i] = PortMapping(p)
	}
	return out
}

// bindings lists published ports by "port/proto", ranges port by port. A mapping
// for every address is two, as Docker shows it.
func bindings(ports []cnm.PortMapping) map[string][]Binding {
	out := map[string][]Binding{}
	for _, m := range ports {
		for i := range m.Count {
			key := strconv.Itoa(int(m.Port+i)) + "/" + string(m.Proto)
			port := ""
			if m.HostPort != 0 {
				port = strconv.Itoa(int(m.HostPort + i))
			}
			for _, ip := range m.HostIPs() {
				out[key] = append(out[key], Binding{HostIP: ip.String(), HostPort: port})
			}
		}
	}
	return out
}

// decode reads JSON of an image that is shown as it is. What cannot be read is not shown.
func decode(text []byte, to any) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // a time in nanoseconds is no float
	_ = d.Decode(to)
}

type volumeView struct {
	Name       string
	Driver     string
	Scope      string
	Mountpoint string
	CreatedAt  Moment
	Labels     map[string]string
	Options    map[string]string
	Containers []string
}

func Volume(v *apiv1.Volume) volumeView {
	return volumeView{
		Name: v.GetName(), Driver: Driver(v.GetDriver()), Scope: "local", Mountpoint: v.GetMountpoint(),
		CreatedAt: Time(v.GetCreated()), Labels: OrEmpty(v.GetLabels()), Options: v.GetOptions(),
		Containers: append([]string{}, v.GetContainers()...),
	}
}

// Driver is a volume's driver by its name.
func Driver(name string) string { return cmp.Or(name, "local") }

func OrEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// LabelList is labels on one line.
func LabelList(m map[string]string) string {
	parts := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		parts = append(parts, k+"="+m[k])
	}
	return strings.Join(parts, ",")
}

// PortMapping is a mapping that the daemon has checked.
func PortMapping(p *apiv1.PortMapping) cnm.PortMapping {
	m := cnm.PortMapping{Proto: plan.L4(p.GetProto()), HostPort: uint16(p.GetHostPort()),
		Port: uint16(p.GetContainerPort()), Count: uint16(max(p.GetCount(), 1)), Cluster: p.GetCluster()}
	if a, err := netip.ParseAddr(p.GetHostIp()); err == nil { // empty: every address
		m.HostIP = a
	}
	for _, s := range p.GetFrom() {
		if from, err := netip.ParsePrefix(s); err == nil {
			m.From = append(m.From, from)
		}
	}
	return m
}

// String is the address a port is published at.
func (b Binding) String() string { return net.JoinHostPort(b.HostIP, b.HostPort) }
