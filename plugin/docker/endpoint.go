package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// endpointLabel of a sandbox is the ID of Docker's endpoint that it was made for.
const endpointLabel = "docker.endpoint"

// sandboxID is that of the sandbox for an endpoint of Docker's: the same at each try.
func sandboxID(endpoint string) string {
	sum := sha256.Sum256([]byte(cnm.EngineDocker + endpoint))
	return hex.EncodeToString(sum[:])
}

func (s *Server) createEndpoint(ctx context.Context, r endpointRequest) (any, error) {
	k, _, err := s.back.lookup(ctx, r.NetworkID)
	if err != nil {
		return nil, err
	}
	if _, err := s.back.Controller.Network(ctx, k.Network); errors.Is(err, cnm.ErrNotFound) {
		return nil, &cnm.Error{Kind: cnm.ErrNotFound, Field: "network", Value: cnm.Short(k.Network),
			Cause: cnm.ErrNotFound, Reason: "the network of vethloom that this one was made for is gone",
			Remedy: "docker network rm this one, and make both again"}
	}
	ask, err := s.attachment(ctx, k.Network, r.Interface)
	if err != nil {
		return nil, err
	}
	_, ends, err := s.back.Controller.CreateSandbox(ctx, cnm.SandboxRequest{ID: sandboxID(r.EndpointID),
		Engine: cnm.EngineDocker, Handed: true, Attach: []cnm.AttachRequest{ask},
		Labels: map[string]string{endpointLabel: r.EndpointID}})
	if err != nil {
		return nil, err
	}
	// dockerd takes it ill when a field has a value that it had given.
	var out iface
	for _, a := range ends[0].Addrs {
		switch {
		case a.Addr().Is4() && (r.Interface == nil || r.Interface.Address == ""):
			out.Address = a.String()
		case a.Addr().Is6() && (r.Interface == nil || r.Interface.AddressIPv6 == ""):
			out.AddressIPv6 = a.String()
		}
	}
	if r.Interface == nil || r.Interface.MacAddress == "" {
		out.MacAddress = ends[0].MAC.String()
	}
	return map[string]iface{"Interface": out}, nil
}

// attachment is the request for the endpoint, with what Docker has decided.
func (s *Server) attachment(ctx context.Context, network string, i *iface) (cnm.AttachRequest, error) {
	ask := cnm.AttachRequest{Network: network}
	if i == nil {
		return ask, nil
	}
	for _, text := range []string{i.Address, i.AddressIPv6} {
		if text == "" {
			continue
		}
		a, err := parseAddr(text)
		if err != nil {
			return ask, err
		}
		ask.Addrs = append(ask.Addrs, a)
		kept, err := s.back.aux(ctx, network)
		if err != nil {
			return ask, err
		}
		if kept[a] {
			return ask, refuse("--ip", a.String(), "--aux-address keeps it from containers", "choose another")
		}
		key, err := s.reserved(ctx, network, a)
		if err != nil {
			return ask, err
		}
		if key != "" {
			ask.Reserved = append(ask.Reserved, key)
		}
	}
	if i.MacAddress == "" {
		return ask, nil
	}
	mac, err := net.ParseMAC(i.MacAddress)
	if err != nil || len(mac) != len(ask.MAC) {
		return ask, refuse("--mac-address", i.MacAddress, "no hardware address", "give one such as 02:42:0a:07:00:05")
	}
	copy(ask.MAC[:], mac)
	return ask, nil
}

func (s *Server) deleteEndpoint(ctx context.Context, r endpointRequest) (any, error) {
	return struct{}{}, s.back.Controller.DeleteSandbox(ctx, sandboxID(r.EndpointID))
}

// endpointInfo answers with nothing: what dockerd takes from there are values of its own types, which no answer has. It
// shows no ports for that reason.
func (s *Server) endpointInfo(context.Context, endpointRequest) (any, error) {
	return map[string]any{"Value": map[string]any{}}, nil
}

// endpoint is our endpoint for one of Docker's.
func (s *Server) endpoint(ctx context.Context, r endpointRequest) (cnm.Endpoint, error) {
	ends, err := s.back.Controller.EndpointsOf(ctx, sandboxID(r.EndpointID))
	for _, e := range ends {
		if e.Phase == cnm.Active {
			return e, err
		}
	}
	if err == nil || errors.Is(err, cnm.ErrNotFound) {
		err = &cnm.Error{Kind: cnm.ErrNotFound, Field: "EndpointID", Value: cnm.Short(r.EndpointID),
			Reason: "netd knows no such endpoint", Remedy: "start the container again"}
	}
	return cnm.Endpoint{}, err
}

