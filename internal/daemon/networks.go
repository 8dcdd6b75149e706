package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/plan"
)

// networks serves the API's networks and sandboxes, and the engine, from the one
// controller.
type networks struct {
	ctrl   *controller.Controller
	render *render.Renderer
	path   func(plan.NetNS) string
	// hostAddrs are the addresses that the host has.
	hostAddrs func(context.Context) ([]netip.Addr, error)
	// firewall is what has the rules.
	firewall string
	// settled waits until the resolver knows the names there are.
	settled func()
	// containers knows containers by reference; nil until the engine is open.
	containers *engine.Engine
}

// CreateSandbox implements [engine.Networks].
func (n *networks) CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (cnm.Sandbox, []cnm.Endpoint, error) {
	return n.ctrl.CreateSandbox(ctx, r)
}

// DeleteSandbox implements [engine.Networks].
func (n *networks) DeleteSandbox(ctx context.Context, id string) error {
	return n.ctrl.DeleteSandbox(ctx, id)
}

// Sandbox implements [engine.Networks].
func (n *networks) Sandbox(ctx context.Context, id string) (cnm.Sandbox, []cnm.Endpoint, error) {
	s, err := n.ctrl.Sandbox(ctx, id)
	if err != nil {
		return s, nil, err
	}
	ends, err := n.ctrl.EndpointsOf(ctx, s.ID)
	return s, ends, err
}

// Network implements [engine.Networks].
func (n *networks) Network(ctx context.Context, ref string) (cnm.Network, error) {
	return n.ctrl.Network(ctx, ref)
}

// Attach implements [engine.Networks].
func (n *networks) Attach(ctx context.Context, sandbox string, r cnm.AttachRequest) (cnm.Endpoint, error) {
	e, err := n.ctrl.Attach(ctx, sandbox, r)
	n.settled()
	return e, err
}

// Settled implements [engine.Networks].
func (n *networks) Settled() { n.settled() }

// Detach implements [engine.Networks].
func (n *networks) Detach(ctx context.Context, sandbox, network string) error {
	return n.ctrl.Detach(ctx, sandbox, network)
}

// Publish implements [engine.Networks].
func (n *networks) Publish(ctx context.Context, sandbox string, ports []cnm.PortMapping) error {
	return n.ctrl.Publish(ctx, sandbox, ports)
}

// Rename implements [engine.Networks].
func (n *networks) Rename(ctx context.Context, sandbox, name string) error {
	err := n.ctrl.Rename(ctx, sandbox, name)
	n.settled()
	return err
}

// NetNSPath implements [engine.Networks].
func (n *networks) NetNSPath(s cnm.Sandbox) string { return n.path(s.NetNS) }

// CreateNetwork implements [server.Networks].
func (n *networks) CreateNetwork(ctx context.Context, r cnm.NetworkRequest) (server.NetworkView, error) {
	if err := n.fitsFirewall(r); err != nil {
		return server.NetworkView{}, err
	}
	net, err := n.ctrl.CreateNetwork(ctx, r)
	if err != nil {
		return server.NetworkView{}, err
	}
	return n.view(ctx, net)
}

// ListNetworks implements [server.Networks].
func (n *networks) ListNetworks(ctx context.Context) ([]server.NetworkView, error) {
	list, err := n.ctrl.Networks(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]server.NetworkView, 0, len(list))
	for _, net := range list {
		v, err := n.view(ctx, net)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

// InspectNetwork implements [server.Networks].
func (n *networks) InspectNetwork(ctx context.Context, ref string) (server.NetworkView, error) {
	net, err := n.ctrl.Network(ctx, ref)
	if err != nil {
		return server.NetworkView{}, err
	}
	return n.view(ctx, net)
}

// UpdateNetwork implements [server.Networks]. On a network that is internal no more, ports that waited for one are
// published.
func (n *networks) UpdateNetwork(ctx context.Context, ref string, c cnm.NetworkChange) (server.NetworkView, error) {
	net, err := n.ctrl.UpdateNetwork(ctx, ref, c)
	if err != nil {
		return server.NetworkView{}, err
	}
	v, err := n.view(ctx, net)
	if c.Internal == nil || *c.Internal || n.containers == nil {
		return v, err
	}
	for _, e := range v.Endpoints {
		if e.ContainerID == "" {
			continue
		}
		if err := n.containers.ChangePorts(ctx, e.ContainerID, nil, nil); err != nil {
			return v, fmt.Errorf("network %s is changed, but the ports of container %s could not be published: %w",
				net.Name, cnm.Short(e.ContainerID), err)
		}
	}
	return v, err
}

// RemoveNetwork implements [server.Networks].
func (n *networks) RemoveNetwork(ctx context.Context, ref string) (string, error) {
	net, err := n.ctrl.DeleteNetwork(ctx, ref)
	return net.ID, err
}

// PruneNetworks implements [server.Networks].
func (n *networks) PruneNetworks(ctx context.Context, due func(cnm.Network) bool) ([]string, error) {
	return n.ctrl.PruneNetworks(ctx, due)
}

// LeaveNetwork implements [server.Networks]. With force, what of this node is on the network is disconnected first.
func (n *networks) LeaveNetwork(ctx context.Context, ref string, force bool) (string, error) {
	net, err := n.ctrl.Network(ctx, ref)
	if err != nil {
		return "", err
	}
	if force && net.Cluster != nil {
		if err := n.disconnectAll(ctx, net); err != nil {
			return "", fmt.Errorf("leave network %s: %w", net.Name, err)
		}
	}
	net, err = n.ctrl.LeaveNetwork(ctx, net.ID)
	return net.ID, err
}

// disconnectAll takes everything of this node off a network.
func (n *networks) disconnectAll(ctx context.Context, net cnm.Network) error {
	ends, err := n.ctrl.EndpointsOn(ctx, net.ID)
	if err != nil {
		return err
	}
	for _, e := range ends {
		b, err := n.ctrl.Sandbox(ctx, e.Sandbox)
		if errors.Is(err, cnm.ErrNotFound) {
			continue // it is on its way out
		}
		if err != nil {
			return err
		}
		if b.Engine != "" {
			err = n.dismiss(ctx, net, b)
		} else {
			err = n.Disconnect(ctx, net.ID, cmp.Or(b.Container, b.ID), true)
		}
		if err != nil {
			return fmt.Errorf("disconnect %s: %w", cnm.Short(cmp.Or(b.Container, b.ID)), err)
		}
	}
	return nil
}

// dismiss takes a container of another engine off a network. That engine detaches it once more, which is no error.
func (n *networks) dismiss(ctx context.Context, net cnm.Network, b cnm.Sandbox) error {
	ends, err := n.ctrl.EndpointsOf(ctx, b.ID)
	if err != nil {
		return err
	}
	if len(ends) == 1 {
		return n.ctrl.DeleteSandbox(ctx, b.ID)
	}
	if err := n.ctrl.Detach(ctx, b.ID, net.ID); err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return err
	}
	return nil
}

