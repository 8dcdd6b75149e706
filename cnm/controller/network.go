package controller

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// networks makes and removes networks.
type networks struct {
	*records
	shared *shared
	out    *removals
}

// CreateNetwork makes a network, or nothing. It returns once the kernel has it.
func (k *networks) CreateNetwork(ctx context.Context, r cnm.NetworkRequest) (cnm.Network, error) {
	if r.ConfigOnly {
		return k.createConfig(ctx, r)
	}
	if r.Driver == "" {
		r.Driver = cnm.DriverBridge
	}
	if r.ConfigFrom != "" {
		var err error
		if r, err = k.configured(r); err != nil {
			return cnm.Network{}, err
		}
	}
	switch builtin, ok := builtins[r.Name]; {
	case ok && builtin != cnm.DriverBridge:
		return cnm.Network{}, &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: r.Name,
			Reason: "the name of a builtin network", Remedy: "choose another name"}
	case ok && r.Driver != builtin:
		return cnm.Network{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "driver", Value: r.Driver,
			Reason: fmt.Sprintf("the builtin network %s has driver %s", r.Name, builtin),
			Remedy: "leave the driver out, or choose another name"}
	}
	d, err := k.findDriver(ctx, r.Driver)
	if err != nil {
		return cnm.Network{}, err
	}
	if d.Capabilities().Singleton {
		return cnm.Network{}, &cnm.Error{
			Kind: cnm.ErrForbidden, Field: "driver", Value: r.Driver,
			Reason: "only the builtin network of this driver exists",
			Remedy: "connect to that one, or choose another driver",
		}
	}
	return k.createNetwork(ctx, d, r, r.Name == cnm.NetworkBridge)
}

// builtins are the networks that every node has, with their drivers.
var builtins = map[string]string{cnm.NetworkBridge: cnm.DriverBridge, cnm.NetworkHost: cnm.DriverHost,
	cnm.NetworkNone: cnm.DriverNull}

// EnsureBuiltin makes the networks bridge, host and none when they are
// missing. The subnets are those of bridge, at most one a family; with none it gets a free default one.
// A bridge that has others is made anew. While containers are on it that is a [cnm.ErrInUse], and it stays as it is.
func (k *networks) EnsureBuiltin(ctx context.Context, subnets []netip.Prefix) error {
	for name, driver := range builtins {
		r := cnm.NetworkRequest{Name: name, Driver: driver}
		if driver == cnm.DriverBridge {
			for _, s := range subnets {
				r.Pools = append(r.Pools, cnm.PoolRequest{Subnet: s})
			}
			r.DisableIPv4 = len(subnets) > 0 && !slices.ContainsFunc(subnets, func(s netip.Prefix) bool {
				return s.Addr().Is4()
			})
		}
		if err := k.ensure(ctx, r); err != nil {
			return fmt.Errorf("make the builtin network %s: %w", name, err)
		}
	}
	return nil
}

func (k *networks) ensure(ctx context.Context, r cnm.NetworkRequest) error {
	if n, err := k.Network(ctx, r.Name); err == nil {
		same := len(r.Pools) == len(n.Pools)
		for _, p := range r.Pools {
			same = same && slices.ContainsFunc(n.Pools, func(q cnm.Pool) bool { return q.Subnet == p.Subnet })
		}
		if len(r.Pools) == 0 || same {
			return nil
		}
		if _, err := k.DeleteNetwork(ctx, n.ID); err != nil {
			return err
		}
	}
	d, err := k.driver(cnm.Network{Driver: r.Driver})
	if err != nil {
		return err
	}
	_, err = k.createNetwork(ctx, d, r, true)
	return err
}

func (k *networks) createNetwork(ctx context.Context, d cnm.Driver, r cnm.NetworkRequest, builtin bool) (
	cnm.Network, error) {
	if err := cnm.CheckName("name", r.Name); err != nil {
		return cnm.Network{}, err
	}
	n := cnm.Network{
		Name: r.Name, Driver: r.Driver, Scope: d.Scope(), Internal: r.Internal, Options: r.Options, Labels: r.Labels,
		Attachable: r.Attachable,
		Builtin:    builtin, Created: k.now(), Phase: cnm.Active, ConfigFrom: r.ConfigFrom,
	}
	if n.Scope == cnm.Cluster {
		n.ConfigFrom = "" // other nodes do not have it
	}
	if err := chooseIPAM(d, r, &n); err != nil {
		return cnm.Network{}, err
	}
	pools, err := families(d, r, &n)
	if err != nil {
		return cnm.Network{}, err
	}
	n = copyNetwork(n)
	if n.ID, err = k.holdName(n); err != nil {
		return cnm.Network{}, err
	}
	if n.Scope == cnm.Cluster {
		return k.shared.createShared(ctx, d, n, pools)
	}
	if n, err = k.commitNetwork(ctx, d, n, pools); err != nil {
		return cnm.Network{}, err
	}
	if err := k.converge(ctx, cnm.NetworkOwner(n.ID)); err != nil {
		err = fmt.Errorf("create network %s: %w", n.Name, err)
		return cnm.Network{}, k.undo(ctx, err,
			func(ctx context.Context) error { return k.out.removeNetwork(ctx, n.ID) })
	}
	k.emitNetwork(ActionCreate, n)
	return copyNetwork(n), nil
}

