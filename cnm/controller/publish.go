package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Publish gives a sandbox these ports and no others, and puts them where they belong: at the endpoint with the highest
// gateway priority whose network can publish them, by which answers leave. Ports that it has keep their numbers, and
// their connections. When no endpoint can have them they wait for one that can. It changes nothing when it fails.
func (k *endpoints) Publish(ctx context.Context, sandbox string, ports []cnm.PortMapping) error {
	ports, err := cnm.NormalizePorts(ports)
	if err != nil {
		return err
	}
	unlock, err := k.locks.Lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	for try := 1; ; try++ {
		before, after, err := k.movePorts(sandbox, ports)
		if err != nil || len(after) == 0 {
			return err
		}
		// A process outside of our records may have what was picked: the next pick is another.
		err = k.moved(ctx, sandbox, before, after)
		if try == portTries || !errors.Is(err, cnm.ErrPortTaken) || !canRepick(after, err) {
			return err
		}
	}
}

// moved commits the ports of endpoints as they are in the index, and has the kernel agree; or takes it back.
func (k *endpoints) moved(ctx context.Context, sandbox string, before, after []cnm.Endpoint) error {
	err := k.setPorts(ctx, after)
	if err != nil {
		err = k.undo(ctx, err, func(ctx context.Context) error { return k.setPorts(ctx, before) })
		return fmt.Errorf("publish the ports of sandbox %s: %w", cnm.Short(sandbox), err)
	}
	for _, e := range after {
		k.emitEndpoint(ActionUpdate, e, "")
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

// movePorts takes the ports from the endpoints that have them and gives those that are asked for to the best. It
// returns the endpoints that change, as they were and as they are in the index now.
func (k *endpoints) movePorts(sandbox string, ports []cnm.PortMapping) (before, after []cnm.Endpoint, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	best, err := k.publisher(sandbox)
	if err != nil {
		return nil, nil, err
	}
	var moved, own []cnm.PortMapping
	rest := slices.Clone(ports)
	for _, e := range k.ix.endpointsOf(sandbox) {
		var asked, dropped []cnm.PortMapping
		asked, dropped, rest = sortPorts(e, rest)
		switch {
		case best != nil && e.ID == best.ID:
			own = asked
			continue
		case best != nil:
			moved = append(moved, asked...)
			asked = nil
		}
		if e.Phase == cnm.Deleting { // what it has goes with it
			asked = append(asked, dropped...)
		}
		if len(asked) < len(e.Ports) {
			before = append(before, e)
			e.Ports = asked
			after = append(after, e)
		}
	}
	for _, e := range after {
		k.ix.putEndpoint(e, false)
	}
	if best == nil || len(moved)+len(rest) == 0 && len(own) == len(best.Ports) {
		return before, after, nil
	}
	before = append(before, *best)
	next := *best
	if err := k.assignKept(&next, append(own, moved...), rest); err != nil {
		for _, e := range before {
			k.ix.putEndpoint(e, false)
		}
		return nil, nil, err
	}
	k.ix.putEndpoint(next, false)
	return before, append(after, next), nil
}

// sortPorts tells an endpoint's ports that are asked for from the others, and what is asked for besides.
func sortPorts(e cnm.Endpoint, want []cnm.PortMapping) (asked, dropped, rest []cnm.PortMapping) {
	if len(e.Ports) == 0 {
		return nil, nil, want
	}
	at := map[portKey][]int{} // by container port: there may be many, and few of each
	for i, m := range want {
		key := portKey{m.Proto, m.Port}
		at[key] = append(at[key], i)
	}
	for _, m := range e.Ports {
		key := portKey{m.Proto, m.Port}
		i := slices.IndexFunc(at[key], func(i int) bool { return samePort(want[i], m) })
		if i < 0 {
			dropped = append(dropped, m)
			continue
		}
		asked = append(asked, m)
		at[key] = slices.Delete(at[key], i, i+1)
	}
	left := []int{}
	for _, indices := range at {
		left = append(left, indices...)
	}
	slices.Sort(left)
	for _, i := range left {
		rest = append(rest, want[i])
	}
	return asked, dropped, rest
}

// assignKept gives an endpoint ports that have their numbers already, and others that may be yet to get them.
func (k *endpoints) assignKept(e *cnm.Endpoint, kept, fresh []cnm.PortMapping) error {
	fixed := slices.Clone(kept)
	picked := map[portReservation]bool{}
	for i, m := range fixed {
		if m.Dynamic {
			picked[portReservation{m.Proto, m.HostIP, m.HostPort}] = true
			fixed[i].Dynamic = false // it would be picked anew
		}
	}
	if err := k.assignPorts(e, append(fixed, fresh...)); err != nil {
		return err
	}
	for i, m := range e.Ports {
		e.Ports[i].Dynamic = m.Dynamic || picked[portReservation{m.Proto, m.HostIP, m.HostPort}]
	}
	return nil
}

// portReservation is a host port on one address.
type portReservation struct {
	proto plan.L4
	addr  netip.Addr
	port  uint16
}

// publisher is the endpoint that a sandbox's ports belong to; nil for none.
func (k *endpoints) publisher(sandbox string) (*cnm.Endpoint, error) {
	var best *cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		n := k.ix.networks[e.Network]
		if n == nil || e.Phase == cnm.Deleting {
			continue
		}
		d, err := k.driver(n.v)
		if err != nil {
			return nil, err
		}
		if cnm.Publishes(d, n.v) && (best == nil || before(e, *best)) {
			best = &e
		}
	}
	return best, nil
}

// samePort reports whether an endpoint's port is one that was asked for. One that was asked for without an address of
// the host may have got that of its network.
func samePort(want, have cnm.PortMapping) bool {
	return want.Proto == have.Proto && (want.HostIP == have.HostIP || !want.HostIP.IsValid()) &&
		want.Port == have.Port && want.Count == have.Count && slices.Equal(want.From, have.From) &&
		want.Cluster == have.Cluster &&
		want.Dynamic == have.Dynamic && (want.Dynamic || want.HostPort == have.HostPort)
}
