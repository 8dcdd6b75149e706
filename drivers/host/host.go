// Package host is the driver of the builtin network "host": containers that
// use the host's own network stack.
//
// There is nothing to make, so every render is empty.
package host

import (
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Driver is the host driver. The zero value is ready for use.
type Driver struct{}

var _ cnm.Driver = Driver{}

// Name is the driver's name in records and on the command line.
func (Driver) Name() string { return "host" }

// Scope is local.
func (Driver) Scope() cnm.Scope { return cnm.Local }

// Capabilities: no addresses and no ports of its own, and one network only.
func (Driver) Capabilities() cnm.Capabilities { return cnm.Capabilities{Singleton: true} }

// CheckNetwork refuses whatever would have to be set up. The error is a
// [cnm.ErrInvalid].
func (Driver) CheckNetwork(n cnm.Network) error {
	switch {
	case len(n.Options) > 0:
		return invalid("options", "driver host has none: it uses the host's own network as it is")
	case len(n.Pools) > 0:
		return invalid("subnet", "driver host gives no addresses: use driver bridge for a network with a subnet")
	case n.Internal:
		return invalid("internal", "the host's own network cannot be cut off: use driver bridge")
	}
	return nil
}

func invalid(field, reason string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Reason: fmt.Sprintf("%s: %s", field, reason)}
}

// RenderNetwork renders nothing.
func (Driver) RenderNetwork(cnm.Network, cnm.Host) (plan.State, error) { return plan.State{}, nil }

// RenderEndpoint renders nothing. Published ports are an error: what listens
// on the host is reachable as it is.
func (Driver) RenderEndpoint(_ cnm.Network, e cnm.Endpoint, _ cnm.Host) (plan.State, error) {
	if len(e.Ports) > 0 && e.Phase != cnm.Deleting {
		return plan.State{}, invalid("ports",
			"a container on the host's network is reachable by the ports it listens on: leave out the published ports")
	}
	return plan.State{}, nil
}