// chooseIPAM decides who gives the network its subnets and addresses.
func chooseIPAM(d cnm.Driver, r cnm.NetworkRequest, n *cnm.Network) error {
	bad := func(reason, remedy string) error {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "IPAM driver", Value: r.IPAM, Reason: reason, Remedy: remedy}
	}
	ours := r.IPAM == "" || r.IPAM == cnm.DefaultIPAM
	switch {
	case ours && len(r.IPAMOptions) > 0:
		return bad("options are for the IPAM driver of somebody else", "leave them out, or name the driver")
	case ours:
		return nil
	case n.Scope == cnm.Cluster:
		return bad("a network of the cluster has its addresses from there", "leave it out")
	case !d.Capabilities().Addresses:
		return bad(fmt.Sprintf("networks of driver %s have no addresses", d.Name()), "leave it out")
	}
	families := map[bool]bool{}
	for _, p := range r.Pools {
		if families[p.Is6()] {
			return bad("an IPAM plugin gives addresses of one subnet of each family", "give one subnet of each")
		}
		families[p.Is6()] = true
	}
	n.IPAM = &cnm.NetworkIPAM{Driver: r.IPAM, Options: r.IPAMOptions}
	return nil
}

// families decides which address families the network has, and completes the
// list of its pools.
func families(d cnm.Driver, r cnm.NetworkRequest, n *cnm.Network) ([]cnm.PoolRequest, error) {
	if !d.Capabilities().Addresses {
		if len(r.Pools) > 0 {
			return nil, &cnm.Error{
				Kind: cnm.ErrInvalid, Field: "subnet", Value: r.Pools[0].Subnet.String(),
				Reason: fmt.Sprintf("networks of driver %s have no addresses", d.Name()),
				Remedy: "leave the subnet out",
			}
		}
		return nil, nil
	}
	has4, has6 := false, false
	for _, p := range r.Pools {
		if p.Is6() {
			has6 = true
		} else {
			has4 = true
		}
	}
	if r.DisableIPv4 && has4 {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "IPv4", Value: "disabled",
			Reason: "an IPv4 subnet is given",
			Remedy: "leave out one or the other"}
	}
	n.IPv4, n.IPv6 = !r.DisableIPv4, r.IPv6 || has6
	if !n.IPv4 && !n.IPv6 {
		return nil, &cnm.Error{Kind: cnm.ErrInvalid, Field: "IPv4", Value: "disabled",
			Reason: "the network would have no addresses at all", Remedy: "turn IPv6 on"}
	}
	pools := slices.Clone(r.Pools)
	if n.IPv4 && !has4 {
		pools = append(pools, cnm.PoolRequest{})
	}
	if n.IPv6 && !has6 {
		pools = append(pools, cnm.PoolRequest{IPv6: true})
	}
	chooser, chooses := d.(cnm.GatewayChooser)
	for i, p := range pools {
		pools[i].LAN = cnm.IsLAN(d, *n)
		pools[i].NoGateway = chooses && !chooser.HasGateway(*n, p.Is6())
	}
	return pools, nil
}

// holdName gives the network an ID and keeps its name from others.
func (k *networks) holdName(n cnm.Network) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.freeName(n); err != nil {
		return "", err
	}
	if n.ConfigFrom != "" {
		if _, err := k.findConfig(n.ConfigFrom); err != nil {
			return "", err
		}
	}
	id, err := k.newID(cnm.KindNetwork)
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

// commitNetwork picks the subnets and commits the record, or forgets about the
// network.
func (k *networks) commitNetwork(ctx context.Context, d cnm.Driver, n cnm.Network, pools []cnm.PoolRequest) (
	cnm.Network, error) {
	err := func() (err error) {
		if n.Pools, err = k.ipam.Pools(ctx, n, pools); err != nil {
			return err
		}
		if err = d.CheckNetwork(n); err != nil {
			return err
		}
		if err = k.checkOutbound(ctx, k.outbound(n)); err != nil {
			return err
		}
		w, err := cnm.Put(cnm.KindNetwork, n.ID, n, 0)
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
		return cnm.Network{}, fmt.Errorf("create network %s: %w", n.Name, err)
	}
	k.ix.putNetwork(n, false)
	return n, nil
}

