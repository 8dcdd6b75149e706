package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/plugin/attach"
)

// Controller is what the server needs of the model's Controller.
type Controller interface {
	Network(ctx context.Context, ref string) (cnm.Network, error)
	CreateNetwork(ctx context.Context, r cnm.NetworkRequest) (cnm.Network, error)
	Sandbox(ctx context.Context, ref string) (cnm.Sandbox, error)
	Sandboxes(ctx context.Context) ([]cnm.Sandbox, error)
	EndpointsOf(ctx context.Context, sandbox string) ([]cnm.Endpoint, error)
	CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error)
	DeleteSandbox(ctx context.Context, id string) error
	Repair(ctx context.Context, sandbox string) error
	Attach(ctx context.Context, sandbox string, r cnm.AttachRequest) (cnm.Endpoint, error)
	Detach(ctx context.Context, sandbox, network string) error
	Free(ctx context.Context, network string) error
	Reserve(ctx context.Context, r cnm.ReservationRequest) (cnm.Reservation, error)
	Unreserve(ctx context.Context, network, key string, ipv6 bool) error
	ReservationsOf(ctx context.Context, key string) ([]cnm.Reservation, error)
}

// Kernel knows the namespaces of others.
type Kernel interface {
	// Holds reports whether a path still leads to the namespace that was adopted from it.
	Holds(ns plan.NetNS, path string) bool
	// Identify tells the cookie of the namespace at a path: a [plan.NoNamespaceError] where there is none.
	Identify(path string) (cookie uint64, err error)
}

// Renderer tells what the kernel has for an endpoint.
type Renderer interface {
	Endpoint(ctx context.Context, n cnm.Network, e cnm.Endpoint) (plan.State, error)
}

// maxID bounds the names that engines give, in bytes.
const maxID = 256

// check refuses what cannot be right about any call.
func check(r attach.Request) error {
	if !slices.Contains([]string{cnm.EngineCNI, cnm.EngineNetavark}, r.Engine) {
		return invalid("engine %q: netd knows %s and %s", r.Engine, cnm.EngineCNI, cnm.EngineNetavark)
	}
	if len(r.Container) > maxID || len(r.Origin) > maxID || len(r.Name) > maxID {
		return invalid("a name of the container or its network has more than %d bytes", maxID)
	}
	switch r.Call {
	case attach.Collect, attach.Ready, attach.Describe:
		return nil
	case attach.Attach, attach.Reserve, attach.Detach, attach.Check:
	default:
		return invalid("call %q: there is no such one; %s", r.Call, oneVersion)
	}
	if r.Container == "" {
		return invalid("container: its ID is missing")
	}
	if r.Interface == "" {
		return invalid("interface: its name in the container is missing")
	}
	if (r.Call == attach.Attach || r.Call == attach.Reserve) && !filepath.IsAbs(r.NetNS) {
		return noNetNS(r.NetNS, "no absolute path")
	}
	if r.Call == attach.Reserve {
		return checkKey(r)
	}
	return nil
}

// lock keeps other calls about a container away.
func (s *Server) lock(ctx context.Context, k attach.Key) (id string, unlock func(), err error) {
	id = attach.SandboxID(k.Engine, k.Container)
	unlock, err = s.locks.Lock(ctx, id)
	return id, unlock, err
}

