package remote

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/plan"
)

// Driver renders networks of the plugin of that name.
type Driver struct{ Plugin string }

var (
	_ cnm.OutsideDriver   = Driver{}
	_ cnm.EndpointChecker = Driver{}
)

// Name is the plugin's name.
func (d Driver) Name() string { return d.Plugin }

// Scope is local: whatever the plugin does elsewhere, the network's record is of this node.
func (Driver) Scope() cnm.Scope { return cnm.Local }

// Capabilities: the plugin is told which ports to publish, and names the hardware addresses of its links.
func (Driver) Capabilities() cnm.Capabilities {
	return cnm.Capabilities{Addresses: true, Ports: true, OwnMACs: true}
}

// CheckNetwork refuses pools that no network can have; the options are the plugin's to judge.
func (Driver) CheckNetwork(n cnm.Network) error { return bridge.CheckNetwork(n, bridge.Options{}) }

// RenderNetwork renders nothing: what a network's endpoints share is the plugin's.
func (Driver) RenderNetwork(cnm.Network, cnm.Host) (plan.State, error) { return plan.State{}, nil }

// maxPorts is how many ports of one endpoint a plugin is told of.
const maxPorts = 1024

// CheckEndpoint refuses what no plugin can be asked for. The error is a [cnm.ErrInvalid].
func (d Driver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	if e.NetNS == "" {
		return invalid("its sandbox is the host itself, which joins no network of plugin %s", d.Plugin)
	}
	if e.Limited() || len(e.Outbound) > 0 {
		return invalid("plugin %s cannot be told of rates and outbound addresses: leave them out", d.Plugin)
	}
	ports := 0
	for _, p := range e.Ports {
		if ports += int(p.Count); len(p.From) > 0 {
			return invalid("port %d: plugin %s cannot be told for which sources it is", p.Port, d.Plugin)
		}
	}
	if ports > maxPorts {
		return invalid("%d ports: a plugin is told of %d at most", ports, maxPorts)
	}
	return nil
}

// invalid is a request that cannot be right.
func invalid(format string, args ...any) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Reason: fmt.Sprintf(format, args...)}
}

// RenderEndpoint is an error: the plugin has not made its part.
func (d Driver) RenderEndpoint(_ cnm.Network, e cnm.Endpoint, _ cnm.Host) (plan.State, error) {
	return plan.State{}, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "endpoint", Value: cnm.Short(e.ID),
		Reason: fmt.Sprintf("plugin %s has not made it yet", d.Plugin)}
}

// RenderGiven renders the link that the plugin has made, moved into the sandbox, with its addresses and routes.
func (Driver) RenderGiven(n cnm.Network, e cnm.Endpoint, g cnm.Given, h cnm.Host) (plan.State, error) {
	if e.IfName == "" && g.Prefix != "" {
		e.IfName = g.Prefix + strconv.Itoa(e.Index)
	}
	n.Pools = slices.Clone(n.Pools)
	for i, p := range n.Pools {
		n.Pools[i].Gateway = netip.Addr{}
		for _, gw := range g.Gateways {
			if gw.Is4() == p.Subnet.Addr().Is4() {
				n.Pools[i].Gateway = gw
			}
		}
	}
	s := bridge.RenderInside(n, e, h)
	link := e.LinkName()
	s.Links = append(s.Links, plan.Link{NS: e.NetNS, Name: link, Owner: cnm.EndpointOwner(e.ID), Kind: plan.Given,
		MAC: g.MAC, Up: true, Given: plan.GivenLink{Name: g.Link, After: g.After}})
	if n.Internal {
		return s, nil
	}
	for _, r := range g.Routes {
		s.Routes = append(s.Routes, plan.Route{NS: e.NetNS, Dst: r.Dst, Via: r.Via, Link: link,
			Metric: bridge.Metric(e), OnLink: r.Via.IsValid()})
	}
	return s, nil
}
