package cnm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// NetworkRequest asks for a new network.
type NetworkRequest struct {
	Name        string
	Driver      string        // "": bridge
	Pools       []PoolRequest // at most one a family; a family in use without one gets a free default subnet
	Internal    bool
	IPv6        bool
	DisableIPv4 bool
	Options     map[string]string
	Labels      map[string]string
}

// CreateNetwork makes a network, or nothing. It returns once the kernel has it.
func (k *Controller) CreateNetwork(ctx context.Context, r NetworkRequest) (Network, error) {
	switch r.Name {
	case NetworkBridge, NetworkHost, NetworkNone:
		return Network{}, &Error{Kind: ErrExists, Field: "name", Value: r.Name, Reason: "the name of a builtin network", Remedy: "choose another name"}
	}
	if r.Driver == "" {
		r.Driver = DriverBridge
	}
	d, err := k.driver(r.Driver)
	if err != nil {
		return Network{}, err
	}
	if d.Capabilities().Singleton {
		return Network{}, &Error{
			Kind: ErrForbidden, Field: "driver", Value: r.Driver, Reason: "only the builtin network of this driver exists",
			Remedy: "connect to that one, or choose another driver",
		}
	}
	return k.createNetwork(ctx, d, r, false)
}

// EnsureBuiltin makes the networks bridge, host and none when they are
// missing.
func (k *Controller) EnsureBuiltin(ctx context.Context) error {
	for _, b := range []NetworkRequest{
		{Name: NetworkBridge, Driver: DriverBridge},
		{Name: NetworkHost, Driver: DriverHost},
		{Name: NetworkNone, Driver: DriverNull},
	} {
		if _, err := k.Network(ctx, b.Name); err == nil {
			continue
		}
		d, err := k.driver(b.Driver)
		if err != nil {
			return fmt.Errorf("make the builtin network %s: %w", b.Name, err)
		}
		if _, err := k.createNetwork(ctx, d, b, true); err != nil {
			return fmt.Errorf("make the builtin network %s: %w", b.Name, err)
		}
	}
	return nil
}

func (k *Controller) createNetwork(ctx context.Context, d Driver, r NetworkRequest, builtin bool) (Network, error) {
	if err := CheckName("name", r.Name); err != nil {
		return Network{}, err
	}
	n := Network{
		Name: r.Name, Driver: r.Driver, Scope: d.Scope(), Internal: r.Internal, Options: r.Options, Labels: r.Labels,
		Builtin: builtin, Created: k.now(), Phase: Active,
	}
	pools, err := families(d, r, &n)
	if err != nil {
		return Network{}, err
	}
	n = copyNetwork(n)
	if n.ID, err = k.holdName(n); err != nil {
		return Network{}, err
	}
	if n.Scope == Cluster {
		return k.createShared(ctx, d, n, pools)
	}
	if n, err = k.commitNetwork(ctx, d, n, pools); err != nil {
		return Network{}, err
	}
	if err := k.converge(ctx, NetworkScope(n.ID)); err != nil {
		err = fmt.Errorf("create network %s: %w", n.Name, err)
		return Network{}, k.undo(ctx, err, func(ctx context.Context) error { return k.removeNetwork(ctx, n.ID) })
	}
	k.emit(Event{Kind: KindNetwork, Action: ActionCreate, ID: n.ID, Name: n.Name})
	return copyNetwork(n), nil
}

// families decides which address families the network has, and completes the
// list of its pools.
func families(d Driver, r NetworkRequest, n *Network) ([]PoolRequest, error) {
	if !d.Capabilities().Addresses {
		if len(r.Pools) > 0 {
			return nil, &Error{
				Kind: ErrInvalid, Field: "subnet", Value: r.Pools[0].Subnet.String(), Reason: fmt.Sprintf("networks of driver %s have no addresses", d.Name()),
				Remedy: "leave the subnet out",
			}
		}
		return nil, nil
	}
	has4, has6 := false, false
	for _, p := range r.Pools {
		if p.IPv6 || p.Subnet.IsValid() && p.Subnet.Addr().Is6() {
			has6 = true
		} else {
			has4 = true
		}
	}
	if r.DisableIPv4 && has4 {
		return nil, &Error{Kind: ErrInvalid, Field: "IPv4", Value: "disabled", Reason: "an IPv4 subnet is given", Remedy: "leave out one or the other"}
	}
	n.IPv4, n.IPv6 = !r.DisableIPv4, r.IPv6 || has6
	if !n.IPv4 && !n.IPv6 {
		return nil, &Error{Kind: ErrInvalid, Field: "IPv4", Value: "disabled", Reason: "the network would have no addresses at all", Remedy: "turn IPv6 on"}
	}
	pools := slices.Clone(r.Pools)
	if n.IPv4 && !has4 {
		pools = append(pools, PoolRequest{})
	}
	if n.IPv6 && !has6 {
		pools = append(pools, PoolRequest{IPv6: true})
	}
	return pools, nil
}