// attach puts a container on a network.
func (s *Server) attach(ctx context.Context, r attach.Request) (*attach.Result, error) {
	id, unlock, err := s.lock(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := s.finishLater(ctx, r.Key); err != nil {
		return nil, err
	}
	ask, err := s.request(ctx, r)
	if err != nil {
		return nil, err
	}
	sb, ok, err := s.standing(ctx, id)
	if err == nil && ok && sb.Adopted.Path != r.NetNS {
		// A container has one namespace. An engine that was killed while it started this one knows nothing of the
		// other, and will never detach it.
		ok, err = false, s.Controller.DeleteSandbox(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	if !ok {
		_, ends, err := s.Controller.CreateSandbox(ctx, cnm.SandboxRequest{ID: id, Engine: r.Engine,
			Container: r.Container, Name: r.Name, Adopt: r.NetNS, Attach: []cnm.AttachRequest{ask}})
		if err != nil {
			return nil, err
		}
		s.Settled()
		return s.result(ctx, ends[0])
	}
	e, there, err := s.endpoint(ctx, id, r.Interface)
	if err != nil {
		return nil, err
	}
	if !there {
		if err := s.beside(ctx, id, r, &ask); err != nil {
			return nil, err
		}
		e, err = s.Controller.Attach(ctx, id, ask)
	} else {
		err = s.again(ctx, e, r)
	}
	if err != nil {
		return nil, err
	}
	s.Settled()
	return s.result(ctx, e)
}

// beside makes a request agree with the other interfaces of a container: a network is refused that one of them is on.
// Engines name all ports of a container with each of its networks; those that are published stay out.
func (s *Server) beside(ctx context.Context, sandbox string, r attach.Request, ask *cnm.AttachRequest) error {
	n, err := s.Controller.Network(ctx, r.Network)
	if err != nil {
		return err
	}
	ends, err := s.Controller.EndpointsOf(ctx, sandbox)
	if err != nil {
		return err
	}
	published := map[string]bool{}
	for _, e := range ends {
		if e.Network == n.ID {
			return &attach.Error{Kind: attach.Conflict, Message: fmt.Sprintf("network %q: container %s is on it by "+
				"interface %s already; choose another network for %s", n.Name, cnm.Short(r.Container), e.LinkName(),
				r.Interface)}
		}
		for _, p := range e.Ports {
			published[p.String()] = true
		}
	}
	ask.Ports = slices.DeleteFunc(ask.Ports, func(p cnm.PortMapping) bool { return published[p.String()] })
	return nil
}

// again answers a request for what is there already.
func (s *Server) again(ctx context.Context, e cnm.Endpoint, r attach.Request) error {
	n, err := s.Controller.Network(ctx, r.Network)
	if err != nil {
		return err
	}
	if n.ID != e.Network || r.Origin != e.Origin {
		if n, err = s.Controller.Network(ctx, e.Network); err != nil {
			return err
		}
		return cnm.LinkTaken(r.Interface, n.Name)
	}
	s.Resync()
	return s.Controller.Repair(ctx, e.Sandbox)
}

// standing finds a container's sandbox. One whose namespace its engine has removed, or that is on its way out, goes
// first: the container is another one.
func (s *Server) standing(ctx context.Context, id string) (cnm.Sandbox, bool, error) {
	sb, err := s.Controller.Sandbox(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) {
		return sb, false, nil
	}
	if err != nil {
		return sb, false, err
	}
	if sb.Phase == cnm.Active && s.holds(sb) {
		return sb, true, nil
	}
	return sb, false, s.Controller.DeleteSandbox(ctx, id)
}

func (s *Server) holds(sb cnm.Sandbox) bool {
	return sb.Adopted != nil && s.Kernel.Holds(sb.NetNS, sb.Adopted.Path)
}

// endpoint finds what a container has by a link.
func (s *Server) endpoint(ctx context.Context, sandbox, link string) (cnm.Endpoint, bool, error) {
	ends, err := s.Controller.EndpointsOf(ctx, sandbox)
	if err != nil {
		return cnm.Endpoint{}, false, err
	}
	i := slices.IndexFunc(ends, func(e cnm.Endpoint) bool { return e.LinkName() == link })
	if i < 0 {
		return cnm.Endpoint{}, false, nil
	}
	return ends[i], true, nil
}

// request is what is asked of the Controller. A network that is to be made is made first.
func (s *Server) request(ctx context.Context, r attach.Request) (cnm.AttachRequest, error) {
	ask := cnm.AttachRequest{Network: r.Network, Name: r.Name, Addrs: r.Addresses, Aliases: r.Aliases,
		GwPriority: r.GwPriority, Origin: r.Origin,
		LinkOptions: cnm.LinkOptions{IfName: r.Interface, RateIn: r.RateIn, RateOut: r.RateOut}}
	if r.MAC != "" {
		mac, err := net.ParseMAC(r.MAC)
		if err != nil || len(mac) != len(ask.MAC) {
			return ask, invalid("MAC address %q: want six bytes, such as 02:42:ac:11:00:02", r.MAC)
		}
		copy(ask.MAC[:], mac)
	}
	for _, p := range r.Ports {
		m, err := cnm.NewPortMapping(plan.L4(p.Proto), p.HostIP, uint32(p.HostPort), uint32(p.Port),
			uint32(max(p.Count, 1)))
		if err != nil {
			return ask, err
		}
		ask.Ports = append(ask.Ports, m)
	}
	_, err := s.network(ctx, r)
	return ask, err
}

// network finds the network of a request, and makes it where there is none and the request says how.
func (s *Server) network(ctx context.Context, r attach.Request) (cnm.Network, error) {
	n, err := s.Controller.Network(ctx, r.Network)
	if !errors.Is(err, cnm.ErrNotFound) || r.Create == nil {
		return n, err
	}
	// Others that ask for it at once wait: a network that is being made is not found yet, and its name is taken.
	unlock, err := s.locks.Lock(ctx, "network/"+r.Network)
	if err != nil {
		return n, err
	}
	defer unlock()
	if n, err = s.Controller.Network(ctx, r.Network); !errors.Is(err, cnm.ErrNotFound) {
		return n, err
	}
	n, err = s.Controller.CreateNetwork(ctx, create(r.Network, *r.Create))
	if errors.Is(err, cnm.ErrExists) { // by the API meanwhile; or it is said why not
		if made, e := s.Controller.Network(ctx, r.Network); e == nil {
			return made, nil
		}
	}
	return n, err
}

// describe tells what a network is.
func (s *Server) describe(ctx context.Context, r attach.Request) (*attach.Network, error) {
	n, err := s.network(ctx, r)
	if err != nil {
		return nil, err
	}
	d := &attach.Network{Driver: n.Driver, Internal: n.Internal, Subnets: []attach.Address{}}
	for _, p := range n.Pools {
		d.Subnets = append(d.Subnets, attach.Address{Prefix: p.Subnet, Gateway: p.Gateway})
	}
	return d, nil
}

func create(name string, c attach.Create) cnm.NetworkRequest {
	r := cnm.NetworkRequest{Name: name, Driver: c.Driver, Internal: c.Internal, IPv6: c.IPv6,
		Options: maps.Clone(c.Options)}
	v4 := false
	for _, p := range c.Subnets {
		r.Pools = append(r.Pools, cnm.PoolRequest{Subnet: p})
		r.IPv6 = r.IPv6 || p.Addr().Is6()
		v4 = v4 || p.Addr().Is4()
	}
	r.DisableIPv4 = len(c.Subnets) > 0 && !v4
	return r
}

// detach takes a container off a network, and gives back what was reserved for it.
func (s *Server) detach(ctx context.Context, k attach.Key) error {
	_, unlock, err := s.lock(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	return errors.Join(s.detachLocked(ctx, k), attach.Done(s.Later, k))
}

func (s *Server) detachLocked(ctx context.Context, k attach.Key) error {
	return errors.Join(s.takeOff(ctx, k), s.release(ctx, k))
}

// takeOff removes an endpoint. With the last one of a container its sandbox goes.
func (s *Server) takeOff(ctx context.Context, k attach.Key) error {
	id := attach.SandboxID(k.Engine, k.Container)
	ends, err := s.Controller.EndpointsOf(ctx, id)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(ends, func(e cnm.Endpoint) bool { return e.LinkName() == k.Interface })
	switch {
	case len(ends) == 0 || i >= 0 && len(ends) == 1:
		return s.Controller.DeleteSandbox(ctx, id)
	case i < 0:
		return nil
	}
	return s.Controller.Detach(ctx, id, ends[i].Network)
}

// check looks whether an attachment is as its engine was told, and repairs it in the kernel.
func (s *Server) check(ctx context.Context, r attach.Request) (*attach.Result, error) {
	id, unlock, err := s.lock(ctx, r.Key)
	if err != nil {
		return nil, err
	}
	defer unlock()
	e, ok, err := s.endpoint(ctx, id, r.Interface)
	if err != nil {
		return nil, err
	}
	if !ok {
		if a, err := s.reserved(ctx, r); a != nil || err != nil {
			return a, err
		}
	}
	if !ok || r.Origin != e.Origin {
		return nil, &attach.Error{Kind: attach.NotFound, Message: fmt.Sprintf("container %s has no interface %s of "+
			"network %s: it was detached; attach it again", cnm.Short(r.Container), r.Interface, r.Origin)}
	}
	sb, err := s.Controller.Sandbox(ctx, id)
	if err != nil {
		return nil, err
	}
	if !s.holds(sb) || r.NetNS != "" && sb.Adopted.Path != r.NetNS {
		return nil, noNetNS(r.NetNS, "is not the one that was attached; attach the container again")
	}
	for _, p := range r.Had {
		if !slices.Contains(e.Addrs, p) {
			return nil, fmt.Errorf("interface %s has not the address %s that it was given: its node's share of the "+
				"network has changed; attach the container again", r.Interface, p)
		}
	}
	s.Resync()
	if err := s.Controller.Repair(ctx, id); err != nil {
		return nil, err
	}
	return s.result(ctx, e)
}

// ready tells whether a container can be put on a network now.
func (s *Server) ready(ctx context.Context, r attach.Request) error {
	n, err := s.Controller.Network(ctx, r.Network)
	if errors.Is(err, cnm.ErrNotFound) && r.Create != nil {
		return nil
	}
	if err != nil {
		return err
	}
	return s.Controller.Free(ctx, n.ID)
}

// result is what the kernel has of an endpoint.
func (s *Server) result(ctx context.Context, e cnm.Endpoint) (*attach.Result, error) {
	n, err := s.Controller.Network(ctx, e.Network)
	if err != nil {
		return nil, err
	}
	st, err := s.Render.Endpoint(ctx, n, e)
	if err != nil {
		return nil, err
	}
	r := &attach.Result{Interface: e.LinkName(), MAC: e.MAC.String()}
	for _, l := range st.Links {
		if l.NS == "" {
			r.HostLink = l.Name
		}
		r.MTU = l.MTU
	}
	gateways := map[bool]netip.Addr{}
	for _, way := range st.Routes {
		if way.NS != e.NetNS || way.Table != 0 {
			continue
		}
		r.Routes = append(r.Routes, attach.Route{Dst: way.Dst, Via: way.Via})
		if way.Dst.Bits() == 0 {
			gateways[way.Dst.Addr().Is4()] = way.Via
		}
	}
	for _, p := range e.Addrs {
		r.Addresses = append(r.Addresses, attach.Address{Prefix: p, Gateway: gateways[p.Addr().Is4()]})
	}
	r.NameServers = []netip.Addr{cnm.ResolverAddr()}
	return r, nil
}
