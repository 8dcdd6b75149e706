// Package cni answers the Container Network Interface (https://www.cni.dev/docs/spec/, versions 0.3.0 to 1.1.0) with
// calls of netd. It is linked into a program that runs for each call, so it imports little.
package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/vethloom/vethloom/plugin/attach"
)

// Engine is what sandboxes of CNI are marked with.
const Engine = "cni"

// Versions are those of the specification that are answered.
func Versions() version.PluginInfo {
	return version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
}

// config is a network configuration: what the specification has, and what is ours.
type config struct {
	common
	settings
	GatewayPriority int `json:"gatewayPriority"`
	// NetNSRoot is where paths of namespaces begin, for an engine in a mount namespace that netd does not see:
	// /proc/PID/root.
	NetNSRoot string     `json:"netnsRoot"`
	alone     *aloneConf // nil: the link is ours, too
}

// settings say which network of netd's it is.
type settings struct {
	Network string            `json:"network"` // "": called as the configuration
	Driver  string            `json:"driver"`  // with one of these four it is made where it is not there
	Subnets []netip.Prefix    `json:"subnets"`
	IPv6    bool              `json:"ipv6"`
	Options map[string]string `json:"options"`
	Socket  string            `json:"socket"` // of netd
}

// common is what the specification has.
type common struct {
	types.PluginConf

	RuntimeConfig struct {
		PortMappings []portMapping       `json:"portMappings"`
		Bandwidth    *bandwidth          `json:"bandwidth"`
		IPs          []string            `json:"ips"`
		MAC          string              `json:"mac"`
		Aliases      map[string][]string `json:"aliases"` // by network
		IPRanges     [][]ipRange         `json:"ipRanges"`
		DNS          types.DNS           `json:"-"`
		RawDNS       json.RawMessage     `json:"dns"`
	} `json:"runtimeConfig"`
	Args struct {
		CNI struct {
			IPs     []string `json:"ips"`
			MAC     string   `json:"mac"`
			Aliases []string `json:"aliases"`
		} `json:"cni"`
	} `json:"args"`
	// what libcni sent before the key of ValidAttachments was decided
	Earlier []types.GCAttachment `json:"cni.dev/attachments"`
}

type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

// bandwidth has rates in bits a second, and bursts in bits, which netd chooses itself.
type bandwidth struct {
	IngressRate  uint64 `json:"ingressRate"`
	IngressBurst uint64 `json:"ingressBurst"`
	EgressRate   uint64 `json:"egressRate"`
	EgressBurst  uint64 `json:"egressBurst"`
}

type ipRange struct {
	Subnet netip.Prefix `json:"subnet"`
}

// envArgs are what CNI_ARGS may say.
type envArgs struct {
	types.CommonArgs
	IP           types.UnmarshallableString
	MAC          types.UnmarshallableString
	K8S_POD_NAME types.UnmarshallableString //nolint:revive,staticcheck // the variable's name
	K8S_POD_NAMESPACE,
	K8S_POD_INFRA_CONTAINER_ID types.UnmarshallableString //nolint:revive,staticcheck // the same
}

// readConfig decodes a configuration: ours, or that of a plugin that asks for addresses.
func readConfig(text []byte) (c config, err error) {
	if alone, e := decodeAlone(text); e != nil {
		err = e
	} else if alone != nil {
		c.common, c.settings, c.alone = alone.common, alone.IPAM.settings, &alone.IPAM
	} else {
		err = json.Unmarshal(text, &c)
	}
	if err != nil {
		return c, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("the configuration cannot be decoded: %v", err),
			"")
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return c, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("prevResult cannot be decoded: %v", err), "")
	}
	if len(c.RuntimeConfig.RawDNS) > 0 {
		if c.RuntimeConfig.DNS, err = readDNS(c.RuntimeConfig.RawDNS); err != nil {
			return c, badConfig("runtimeConfig.dns", string(c.RuntimeConfig.RawDNS), err.Error())
		}
	}
	if c.Network == "" {
		c.Network = c.Name
	}
	if c.Socket == "" {
		c.Socket = attach.Socket
	}
	if c.NetNSRoot != "" && !filepath.IsAbs(c.NetNSRoot) {
		return c, badConfig("netnsRoot", c.NetNSRoot, "no absolute path; want /proc/PID/root, or leave it out")
	}
	if c.alone == nil && c.IPAM.Type != "" {
		return c, badConfig("ipam.type", c.IPAM.Type, "addresses come from the network itself; leave ipam out")
	}
	return c, nil
}

