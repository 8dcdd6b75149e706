package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/vethloom/vethloom/cnm"
)

// Fields of Docker's protocol. What it has beside these is of no use here.
type (
	poolData struct {
		AddressSpace, Pool, Gateway string
		AuxAddresses                map[string]string
	}
	networkRequest struct {
		NetworkID          string
		Options            networkOptions
		IPv4Data, IPv6Data []poolData
	}
	networkOptions struct {
		Generic  map[string]string `json:"com.docker.network.generic"`
		Internal bool              `json:"com.docker.network.internal"`
		IPv6     bool              `json:"com.docker.network.enable_ipv6"`
	}
	iface struct {
		Address     string `json:",omitempty"`
		AddressIPv6 string `json:",omitempty"`
		MacAddress  string `json:",omitempty"`
	}
	portBinding struct {
		Proto                       uint8
		IP, HostIP                  string
		Port, HostPort, HostPortEnd uint16
	}
	endpointOptions struct {
		Ports []portBinding `json:"com.docker.network.portmap"`
	}
	endpointRequest struct {
		NetworkID, EndpointID string
		Interface             *iface
		Options               endpointOptions
	}
	staticRoute struct {
		Destination string
		RouteType   int
		NextHop     string `json:",omitempty"`
	}
	interfaceName struct{ SrcName, DstPrefix string }
	joinAnswer    struct {
		InterfaceName         interfaceName
		Gateway, GatewayIPv6  string `json:",omitempty"`
		StaticRoutes          []staticRoute
		DisableGatewayService bool
	}
	poolRequest struct {
		AddressSpace, Pool, SubPool string
		Options                     map[string]string
		V6                          bool
	}
	addressRequest struct {
		PoolID, Address string
		Options         map[string]string
	}
)

// decode reads a request.
func (s *Server) decode(method string, body []byte) (task, error) {
	t, err := s.taskOf(method, body)
	if method != "IpamDriver.RequestAddress" { // two of those ask for two addresses
		t.key = method + string(body)
	}
	return t, err
}

// taskOf is what a method does with the body.
func (s *Server) taskOf(method string, body []byte) (task, error) {
	switch method {
	case "NetworkDriver.CreateNetwork":
		return undone(body, s.createNetwork, inverse(s.deleteNetwork))
	case "NetworkDriver.DeleteNetwork":
		return typed(body, s.deleteNetwork)
	case "NetworkDriver.CreateEndpoint":
		return undone(body, s.createEndpoint, inverse(s.deleteEndpoint))
	case "NetworkDriver.DeleteEndpoint":
		return typed(body, s.deleteEndpoint)
	case "NetworkDriver.EndpointOperInfo":
		return typed(body, s.endpointInfo)
	case "NetworkDriver.Join":
		return typed(body, s.join)
	case "NetworkDriver.ProgramExternalConnectivity":
		return typed(body, s.publish)
	case "NetworkDriver.RevokeExternalConnectivity", "NetworkDriver.Leave":
		return typed(body, s.revoke)
	case "IpamDriver.RequestPool":
		return typed(body, s.requestPool)
	case "IpamDriver.RequestAddress":
		return undone(body, s.requestAddress, s.giveBack)
	case "IpamDriver.ReleaseAddress":
		return typed(body, s.releaseAddress)
	}
	return task{}, refuse("method", method, "there is no such method of Docker's plugin protocol", "upgrade netd")
}

// request is checked before it is looked at.
type request interface {
	check() error
}

func typed[R request](body []byte, do func(context.Context, R) (any, error)) (task, error) {
	return undone(body, do, nil)
}

// inverse is a request that takes back another of the same form.
func inverse[R request](do func(context.Context, R) (any, error)) func(context.Context, R, any) error {
	return func(ctx context.Context, r R, _ any) error {
		_, err := do(ctx, r)
		return err
	}
}

// undone is a request whose work can be taken back.
func undone[R request](body []byte, do func(context.Context, R) (any, error),
	undo func(context.Context, R, any) error) (t task, err error) {
	var r R
	d := json.NewDecoder(bytes.NewReader(body))
	if err := d.Decode(&r); err != nil {
		return t, fmt.Errorf("the request is not what the protocol has there: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return t, refuse("request", "", "there is more than one JSON object in it", "send one")
	}
	if err := r.check(); err != nil {
		return t, err
	}
	t.do = func(ctx context.Context) (any, error) { return do(ctx, r) }
	if undo != nil {
		t.undo = func(ctx context.Context, answer any) error { return undo(ctx, r, answer) }
	}
	return t, nil
}

func (r networkRequest) check() error { return cnm.CheckID(r.NetworkID) }

func (r endpointRequest) check() error {
	if err := cnm.CheckID(r.NetworkID); err != nil {
		return err
	}
	return cnm.CheckID(r.EndpointID)
}

func (r poolRequest) check() error {
	if r.Options["net"] == "" {
		return refuse("--ipam-driver", "vethloom", "there is no --ipam-opt net=NAME",
			"name a network of vethloom with --ipam-opt net=NAME and -o net=NAME, or leave --ipam-driver out")
	}
	return nil
}

func (r addressRequest) check() error {
	_, _, err := poolOf(r.PoolID)
	return err
}