// JoinNetwork implements [server.Networks].
func (n *networks) JoinNetwork(ctx context.Context, ref string) (string, error) {
	net, err := n.ctrl.JoinNetwork(ctx, ref)
	return net.ID, err
}

// Connect implements [server.Networks]. A container's record has what it is on; a sandbox has no other record.
func (n *networks) Connect(ctx context.Context, container string, r cnm.AttachRequest) (server.EndpointView,
	error) {
	sandbox, bare, err := n.sandboxOf(ctx, container)
	if err != nil {
		return server.EndpointView{}, err
	}
	var e cnm.Endpoint
	if bare {
		e, err = n.Attach(ctx, sandbox, r)
	} else {
		e, err = n.containers.Connect(ctx, container, r)
	}
	if err != nil || e.ID == "" { // it is yet to start
		return server.EndpointView{}, err
	}
	if err := n.changed(ctx, e.Sandbox); err != nil {
		return server.EndpointView{}, err
	}
	return n.endpointView(ctx, e)
}

// Disconnect implements [server.Networks]. With force, a membership that does not exist is no error.
func (n *networks) Disconnect(ctx context.Context, network, container string, force bool) error {
	sandbox, bare, err := n.sandboxOf(ctx, container)
	if err != nil {
		return err
	}
	if !bare {
		err = n.containers.Disconnect(ctx, container, network, force)
	} else if err = n.ctrl.Detach(ctx, sandbox, network); force && errors.Is(err, cnm.ErrNotFound) {
		err = nil
	}
	if err != nil || sandbox == "" {
		return err
	}
	return n.changed(ctx, sandbox)
}

// CreateSandbox, RemoveSandbox and ListSandboxes of the API are on another type, because
// the engine has a method of the same name.
type sandboxes struct{ *networks }

// CreateSandbox implements [server.Sandboxes].
func (s sandboxes) CreateSandbox(ctx context.Context, r cnm.SandboxRequest) (server.SandboxView, error) {
	b, ends, err := s.ctrl.CreateSandbox(ctx, r)
	s.settled()
	if err != nil {
		return server.SandboxView{}, err
	}
	return s.sandboxView(ctx, b, ends)
}

// RemoveSandbox implements [server.Sandboxes].
func (s sandboxes) RemoveSandbox(ctx context.Context, id string) error {
	b, err := s.ctrl.Sandbox(ctx, id)
	if err != nil {
		return err
	}
	if b.Container != "" {
		return &cnm.Error{Kind: cnm.ErrInUse, Field: "sandbox", Value: id,
			Reason: "belongs to container " + cnm.Short(b.Container), Remedy: "remove the container instead"}
	}
	return s.ctrl.DeleteSandbox(ctx, b.ID)
}

// ListSandboxes implements [server.Sandboxes].
func (s sandboxes) ListSandboxes(ctx context.Context) ([]server.SandboxView, error) {
	list, err := s.ctrl.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	ends, err := s.ctrl.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	bySandbox := map[string][]cnm.Endpoint{}
	for _, e := range ends {
		bySandbox[e.Sandbox] = append(bySandbox[e.Sandbox], e)
	}
	out := make([]server.SandboxView, 0, len(list))
	for _, b := range list {
		v, err := s.sandboxView(ctx, b, bySandbox[b.ID])
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}
