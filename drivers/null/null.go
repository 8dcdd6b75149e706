// Package null is the driver of the builtin network "none": containers with a
// network stack of their own and nothing in it but loopback.
package null

import (
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Driver is the null driver. The zero value is ready for use.
type Driver struct{}

var _ cnm.Driver = Driver{}

// Name is the driver's name in records and on the command line.
func (Driver) Name() string { return "null" }

// Scope is local.
func (Driver) Scope() cnm.Scope { return cnm.Local }

// Capabilities: no addresses and no ports, and one network only.
func (Driver) Capabilities() cnm.Capabilities { return cnm.Capabilities{Singleton: true} }

// CheckNetwork refuses whatever would connect something. The error is a
// [cnm.ErrInvalid].
func (Driver) CheckNetwork(n cnm.Network) error {
	switch {
	case len(n.Options) > 0:
		return invalid("options", "driver null has none: it connects nothing")
	case len(n.Pools) > 0:
		return invalid("subnet", "driver null gives no addresses: use driver bridge for a network with a subnet")
	}
	return nil
}

func invalid(field, reason string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Reason: fmt.Sprintf("%s: %s", field, reason)}
}

// RenderNetwork renders nothing.
func (Driver) RenderNetwork(cnm.Network, cnm.Host) (plan.State, error) { return plan.State{}, nil }

// RenderEndpoint renders nothing: a new namespace has its loopback link, and
// that is all. Published ports are an error, because nothing leads to them.
func (Driver) RenderEndpoint(_ cnm.Network, e cnm.Endpoint, _ cnm.Host) (plan.State, error) {
	if len(e.Ports) > 0 && e.Phase != cnm.Deleting {
		return plan.State{}, invalid("ports",
			"a container without a network cannot be reached: leave out the published ports or use a bridge network")
	}
	return plan.State{}, nil
}