// inside is any namespace: what a container of ours would have for the endpoint is what Docker's is to have.
const inside = plan.NetNS("container")

func (s *Server) join(ctx context.Context, r endpointRequest) (any, error) {
	e, err := s.endpoint(ctx, r)
	if err != nil {
		return nil, err
	}
	n, err := s.back.Controller.Network(ctx, e.Network)
	if err != nil {
		return nil, err
	}
	handed, err := s.back.Render.Endpoint(ctx, n, e)
	if err != nil {
		return nil, err
	}
	var out joinAnswer
	for _, l := range handed.Links {
		if l.Peer.Loose {
			out.InterfaceName = interfaceName{SrcName: l.Peer.Name, DstPrefix: "eth"}
		}
	}
	e.Handed, e.NetNS = false, inside
	whole, err := s.back.Render.Endpoint(ctx, n, e)
	if err != nil {
		return nil, err
	}
	out.routes(whole.Routes)
	return out, nil
}

// routes are those of the main table that the container is to have.
func (a *joinAnswer) routes(all []plan.Route) {
	for _, r := range all {
		switch {
		case r.NS != inside || r.Table != 0:
		case r.Dst.Bits() == 0 && r.Via.Is4():
			a.Gateway = r.Via.String()
		case r.Dst.Bits() == 0:
			a.GatewayIPv6 = r.Via.String()
		default:
			route := staticRoute{Destination: r.Dst.String(), RouteType: 1}
			if r.Via.IsValid() {
				route.RouteType, route.NextHop = 0, r.Via.String()
			}
			a.StaticRoutes = append(a.StaticRoutes, route)
		}
	}
	a.DisableGatewayService = a.Gateway == "" // dockerd would lead out by a bridge of its own
}

func (s *Server) publish(ctx context.Context, r endpointRequest) (any, error) {
	e, err := s.endpoint(ctx, r)
	if err != nil {
		return nil, err
	}
	for shift := uint16(0); ; shift++ {
		var ports []cnm.PortMapping
		more := false
		for _, b := range r.Options.Ports {
			m, err := b.mapping(shift)
			if err != nil {
				return nil, err
			}
			ports = append(ports, m)
			more = more || shift < b.spare()
		}
		err := s.back.Controller.Publish(ctx, e.Sandbox, ports)
		if err == nil || !more || !errors.Is(err, cnm.ErrPortTaken) {
			return struct{}{}, err
		}
	}
}

// spare is how many host ports there are beside the first.
func (b portBinding) spare() uint16 {
	if b.HostPort == 0 || b.HostPortEnd < b.HostPort {
		return 0
	}
	return b.HostPortEnd - b.HostPort
}

// mapping is a published port. Docker gives a range of host ports to choose one from: shift says which.
func (b portBinding) mapping(shift uint16) (cnm.PortMapping, error) {
	m := cnm.PortMapping{HostPort: b.HostPort + min(shift, b.spare()), Port: b.Port, Count: 1, Dynamic: b.HostPort == 0}
	switch b.Proto {
	case 6:
		m.Proto = "tcp"
	case 17:
		m.Proto = "udp"
	case 132:
		m.Proto = "sctp"
	default:
		return m, refuse("--publish", "", "a protocol that is none of tcp, udp and sctp", "choose one of them")
	}
	if b.HostIP != "" {
		a, err := parseAddr(b.HostIP)
		if err != nil {
			return m, err
		}
		m.HostIP = a // the unspecified address is every one of that family alone
	}
	return m, nil
}

// revoke unpublishes. One that is gone has no ports.
func (s *Server) revoke(ctx context.Context, r endpointRequest) (any, error) {
	e, err := s.endpoint(ctx, r)
	if errors.Is(err, cnm.ErrNotFound) {
		return struct{}{}, nil
	}
	if err != nil || len(e.Ports) == 0 {
		return struct{}{}, err
	}
	return struct{}{}, s.back.Controller.Publish(ctx, e.Sandbox, nil)
}
