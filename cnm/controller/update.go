package controller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// updates changes networks that endpoints are on.
type updates struct {
	*records
	ends   *endpoints
	shared *shared
}

// UpdateNetwork changes a network in place, or nothing: every endpoint on it is checked against what it is to become
// before anything is written. It returns once the kernel agrees. A network of the cluster is changed for all nodes.
func (k *updates) UpdateNetwork(ctx context.Context, ref string, c cnm.NetworkChange) (cnm.Network, error) {
	n, err := k.Network(ctx, ref)
	if err != nil {
		return cnm.Network{}, err
	}
	unlock, err := k.locks.Lock(ctx, "update/"+n.ID)
	if err != nil {
		return cnm.Network{}, err
	}
	defer unlock()
	if n.Cluster != nil {
		n, err = k.updateShared(ctx, n, c)
	} else {
		n, err = k.updateLocal(ctx, n, c)
	}
	if err != nil {
		return cnm.Network{}, fmt.Errorf("update network %s: %w", n.Name, err)
	}
	k.emitNetwork(ActionUpdate, n)
	return n, nil
}

func (k *updates) updateLocal(ctx context.Context, n cnm.Network, c cnm.NetworkChange) (cnm.Network, error) {
	before, after, err := k.commitChange(ctx, n.ID, func(now cnm.Network) (cnm.Network, error) {
		after, err := k.changed(now, c)
		if err == nil && !slices.Equal(k.outbound(now), k.outbound(after)) {
			err = k.checkOutbound(ctx, k.outbound(after))
		}
		return after, err
	})
	if err != nil {
		return n, err
	}
	if sameRender(before, after) {
		return after, nil
	}
	if err = k.rebind(ctx, before, after); err == nil {
		err = k.convergeOn(ctx, n.ID)
	}
	if err != nil {
		return n, k.undo(ctx, err, func(ctx context.Context) error { return k.revert(ctx, before, after) })
	}
	return after, k.promote(ctx, n.ID)
}

// sameRender reports whether the change is one that the kernel has nothing of.
func sameRender(a, b cnm.Network) bool {
	return a.Internal == b.Internal && maps.Equal(a.Options, b.Options)
}

// revert makes a network what it was before a change that the kernel did not take.
func (k *updates) revert(ctx context.Context, before, after cnm.Network) error {
	_, _, err := k.commitChange(ctx, before.ID, func(now cnm.Network) (cnm.Network, error) {
		now.Internal, now.Options, now.Labels = before.Internal, before.Options, before.Labels
		return now, nil
	})
	return errors.Join(err, k.rebind(ctx, after, before), k.convergeOn(ctx, before.ID))
}

// commitChange has edit change a network's record, unless an endpoint on it could not be as it then is. It returns the
// network before and after.
func (k *updates) commitChange(ctx context.Context, id string, edit func(cnm.Network) (cnm.Network, error)) (
	before, after cnm.Network, err error) {
	unlock, err := k.locks.Lock(ctx, "network/"+id)
	if err != nil {
		return before, after, err
	}
	defer unlock()
	k.mu.Lock()
	ent := k.ix.networks[id]
	switch {
	case ent == nil || ent.pending:
		err = notFound("network", cnm.Short(id), nil)
	case ent.v.Phase == cnm.Deleting:
		err = &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: ent.v.Name, Reason: "being removed"}
	default:
		before = copyNetwork(ent.v)
	}
	k.mu.Unlock()
	if err != nil {
		return before, after, err
	}
	if after, err = edit(before); err == nil {
		err = k.checkChange(before, after)
	}
	if err != nil {
		return before, after, err
	}
	err = k.commit(ctx, func() ([]cnm.Write, error) {
		w, err := cnm.Change(ctx, k.store, cnm.KindNetwork, id, func(n *cnm.Network) {
			n.Internal, n.Options, n.Labels = after.Internal, after.Options, after.Labels
		})
		return []cnm.Write{w}, err
	})
	if err != nil {
		return before, after, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ix.networks[id].v = copyNetwork(after)
	return before, after, nil
}

// changed is a network with the change applied.
func (k *updates) changed(n cnm.Network, c cnm.NetworkChange) (cnm.Network, error) {
	n = copyNetwork(n)
	if len(c.Labels) > 0 && n.Labels == nil {
		n.Labels = map[string]string{}
	}
	maps.Copy(n.Labels, c.Labels)
	for _, l := range c.RemoveLabels {
		delete(n.Labels, l)
	}
	d, err := k.driver(n)
	if err != nil {
		return n, err
	}
	u, ok := d.(cnm.Updater)
	if !ok || n.ConfigOnly {
		if len(c.Options) > 0 || len(c.RemoveOptions) > 0 || c.Internal != nil {
			return n, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
				Reason: fmt.Sprintf("of a network of driver %s only the labels can change", n.Driver)}
		}
		return n, nil
	}
	if c.Internal != nil {
		n.Internal = *c.Internal
	}
	for _, name := range slices.Sorted(maps.Keys(c.Options)) {
		value := c.Options[name]
		if err := changeOption(u, &n, name, &value); err != nil {
			return n, err
		}
	}
	for _, name := range c.RemoveOptions {
		if err := changeOption(u, &n, name, nil); err != nil {
			return n, err
		}
	}
	return n, nil
}

