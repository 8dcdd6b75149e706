package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Publish puts the ports of a sandbox where they belong: at the endpoint with the highest gateway priority whose
// network can publish them, by which answers leave. Ports keep their numbers. When no endpoint can have them they wait
// for one that can. It changes nothing when it fails.
func (k *endpoints) Publish(ctx context.Context, sandbox string, ports []cnm.PortMapping) error {
	ports, err := cnm.NormalizePorts(ports)
	if err != nil || len(ports) == 0 {
		return err
	}
	unlock, err := k.locks.lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	before, after, err := k.movePorts(sandbox, ports)
	if err != nil || len(after) == 0 {
		return err
	}
	return k.moved(ctx, sandbox, before, after)
}

// Unpublish takes all ports from a sandbox: they were those of a container that was removed, while others live on in
// the sandbox.
func (k *endpoints) Unpublish(ctx context.Context, sandbox string) error {
	unlock, err := k.locks.lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	var before, after []cnm.Endpoint
	k.mu.Lock()
	for _, e := range k.ix.endpointsOf(sandbox) {
		if len(e.Ports) == 0 || e.Phase == cnm.Deleting {
			continue
		}
		before = append(before, e)
		e.Ports = nil
		after = append(after, e)
		k.ix.putEndpoint(e, false)
	}
	k.mu.Unlock()
	if len(after) == 0 {
		return nil
	}
	return k.moved(ctx, sandbox, before, after)
}

// moved commits the ports of endpoints as they are in the index, and has the kernel agree; or takes it back.
func (k *endpoints) moved(ctx context.Context, sandbox string, before, after []cnm.Endpoint) error {
	err := k.setPorts(ctx, after)
	if err != nil {
		err = k.undo(ctx, err, func(ctx context.Context) error { return k.setPorts(ctx, before) })
		return fmt.Errorf("publish the ports of sandbox %s: %w", cnm.Short(sandbox), err)
	}
	return nil
}

// setPorts gives endpoints the ports, in the index, the records and the kernel.
func (k *endpoints) setPorts(ctx context.Context, endpoints []cnm.Endpoint) error {
	owners := make([]plan.Owner, 0, len(endpoints))
	k.mu.Lock()
	for _, e := range endpoints {
		if ent := k.ix.endpoints[e.ID]; ent != nil { // of the rest, such as addresses, what is so now
			now := ent.v
			now.Ports = e.Ports
			k.ix.putEndpoint(now, false)
		}
		owners = append(owners, cnm.EndpointOwner(e.ID))
	}
	k.mu.Unlock()
	if err := k.commitPorts(ctx, endpoints); err != nil {
		return err
	}
	return k.converge(ctx, owners...)
}

// movePorts takes the ports from the endpoints that have them and gives them to the best. It returns the endpoints
// that change, as they were and as they are in the index now.
func (k *endpoints) movePorts(sandbox string, ports []cnm.PortMapping) (before, after []cnm.Endpoint, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	best, err := k.publisher(sandbox)
	if err != nil || best == nil {
		return nil, nil, err
	}
	moved := []cnm.PortMapping{}
	rest := slices.Clone(ports)
	var others []cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		kept := []cnm.PortMapping{}
		for _, m := range e.Ports {
			i := slices.IndexFunc(rest, func(want cnm.PortMapping) bool { return samePort(want, m) })
			switch {
			case i < 0:
				kept = append(kept, m)
				continue
			case e.ID == best.ID:
				kept = append(kept, m)
			default:
				moved = append(moved, m)
			}
			rest = slices.Delete(rest, i, i+1)
		}
		if len(kept) < len(e.Ports) {
			before = append(before, e)
			e.Ports = kept
			others = append(others, e)
		}
	}
	if len(moved)+len(rest) == 0 {
		return nil, nil, nil
	}
	before = append(before, *best)
	for _, e := range others {
		k.ix.putEndpoint(e, false)
	}
	next := *best
	if err := k.assignKept(&next, append(slices.Clone(best.Ports), moved...), rest); err != nil {
		for _, e := range before {
			k.ix.putEndpoint(e, false)
		}
		return nil, nil, err
	}
	k.ix.putEndpoint(next, false)
	return before, append(others, next), nil
}

// assignKept gives an endpoint ports that have their numbers already, and others that may be yet to get them.
func (k *endpoints) assignKept(e *cnm.Endpoint, kept, fresh []cnm.PortMapping) error {
	fixed := slices.Clone(kept)
	for i := range fixed {
		fixed[i].Dynamic = false // a dynamic one would be picked anew
	}
	if err := k.assignPorts(e, append(fixed, fresh...)); err != nil {
		return err
	}
	for i := range e.Ports {
		e.Ports[i].Dynamic = e.Ports[i].Dynamic || slices.ContainsFunc(kept, func(m cnm.PortMapping) bool {
			return m.Dynamic && m.Proto == e.Ports[i].Proto && m.HostIP == e.Ports[i].HostIP &&
				m.HostPort == e.Ports[i].HostPort
		})
	}
	return nil
}

// publisher is the endpoint that a sandbox's ports belong to; nil for none.
func (k *endpoints) publisher(sandbox string) (*cnm.Endpoint, error) {
	var best *cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		n := k.ix.networks[e.Network]
		if n == nil || e.Phase == cnm.Deleting {
			continue
		}
		d, err := k.driver(n.v.Driver)
		if err != nil {
			return nil, err
		}
		if d.Capabilities().Ports && !n.v.Internal && (best == nil || before(e, *best)) {
			best = &e
		}
	}
	return best, nil
}

// samePort reports whether an endpoint's port is one that was asked for. One that was asked for without an address of
// the host may have got that of its network.
func samePort(want, have cnm.PortMapping) bool {
	return want.Proto == have.Proto && (want.HostIP == have.HostIP || !want.HostIP.IsValid()) &&
		want.Port == have.Port && want.Count == have.Count &&
		want.Dynamic == have.Dynamic && (want.Dynamic || want.HostPort == have.HostPort)
}