// holdName gives the network an ID and keeps its name from others.
func (k *Controller) holdName(n Network) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.freeName(n); err != nil {
		return "", err
	}
	id, err := k.newID(KindNetwork)
	if err != nil {
		return "", err
	}
	n.ID = id
	if err := k.checkLink(n); err != nil {
		return "", err
	}
	k.ix.putNetwork(n, true)
	return id, nil
}

// freeName refuses a network whose name another one has. The caller holds mu.
func (k *Controller) freeName(n Network) error {
	id, taken := k.ix.names[n.Name]
	if !taken || id == n.ID {
		return nil
	}
	e := &Error{Kind: ErrExists, Field: "name", Value: n.Name, Reason: "a network of this name exists (" + Short(id) + ")", Remedy: "choose another name or remove that network"}
	if k.ix.networks[id].v.Phase == Deleting {
		e.Reason, e.Remedy = "a network of this name is being removed", "try again in a moment"
	}
	return e
}

// checkLink refuses a network whose link another one has. The caller holds mu.
func (k *Controller) checkLink(n Network) error {
	link := k.linkOf(n)
	if link == "" {
		return nil
	}
	for id, other := range k.ix.networks {
		if id != n.ID && k.linkOf(other.v) == link {
			return &Error{
				Kind: ErrExists, Field: "link", Value: link, Reason: fmt.Sprintf("network %q has the link of this name", other.v.Name),
				Remedy: "choose another name for the link, or none to have one made",
			}
		}
	}
	return nil
}

func (k *Controller) linkOf(n Network) string {
	if d, ok := k.drivers[n.Driver].(LinkNamer); ok {
		return d.NetworkLink(n)
	}
	return ""
}

// commitNetwork picks the subnets and commits the record, or forgets about the
// network.
func (k *Controller) commitNetwork(ctx context.Context, d Driver, n Network, pools []PoolRequest) (Network, error) {
	err := func() (err error) {
		if n.Pools, err = k.ipam.Pools(ctx, n, pools); err != nil {
			return err
		}
		if err = d.CheckNetwork(n); err != nil {
			return err
		}
		w, err := put(KindNetwork, n.ID, n, 0)
		if err != nil {
			return err
		}
		return k.store.Commit(ctx, w)
	}()
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.ix.dropNetwork(n.ID)
		k.ipam.Forget(n.ID)
		return Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	k.ix.putNetwork(n, false)
	return n, nil
}