// readDNS reads the capability dns, whose names differ from those of a result.
func readDNS(text []byte) (types.DNS, error) {
	var d struct {
		Servers  []string `json:"servers"`
		Searches []string `json:"searches"`
		Options  []string `json:"options"`
	}
	err := json.Unmarshal(text, &d)
	return types.DNS{Nameservers: d.Servers, Search: d.Searches, Options: d.Options}, err
}

func badConfig(field, value, reason string) error {
	return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("%s %q: %s", field, value, reason), "")
}

// create is the network that the configuration describes, nil where it only names one.
func (c *config) create() *attach.Create {
	subnets := slices.Clone(c.Subnets)
	for _, set := range c.RuntimeConfig.IPRanges {
		for _, r := range set {
			if r.Subnet.IsValid() && !slices.Contains(subnets, r.Subnet.Masked()) {
				subnets = append(subnets, r.Subnet.Masked())
			}
		}
	}
	if c.Driver == "" && len(subnets) == 0 && !c.IPv6 && len(c.Options) == 0 {
		return nil
	}
	return &attach.Create{Driver: c.Driver, Subnets: subnets, IPv6: c.IPv6, Options: c.Options}
}

// request is what is asked of netd for a container.
func (c *config) request(call attach.Call, a *skel.CmdArgs) (attach.Request, error) {
	r := attach.Request{Call: call, Key: attach.Key{Engine: Engine, Container: a.ContainerID, Interface: a.IfName},
		NetNS: c.path(a.Netns), Network: c.Network, Origin: c.Name, Create: c.create(), GwPriority: c.GatewayPriority}
	var env envArgs
	if err := types.LoadArgs(a.Args, &env); err != nil {
		return r, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("CNI_ARGS %q: %v", a.Args, err), "")
	}
	asked := slices.Concat(c.RuntimeConfig.IPs, c.Args.CNI.IPs)
	if env.IP != "" {
		asked = append(asked, strings.Split(string(env.IP), ",")...)
	}
	for _, text := range asked {
		addr, err := address(text)
		if err != nil {
			return r, badConfig("ips", text, "no IP address")
		}
		if !slices.Contains(r.Addresses, addr) {
			r.Addresses = append(r.Addresses, addr)
		}
	}
	if c.alone != nil {
		return r, nil
	}
	r.Name = string(env.K8S_POD_NAME)
	r.MAC = first(c.RuntimeConfig.MAC, c.Args.CNI.MAC, string(env.MAC))
	r.Aliases = append(slices.Clone(c.RuntimeConfig.Aliases[c.Name]), c.Args.CNI.Aliases...)
	if b := c.RuntimeConfig.Bandwidth; b != nil {
		r.RateIn, r.RateOut = b.IngressRate, b.EgressRate
	}
	var err error
	r.Ports, err = c.ports()
	return r, err
}

// path is where netd finds what the engine has at a path.
func (c *config) path(engines string) string {
	if engines == "" || c.NetNSRoot == "" {
		return engines
	}
	return filepath.Join(c.NetNSRoot, engines)
}

// address reads an address with or without a length.
func address(text string) (netip.Addr, error) {
	if p, err := netip.ParsePrefix(text); err == nil {
		return p.Addr(), nil
	}
	return netip.ParseAddr(text)
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

func (c *config) ports() ([]attach.Port, error) {
	var out []attach.Port
	for _, m := range c.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue // exposed, not published
		}
		if m.HostPort < 1 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, badConfig("portMappings", fmt.Sprintf("%d:%d", m.HostPort, m.ContainerPort),
				"ports are numbers from 1 to 65535")
		}
		p := attach.Port{Proto: strings.ToLower(first(m.Protocol, "tcp")), HostPort: uint16(m.HostPort),
			Port: uint16(m.ContainerPort)}
		if m.HostIP != "" {
			addr, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, badConfig("portMappings.hostIP", m.HostIP, "no IP address")
			}
			if !addr.IsUnspecified() {
				p.HostIP = addr
			}
		}
		out = append(out, p)
	}
	return out, nil
}

// previous is the result of the plugins before this one, nil without.
func (c *config) previous() (*types100.Result, error) {
	if c.PrevResult == nil {
		return nil, nil
	}
	r, err := types100.NewResultFromResult(c.PrevResult)
	if err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("prevResult cannot be converted: %v", err), "")
	}
	return r, nil
}

// errNoPrevious tells that CHECK was called without the result that it is to look for.
var errNoPrevious = errors.New("prevResult is missing, and CHECK looks for what it says")
