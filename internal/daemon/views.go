package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// view is a network with its endpoints and its link on the host, as the
// driver renders it.
func (n *networks) view(ctx context.Context, net cnm.Network) (server.NetworkView, error) {
	v := server.NetworkView{Network: net}
	st, err := n.render.Network(net)
	if err != nil {
		return v, err
	}
	for _, l := range st.Links {
		if l.NS == "" && l.Kind == plan.Bridge {
			v.Link = l.Name
		}
	}
	ends, err := n.ctrl.EndpointsOn(ctx, net.ID)
	if err != nil {
		return v, err
	}
	for _, e := range ends {
		ev, err := n.endpointOf(ctx, net, e)
		if err != nil {
			return v, err
		}
		v.Endpoints = append(v.Endpoints, ev)
	}
	return v, nil
}

func (n *networks) sandboxView(ctx context.Context, b cnm.Sandbox, ends []cnm.Endpoint) (server.SandboxView, error) {
	v := server.SandboxView{Sandbox: b, Path: n.path(b.NetNS)}
	for _, e := range ends {
		ev, err := n.endpointView(ctx, e)
		if err != nil {
			return v, err
		}
		v.Endpoints = append(v.Endpoints, ev)
	}
	return v, nil
}

func (n *networks) endpointView(ctx context.Context, e cnm.Endpoint) (server.EndpointView, error) {
	net, err := n.ctrl.Network(ctx, e.Network)
	if err != nil {
		return server.EndpointView{}, err
	}
	return n.endpointOf(ctx, net, e)
}

func (n *networks) endpointOf(ctx context.Context, net cnm.Network, e cnm.Endpoint) (server.EndpointView, error) {
	v := server.EndpointView{Endpoint: e, NetworkName: net.Name}
	st, err := n.render.Endpoint(ctx, net, e)
	if err != nil && !errors.Is(err, cnm.ErrUnavailable) { // a plugin has not made its part
		return v, err
	}
	for _, l := range st.Links {
		switch l.Kind {
		case plan.Veth:
			v.HostLink = l.Name
		case plan.Given:
			v.MAC = l.MAC
		}
		v.Interface = e.LinkName()
		if l.Kind == plan.Given {
			v.Interface = l.Name
		}
	}
	for _, p := range net.Pools {
		has := slices.ContainsFunc(e.Addrs, func(a netip.Prefix) bool { return p.Subnet.Contains(a.Addr()) })
		if has && p.Gateway.IsValid() && !net.Internal {
			v.Gateways = append(v.Gateways, p.Gateway)
		}
	}
	if len(st.Links) > 0 { // it is attached
		v.Path = &server.EndpointPath{Slow: n.render.SlowPath(net, e)}
	}
	b, err := n.ctrl.Sandbox(ctx, e.Sandbox)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return v, err
	}
	v.ContainerID, v.ContainerName = b.Container, e.Name
	v.Missing, err = n.missing(ctx, e.Ports)
	return v, err
}

// missing are the addresses that ports are to be published on and that the host does not have.
func (n *networks) missing(ctx context.Context, ports []cnm.PortMapping) (out []netip.Addr, err error) {
	var have []netip.Addr
	for _, m := range ports {
		a := m.HostIP
		if !a.IsValid() || a.IsUnspecified() || a.IsLoopback() || slices.Contains(out, a) {
			continue
		}
		if have == nil {
			if have, err = n.hostAddrs(ctx); err != nil {
				return nil, fmt.Errorf("look at the host's addresses: %w", err)
			}
		}
		if !slices.Contains(have, a.WithZone("")) {
			out = append(out, a)
		}
	}
	return out, nil
}