// DeleteNetwork removes a network that no endpoint is on. When the kernel cannot be
// made to agree, the network stays marked and goes with a later pass.
func (k *Controller) DeleteNetwork(ctx context.Context, ref string) (Network, error) {
	n, err := k.Network(ctx, ref)
	if err != nil {
		return Network{}, err
	}
	if n.Builtin {
		return Network{}, &Error{Kind: ErrForbidden, Field: "network", Value: n.Name, Reason: "builtin, it cannot be removed", Remedy: "leave it: it costs nothing when it is not used"}
	}
	if err := k.removeAnywhere(ctx, n); err != nil {
		return Network{}, fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return n, nil
}

// removeAnywhere removes a network from the cluster, if it is of one, and from
// this node.
func (k *Controller) removeAnywhere(ctx context.Context, n Network) error {
	if n.Cluster != nil && !n.gone() {
		return k.removeShared(ctx, n)
	}
	return k.removeNetwork(ctx, n.ID)
}

// removeNetwork removes a network from this node.
func (k *Controller) removeNetwork(ctx context.Context, id string) error {
	return k.removeNetworkIf(ctx, id, always)
}

func always(Network) bool { return true }

// removeNetworkIf removes a network that is still what it should be.
func (k *Controller) removeNetworkIf(ctx context.Context, id string, due func(Network) bool) error {
	unlock, err := k.locks.lock(ctx, "network/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := k.closeNetwork(id, due, false)
	if err != nil || n.ID == "" {
		return err
	}
	err = k.commit(ctx, func() ([]Write, error) {
		w, err := change(ctx, k.store, KindNetwork, id, func(n *Network) { n.Phase = Deleting })
		if errors.Is(err, ErrNotFound) {
			return nil, nil // a deletion that was cut short has just been finished
		}
		return []Write{w}, err
	})
	if err != nil {
		k.mu.Lock()
		k.ix.putNetwork(n, false)
		k.mu.Unlock()
		return err
	}
	return k.finish(ctx, NetworkScope(id))
}

// closeNetwork lets no further endpoint onto the network. It returns what the
// network was before; the zero value when it is gone or not due. Closing it, for as long as the cluster
// is asked, leaves its record to others.
func (k *Controller) closeNetwork(id string, due func(Network) bool, closing bool) (Network, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.networks[id]
	if e == nil || e.pending || !due(e.v) {
		return Network{}, nil
	}
	if on := k.ix.endpointsOn(id); len(on) > 0 {
		return Network{}, k.inUse(e.v, on)
	}
	before := e.v
	if e.closing {
		before.Phase = e.was
	}
	deleting := before
	deleting.Phase = Deleting
	k.ix.putNetwork(deleting, false)
	e = k.ix.networks[id]
	e.owned, e.closing, e.was = true, closing, before.Phase
	return before, nil
}

// inUse tells which endpoints are on a network. The caller holds mu.
func (k *Controller) inUse(n Network, on []Endpoint) error {
	var names []string
	for _, e := range on[:min(len(on), 10)] {
		names = append(names, k.ix.title(e))
	}
	if len(on) > len(names) {
		names = append(names, fmt.Sprintf("%d more", len(on)-len(names)))
	}
	return &Error{
		Kind: ErrInUse, Field: "network", Value: n.Name, Reason: "in use by " + strings.Join(names, ", "),
		Remedy: "disconnect them first",
	}
}

// PruneNetworks removes every network that no endpoint is on and returns
// their names. What comes into use meanwhile stays, and so does what endpoints of other nodes are on; a
// cluster that cannot be reached keeps its networks and no others.
func (k *Controller) PruneNetworks(ctx context.Context) ([]string, error) {
	networks, err := k.Networks(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	var unreachable error
	for _, n := range networks {
		on, err := k.EndpointsOn(ctx, n.ID)
		if err != nil {
			return names, err
		}
		if n.Builtin || len(on) > 0 {
			continue
		}
		switch err := k.removeAnywhere(ctx, n); {
		case err == nil:
			names = append(names, n.Name)
		case n.Cluster != nil && errors.Is(err, ErrUnavailable):
			unreachable = fmt.Errorf("remove network %s: %w", n.Name, err)
		case !errors.Is(err, ErrInUse):
			return names, fmt.Errorf("remove network %s: %w", n.Name, err)
		}
	}
	return names, unreachable
}

// Networks lists the networks by name.
func (k *Controller) Networks(ctx context.Context) ([]Network, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	out := make([]Network, 0, len(k.ix.networks))
	for _, e := range k.ix.networks {
		if !e.pending {
			out = append(out, copyNetwork(e.v))
		}
	}
	slices.SortFunc(out, func(a, b Network) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Network finds a network by name, ID or the unambiguous beginning of an ID.
func (k *Controller) Network(ctx context.Context, ref string) (Network, error) {
	if err := ctx.Err(); err != nil {
		return Network{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := k.findNetwork(ref)
	return copyNetwork(n), err
}

func (k *Controller) findNetwork(ref string) (Network, error) {
	if id, ok := k.ix.names[ref]; ok && !k.ix.networks[id].pending {
		return k.ix.networks[id].v, nil
	}
	return find("network", ref, k.ix.networks, sortedKeys(k.ix.names))
}

// find looks a record up by ID or the beginning of one.
func find[T any](field, ref string, in map[string]*entry[T], known []string) (found T, err error) {
	if e := in[ref]; e != nil && !e.pending {
		return e.v, nil
	}
	matches := 0
	for id, e := range in {
		if ref != "" && !e.pending && strings.HasPrefix(id, ref) {
			found = e.v
			matches++
		}
	}
	var none T
	switch matches {
	case 1:
		return found, nil
	case 0:
		return none, notFound(field, ref, known)
	}
	return none, &Error{
		Kind: ErrInvalid, Field: field, Value: ref, Reason: fmt.Sprintf("%d IDs begin with it", matches),
		Remedy: "give more digits or the name",
	}
}