// DeleteNetwork removes a network that no endpoint is on. When the kernel cannot be
// made to agree, the network stays marked and goes with a later pass.
func (k *networks) DeleteNetwork(ctx context.Context, ref string) (cnm.Network, error) {
	n, err := k.Network(ctx, ref)
	if err != nil {
		return cnm.Network{}, err
	}
	if n.Builtin && n.Driver != cnm.DriverBridge {
		return cnm.Network{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name,
			Reason: "builtin, it cannot be removed", Remedy: "leave it: it costs nothing when it is not used"}
	}
	if err = k.unreserved(ctx, n); err == nil {
		err = k.shared.removeAnywhere(ctx, n)
	}
	if err != nil {
		return cnm.Network{}, fmt.Errorf("remove network %s: %w", n.Name, err)
	}
	return n, nil
}

// removeAnywhere removes a network from the cluster, if it is of one, and from
// this node.
func (k *shared) removeAnywhere(ctx context.Context, n cnm.Network) error {
	if n.Cluster != nil && !n.Gone() {
		return k.removeShared(ctx, n)
	}
	return k.out.removeNetwork(ctx, n.ID)
}

// removeNetwork removes a network from this node.
func (k *removals) removeNetwork(ctx context.Context, id string) error {
	return k.removeNetworkIf(ctx, id, always)
}

func always(cnm.Network) bool { return true }

// removeNetworkIf removes a network that is still what it should be.
func (k *removals) removeNetworkIf(ctx context.Context, id string, due func(cnm.Network) bool) error {
	unlock, err := k.locks.Lock(ctx, "network/"+id)
	if err != nil {
		return err
	}
	defer unlock()
	n, err := k.closeNetwork(id, due, false)
	if err != nil || n.ID == "" {
		return err
	}
	err = k.commit(ctx, func() ([]cnm.Write, error) {
		w, err := cnm.Change(ctx, k.store, cnm.KindNetwork, id, func(n *cnm.Network) { n.Phase = cnm.Deleting })
		if errors.Is(err, cnm.ErrNotFound) {
			return nil, nil // a deletion that was cut short has just been finished
		}
		return []cnm.Write{w}, err
	})
	if err != nil {
		k.mu.Lock()
		k.ix.putNetwork(n, false)
		k.mu.Unlock()
		return err
	}
	return k.finish(ctx, cnm.NetworkOwner(id))
}

// closeNetwork lets no further endpoint onto the network. It returns what the
// network was before; the zero value when it is gone or not due. Closing it, for as long as the cluster
// is asked, leaves its record to others.
func (k *removals) closeNetwork(id string, due func(cnm.Network) bool, closing bool) (cnm.Network, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.ix.networks[id]
	if e == nil || e.pending || !due(e.v) {
		return cnm.Network{}, nil
	}
	if on := k.ix.endpointsOn(id); len(on) > 0 {
		return cnm.Network{}, k.inUse(e.v, on)
	}
	if err := k.configUsed(e.v); err != nil {
		return cnm.Network{}, err
	}
	before := e.v
	if e.closing {
		before.Phase = e.was
	}
	deleting := before
	deleting.Phase = cnm.Deleting
	k.ix.putNetwork(deleting, false)
	e = k.ix.networks[id]
	e.owned, e.closing, e.was = true, closing, before.Phase
	return before, nil
}

// inUse tells which endpoints are on a network. The caller holds mu.
func (k *removals) inUse(n cnm.Network, on []cnm.Endpoint) *cnm.Error {
	var names []string
	for _, e := range on[:min(len(on), 10)] {
		names = append(names, k.ix.title(e))
	}
	if len(on) > len(names) {
		names = append(names, fmt.Sprintf("%d more", len(on)-len(names)))
	}
	return &cnm.Error{
		Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: "in use by " + strings.Join(names, ", "),
		Remedy: "disconnect them first",
	}
}

// PruneNetworks removes every network that is due and that no endpoint is on, and returns
// their names. What comes into use meanwhile stays, and so does what endpoints of other nodes are on, and what this
// node has left, which is not its to judge; a cluster that cannot be reached keeps its networks and no others.
func (k *networks) PruneNetworks(ctx context.Context, due func(cnm.Network) bool) ([]string, error) {
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
		if n.Builtin || n.ConfigOnly || n.Left() || len(on) > 0 || !due(n) {
			continue
		}
		switch err := k.shared.removeAnywhere(ctx, n); {
		case err == nil:
			names = append(names, n.Name)
		case n.Cluster != nil && errors.Is(err, cnm.ErrUnavailable):
			unreachable = fmt.Errorf("remove network %s: %w", n.Name, err)
		case !errors.Is(err, cnm.ErrInUse):
			return names, fmt.Errorf("remove network %s: %w", n.Name, err)
		}
	}
	return names, unreachable
}
