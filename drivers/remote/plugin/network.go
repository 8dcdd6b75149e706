package plugin

import (
	"context"
	"errors"
	"fmt"
)

// Network has the methods of a network driver.
type Network struct{ p *Plugin }

// Network is the plugin as a network driver.
func (p *Plugin) Network() Network { return Network{p} }

// Capabilities are how far a network driver's networks reach.
type Capabilities struct {
	Scope             string // local or global
	ConnectivityScope string // local or global; as Scope when the plugin does not say
	GwAllocChecker    bool   // it has GwAllocCheck
}

// IPData is a subnet of a network.
type IPData struct {
	AddressSpace string
	Pool         string         // a prefix
	Gateway      string         `json:",omitempty"` // an address with the prefix's length
	AuxAddresses map[string]any `json:",omitempty"`
}

// NetworkConfig is a network that is to be made.
type NetworkConfig struct {
	NetworkID string
	Options   map[string]any
	IPv4Data  []IPData
	IPv6Data  []IPData
}

// Interface is what an endpoint has. Of a request it has what is decided already, of an answer the rest.
type Interface struct {
	Address, AddressIPv6 string // with the length of their subnets
	MacAddress           string
}

// EndpointConfig is an endpoint that is to be made.
type EndpointConfig struct {
	NetworkID, EndpointID string
	Interface             *Interface
	Options               map[string]any
}

// InterfaceName is the link of an endpoint.
type InterfaceName struct {
	SrcName   string // on the host
	DstPrefix string // what its name in the sandbox begins with
	DstName   string // its name in the sandbox
}

// StaticRoute is a route of a sandbox.
type StaticRoute struct {
	Destination string // a prefix
	RouteType   int    // 0: by NextHop; 1: what it leads to is on the link
	NextHop     string
}

// The types of a [StaticRoute].
const (
	ByNextHop = 0
	OnLink    = 1
)

// JoinConfig is a sandbox that an endpoint joins.
type JoinConfig struct {
	NetworkID, EndpointID, SandboxKey string
	Options                           map[string]any
}

// Joined is what the sandbox gets by it.
type Joined struct {
	InterfaceName         InterfaceName
	Gateway, GatewayIPv6  string
	StaticRoutes          []StaticRoute
	DisableGatewayService bool
}

// ids are the names that most requests have.
type ids struct {
	NetworkID  string
	EndpointID string         `json:",omitempty"`
	Options    map[string]any `json:",omitempty"`
}

func (n Network) call(ctx context.Context, method string, in, out any) error {
	if out == nil {
		out = &struct{}{}
	}
	return n.p.call(ctx, NetworkDriver+"."+method, in, out)
}

// tolerant is a call of a method that not every plugin has.
func (n Network) tolerant(ctx context.Context, method string, in, out any) error {
	err := n.call(ctx, method, in, out)
	if errors.Is(err, errNoMethod) {
		return nil
	}
	return err
}

// Capabilities asks how far the driver's networks reach.
func (n Network) Capabilities(ctx context.Context) (Capabilities, error) {
	var c Capabilities
	if err := n.call(ctx, "GetCapabilities", nil, &c); err != nil {
		return c, err
	}
	if c.ConnectivityScope == "" {
		c.ConnectivityScope = c.Scope
	}
	for field, value := range map[string]string{"Scope": c.Scope, "ConnectivityScope": c.ConnectivityScope} {
		if value != "local" && value != "global" {
			return c, &CallError{n.p.name, NetworkDriver + ".GetCapabilities",
				fmt.Errorf("%s is %q: want local or global", field, clean(value))}
		}
	}
	return c, nil
}

// AllocateNetwork has a driver of global scope prepare a network. It returns the network's further options.
func (n Network) AllocateNetwork(ctx context.Context, id string, options map[string]string, v4, v6 []IPData) (
	map[string]string, error) {
	in := struct {
		NetworkID          string
		Options            map[string]string
		IPv4Data, IPv6Data []IPData
	}{id, options, v4, v6}
	var out struct{ Options map[string]string }
	err := n.call(ctx, "AllocateNetwork", in, &out)
	return out.Options, err
}

// FreeNetwork takes AllocateNetwork back.
func (n Network) FreeNetwork(ctx context.Context, id string) error {
	return n.call(ctx, "FreeNetwork", ids{NetworkID: id}, nil)
}