// changeOption sets an option, whichever of its names it has now, or takes it away.
func changeOption(u cnm.Updater, n *cnm.Network, name string, value *string) error {
	own, inPlace := u.Option(name)
	if own == "" {
		if value == nil {
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "option", Value: name,
				Reason: fmt.Sprintf("driver %s has no such option", n.Driver), Remedy: "see 'net network inspect'"}
		}
		own, inPlace = name, true // the check of the network says what there is
	}
	had, given := "", false
	for other := range n.Options {
		if o, _ := u.Option(other); o == own {
			had, given = n.Options[other], true
			delete(n.Options, other)
		}
	}
	if !inPlace && (given != (value != nil) || value != nil && had != *value) {
		return &cnm.Error{Kind: cnm.ErrForbidden, Field: "option", Value: name,
			Reason: "cannot change while the network is there",
			Remedy: fmt.Sprintf("make another network with it, connect the containers to that one, and remove %s",
				n.Name)}
	}
	if value == nil {
		return nil
	}
	if n.Options == nil {
		n.Options = map[string]string{}
	}
	n.Options[own] = *value
	return nil
}

// checkChange refuses a network that its driver, or an endpoint that is on it, cannot be with.
func (k *updates) checkChange(before, after cnm.Network) error {
	d, err := k.driver(after)
	if err == nil && !sameRender(before, after) {
		err = d.CheckNetwork(after)
	}
	if err != nil {
		return err
	}
	if err := gatewaysStay(d, before, after); err != nil {
		return err
	}
	checker, ok := d.(cnm.EndpointChecker)
	if !ok || sameRender(before, after) {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	var refused []string
	for _, e := range k.ix.endpointsOn(after.ID) {
		if k.ix.endpoints[e.ID].pending || e.Phase == cnm.Deleting {
			continue
		}
		e.Ports = k.rebound(before, after, e.Ports)
		if err := checker.CheckEndpoint(after, e); err != nil {
			refused = append(refused, fmt.Sprintf("%s: %v", k.ix.title(e), err))
		}
	}
	if len(refused) == 0 {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: after.Name,
		Reason: "what is on it does not agree with the change: " + strings.Join(refused[:min(len(refused), 5)], "; ")}
}

// gatewaysStay refuses a change with which subnets would get a gateway, or lose theirs: it is an address of theirs.
func gatewaysStay(d cnm.Driver, before, after cnm.Network) error {
	g, ok := d.(cnm.GatewayChooser)
	if !ok {
		return nil
	}
	for ipv6, on := range map[bool]bool{false: after.IPv4, true: after.IPv6} {
		if on && g.HasGateway(before, ipv6) != g.HasGateway(after, ipv6) {
			return &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: after.Name,
				Reason: "with the change its subnets would have a gateway, or have none any more",
				Remedy: "make another network, and connect the containers to that one"}
		}
	}
	return nil
}

// binding is the host's address that ports without one of their own are published on.
func (k *updates) binding(n cnm.Network) netip.Addr {
	if d, ok := k.driverOf(n).(cnm.PortBinder); ok {
		return d.PortAddr(n)
	}
	return netip.Addr{}
}

// rebound are ports with the address that the network publishes on after the change in place of that before it.
func (k *updates) rebound(before, after cnm.Network, ports []cnm.PortMapping) []cnm.PortMapping {
	from, to := k.binding(before), k.binding(after)
	out := slices.Clone(ports)
	for i := range out {
		if out[i].HostIP == from {
			out[i].HostIP = to
		}
	}
	return out
}

// rebind moves the published ports of all endpoints on a network to the host's address that it publishes on now.
func (k *updates) rebind(ctx context.Context, before, after cnm.Network) error {
	if k.binding(before) == k.binding(after) {
		return nil
	}
	for _, e := range k.on(after.ID) {
		if err := k.rebindOne(ctx, before, after, e); err != nil {
			return fmt.Errorf("publish the ports of %s on another address of the host: %w", e.Name, err)
		}
	}
	return nil
}