// CreateNetwork makes a network.
func (n Network) CreateNetwork(ctx context.Context, c NetworkConfig) error {
	return n.call(ctx, "CreateNetwork", c, nil)
}

// DeleteNetwork removes a network.
func (n Network) DeleteNetwork(ctx context.Context, id string) error {
	return n.call(ctx, "DeleteNetwork", ids{NetworkID: id}, nil)
}

// GwAllocCheck asks which families need no gateway. Only drivers that say so have the method.
func (n Network) GwAllocCheck(ctx context.Context, options map[string]any) (skip4, skip6 bool, err error) {
	var out struct{ SkipIPv4, SkipIPv6 bool }
	err = n.call(ctx, "GwAllocCheck", struct{ Options map[string]any }{options}, &out)
	return out.SkipIPv4, out.SkipIPv6, err
}

// CreateEndpoint makes an endpoint. It returns what the driver has chosen for it.
func (n Network) CreateEndpoint(ctx context.Context, c EndpointConfig) (Interface, error) {
	var out struct{ Interface *Interface }
	if err := n.call(ctx, "CreateEndpoint", c, &out); err != nil || out.Interface == nil {
		return Interface{}, err
	}
	return *out.Interface, nil
}

// DeleteEndpoint removes an endpoint.
func (n Network) DeleteEndpoint(ctx context.Context, network, endpoint string) error {
	return n.call(ctx, "DeleteEndpoint", ids{NetworkID: network, EndpointID: endpoint}, nil)
}

// EndpointOperInfo asks what the driver tells of an endpoint.
func (n Network) EndpointOperInfo(ctx context.Context, network, endpoint string) (map[string]any, error) {
	var out struct{ Value map[string]any }
	err := n.call(ctx, "EndpointOperInfo", ids{NetworkID: network, EndpointID: endpoint}, &out)
	return out.Value, err
}

// Join has a sandbox join an endpoint.
func (n Network) Join(ctx context.Context, c JoinConfig) (Joined, error) {
	var out struct {
		InterfaceName         *InterfaceName
		Gateway, GatewayIPv6  string
		StaticRoutes          []StaticRoute
		DisableGatewayService bool
	}
	if err := n.call(ctx, "Join", c, &out); err != nil {
		return Joined{}, err
	}
	j := Joined{Gateway: out.Gateway, GatewayIPv6: out.GatewayIPv6, StaticRoutes: out.StaticRoutes,
		DisableGatewayService: out.DisableGatewayService}
	if out.InterfaceName != nil {
		j.InterfaceName = *out.InterfaceName
	}
	return j, nil
}

// Leave takes Join back.
func (n Network) Leave(ctx context.Context, network, endpoint string) error {
	return n.call(ctx, "Leave", ids{NetworkID: network, EndpointID: endpoint}, nil)
}

// ProgramExternalConnectivity publishes an endpoint's ports. Plugins without it publish none.
func (n Network) ProgramExternalConnectivity(ctx context.Context, network, endpoint string,
	options map[string]any) error {
	return n.tolerant(ctx, "ProgramExternalConnectivity", ids{network, endpoint, options}, nil)
}

// RevokeExternalConnectivity takes ProgramExternalConnectivity back.
func (n Network) RevokeExternalConnectivity(ctx context.Context, network, endpoint string) error {
	return n.tolerant(ctx, "RevokeExternalConnectivity", ids{NetworkID: network, EndpointID: endpoint}, nil)
}

// NodeDiscovery is the type of discovery that tells of nodes.
const NodeDiscovery = 1

// Node is what a discovery of a node tells.
type Node struct {
	Address, BindAddress string
	Self                 bool
}

type discovery struct {
	DiscoveryType int
	DiscoveryData any
}

// DiscoverNew tells of something new.
func (n Network) DiscoverNew(ctx context.Context, kind int, data any) error {
	return n.call(ctx, "DiscoverNew", discovery{kind, data}, nil)
}

// DiscoverDelete tells that something has gone.
func (n Network) DiscoverDelete(ctx context.Context, kind int, data any) error {
	return n.call(ctx, "DiscoverDelete", discovery{kind, data}, nil)
}