func (k *updates) rebindOne(ctx context.Context, before, after cnm.Network, e cnm.Endpoint) error {
	unlock, err := k.locks.Lock(ctx, "sandbox/"+e.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	k.mu.Lock()
	ent := k.ix.endpoints[e.ID]
	if ent == nil || ent.v.Phase == cnm.Deleting || len(ent.v.Ports) == 0 {
		k.mu.Unlock()
		return nil
	}
	next := ent.v
	err = k.ends.assignKept(&next, k.rebound(before, after, next.Ports), nil)
	if err == nil {
		k.ix.putEndpoint(next, false)
	}
	k.mu.Unlock()
	if err != nil {
		return err
	}
	return k.ends.commitPorts(ctx, []cnm.Endpoint{next})
}

// on are the endpoints on a network that are not about to be made or to go.
func (k *records) on(network string) []cnm.Endpoint {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []cnm.Endpoint
	for _, e := range k.ix.endpointsOn(network) {
		if !k.ix.endpoints[e.ID].pending && e.Phase == cnm.Active {
			out = append(out, e)
		}
	}
	return out
}

// convergeOn has the kernel agree with a network and everything on it.
func (k *updates) convergeOn(ctx context.Context, network string) error {
	owners := []plan.Owner{cnm.NetworkOwner(network)}
	for _, e := range k.on(network) {
		owners = append(owners, cnm.EndpointOwner(e.ID))
	}
	if err := k.converge(ctx, owners...); err != nil {
		return fmt.Errorf("the kernel does not take it: %w", err)
	}
	return nil
}

// promote has the endpoints of a network that leads out, and did not before, provide the default routes of those
// sandboxes that have none.
func (k *updates) promote(ctx context.Context, network string) error {
	for _, e := range k.on(network) {
		if err := k.ends.promote(ctx, e); err != nil {
			return fmt.Errorf("give %s a default route: %w", e.Name, err)
		}
	}
	return nil
}

// promote has an endpoint provide its sandbox's default route when none does.
func (k *endpoints) promote(ctx context.Context, e cnm.Endpoint) error {
	unlock, err := k.locks.Lock(ctx, "sandbox/"+e.Sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	k.mu.Lock()
	ent, best := k.ix.endpoints[e.ID], true
	for _, other := range k.ix.endpointsOf(e.Sandbox) {
		n := k.ix.networks[other.Network]
		leads := n != nil && other.Phase == cnm.Active && cnm.LeadsOut(n.v, other)
		best = best && !other.Plain && (other.ID == e.ID && leads || other.ID != e.ID && (!leads || before(e, other)))
	}
	if best = best && ent != nil && ent.v.Phase == cnm.Active; best {
		ent.v.Plain = true
	}
	k.mu.Unlock()
	if !best {
		return nil
	}
	err = k.commit(ctx, func() ([]cnm.Write, error) {
		w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, e.ID, func(e *cnm.Endpoint) { e.Plain = true })
		return []cnm.Write{w}, err
	})
	if err != nil {
		return err
	}
	return k.converge(ctx, cnm.EndpointOwner(e.ID))
}

// updateShared changes a network of the cluster: its record, which every node follows, and what this node has of it.
func (k *updates) updateShared(ctx context.Context, n cnm.Network, c cnm.NetworkChange) (cnm.Network, error) {
	switch {
	case n.Gone():
		return n, &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: "removed from the cluster"}
	case n.Left():
		return n, cnm.LeftError(n.Name)
	case c.Internal != nil && *c.Internal != n.Internal:
		return n, &cnm.Error{Kind: cnm.ErrForbidden, Field: "internal", Value: fmt.Sprint(*c.Internal),
			Reason: "other nodes may have ports published on a network of the cluster",
			Remedy: "make another network, and connect the containers to that one"}
	}
	cluster, err := k.membership(n)
	if err != nil {
		return n, err
	}
	edit := func(now cnm.Network) (cnm.Network, error) {
		after, err := k.changed(now, c)
		if err == nil {
			err = k.refuseBinding(now, after)
		}
		if err == nil { // with what this node has of it
			here := copyNetwork(n)
			here.Options = after.Options
			err = k.checkChange(n, here)
		}
		return after, err
	}
	if _, err = edit(n); err != nil {
		return n, err
	}
	made, err := cluster.Update(ctx, n, edit)
	if err != nil {
		return n, err
	}
	if err := k.shared.follow(ctx, made); err != nil {
		return n, fmt.Errorf("the cluster has the change, but this node does not agree with it yet: %w", err)
	}
	return k.Network(ctx, n.ID)
}

// refuseBinding refuses that ports of other nodes, which have addresses of their own, move.
func (k *updates) refuseBinding(before, after cnm.Network) error {
	if k.binding(before) == k.binding(after) {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrForbidden, Field: "option", Value: "host-binding",
		Reason: "other nodes may have ports published on a network of the cluster",
		Remedy: "make another network, and connect the containers to that one"}
}

// follow gives a network of this node the options and labels that the cluster's record has.
func (k *shared) follow(ctx context.Context, made cnm.Network) error {
	unlock, err := k.locks.Lock(ctx, "network/"+made.ID)
	if err != nil {
		return err
	}
	n, _, err := k.known(made.ID)
	if err != nil || n.ID == "" || n.Gone() || n.Left() {
		unlock()
		return err
	}
	n.Phase, n.Options, n.Labels = cnm.Active, maps.Clone(made.Options), maps.Clone(made.Labels)
	old, err := k.take(ctx, n)
	unlock()
	if err != nil {
		return err
	}
	return k.converge(ctx, k.altered(old, n, nil)...)
}
