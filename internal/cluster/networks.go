package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
	"github.com/vethloom/vethloom/subnet"
)

var _ cnm.Membership = (*Member)(nil)

// tries bounds how often a change is tried again that somebody else was quicker with.
const tries = 50

// ready reports whether etcd can be asked.
func (m *core) ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.refused != nil:
		return m.refused
	case m.state.Connected && m.state.Synced:
		return nil
	}
	reason := "etcd (" + m.state.Store + ") has not answered yet"
	if m.state.Synced {
		reason = fmt.Sprintf("etcd (%s) has not answered since %s", m.state.Store, m.state.Since.Format(time.TimeOnly))
	}
	return &cnm.Error{Kind: cnm.ErrUnavailable, Reason: reason, Cause: m.state.Err,
		Remedy: "networks of this node alone work; for those of the cluster see that etcd runs and --etcd names it"}
}

// rest is how long calls wait for an etcd that was there a moment ago: members find another leader in less, and a
// client goes from one of them to another.
const (
	rest   = 3 * time.Second
	moment = 10 * time.Second
)

// awaitReady waits until etcd can be asked, if it could a moment ago.
func (m *core) awaitReady(ctx context.Context) error {
	begin := time.Now()
	for {
		m.mu.Lock()
		turned, left := m.turned, rest-time.Since(begin)
		wait := !m.state.Connected && m.state.Synced && left > 0 && begin.Sub(m.state.Since) < moment
		m.mu.Unlock()
		if !wait {
			return m.ready()
		}
		over := time.NewTimer(left)
		select {
		case <-turned:
		case <-over.C:
		case <-ctx.Done():
		}
		over.Stop()
		if ctx.Err() != nil {
			return m.ready()
		}
	}
}

// create implements [cnm.Membership].
func (m networks) create(ctx context.Context, n cnm.Network, pools []cnm.PoolRequest, t cnm.TunnelRequest) (cnm.Network,
	error) {
	if err := m.awaitReady(ctx); err != nil {
		return n, err
	}
	d := m.drivers[n.Driver]
	m.mu.Lock()
	m.making[n.ID] = making{since: time.Now()}
	m.mu.Unlock()
	made, err := m.createShared(ctx, d, n, pools, t)
	if err != nil {
		m.made(n.ID)
		return n, unavailable(err)
	}
	return m.share(ctx, d, made)
}

// createShared writes the network's record, tried again while others write theirs.
func (m networks) createShared(ctx context.Context, d cnm.Driver, n cnm.Network, pools []cnm.PoolRequest,
	t cnm.TunnelRequest) (cnm.Network, error) {
	ld, leases := d.(Driver)
	leases = leases && d.Capabilities().Leases
	for range tries {
		guard, others, err := m.guarded(ctx)
		if err != nil {
			return n, err
		}
		if i := slices.IndexFunc(others, func(o cnm.Network) bool { return o.ID == n.ID }); i >= 0 {
			// What looked like a conflict was written: the answer was lost, and the guard is another's since.
			m.written(n.ID, int64(others[i].Revision))
			made := others[i]
			made.Revision = n.Revision
			return made, nil
		}
		next := clone(withCluster(n))
		if err := nameFree(n, others); err != nil {
			return n, err
		}
		join := ""
		if leases {
			join = ld.JoinDir(n)
		}
		if join != "" {
			next, t, err = m.join(ctx, ld, next, join, pools)
		} else {
			next, err = m.fresh(ctx, d, next, pools, others, leases)
		}
		if err == nil {
			err = m.identify(&next, t, others)
		}
		if err == nil {
			err = m.admit(ctx, next)
		}
		if err != nil {
			return n, err
		}
		if leases && join == "" {
			if err := m.makeDirectory(ctx, ld, next, others); err != nil {
				return n, err
			}
		}
		revision, err := m.write(ctx, next, guard)
		if err == nil {
			m.written(next.ID, revision)
		}
		if !errors.Is(err, cnm.ErrConflict) {
			return next, err
		}
	}
	return n, &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
		Reason: "others keep changing the cluster's networks", Remedy: "try again"}
}

func withCluster(n cnm.Network) cnm.Network {
	if n.Cluster == nil {
		n.Cluster = &cnm.ClusterNetwork{}
	}
	return n
}

// guarded reads the guard and then every network: a commit that writes the guard proves the list was right.
func (m networks) guarded(ctx context.Context) (cnm.Record, []cnm.Network, error) {
	key := cnm.Key{Kind: record.KindGuard, ID: record.GuardID}
	guard, err := m.store.Get(ctx, key)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return guard, nil, err
	}
	guard.Key = key
	records, err := m.store.List(ctx, cnm.KindNetwork)
	if err != nil {
		return guard, nil, err
	}
	var others []cnm.Network
	for _, r := range records {
		if n, err := cnm.NetworkOf(r); err == nil && n.Cluster != nil {
			others = append(others, n)
		}
	}
	return guard, others, nil
}

// write commits a new network and returns the revision of its record.
func (m networks) write(ctx context.Context, n cnm.Network, guard cnm.Record) (int64, error) {
	b, err := record.Encode(n)
	if err != nil {
		return 0, err
	}
	return m.store.CommitLeased(ctx,
		etcdstore.LeasedWrite{Write: cnm.Write{Key: guard.Key, Value: []byte(n.ID), Revision: guard.Revision}},
		etcdstore.LeasedWrite{Write: cnm.Write{Key: cnm.Key{Kind: cnm.KindNetwork, ID: n.ID}, Value: b}})
}

// written has the network looked at once the watch has come to its revision. Another node may remove it before that:
// then the watch, which leaves out what came and went between two looks, never tells of it.
func (m networks) written(id string, revision int64) {
	m.mu.Lock()
	m.making[id] = making{since: time.Now(), revision: revision}
	m.dirty.networks[id] = true
	m.mu.Unlock()
	m.signal()
}

func nameFree(n cnm.Network, others []cnm.Network) error {
	for _, o := range others {
		if o.Name == n.Name && o.ID != n.ID {
			return &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: n.Name,
				Reason: "the cluster has a network of this name (" + cnm.Short(o.ID) + ")",
				Remedy: "choose another name or remove that network"}
		}
	}
	return nil
}

// subnetsFree refuses a network that exists already and meets one of the cluster's.
func subnetsFree(n cnm.Network, others []cnm.Network) error {
	for _, o := range others {
		for _, p := range o.Cluster.Subnets {
			if slices.ContainsFunc(n.Cluster.Subnets, p.Overlaps) {
				return &cnm.Error{Kind: cnm.ErrExists, Field: "subnet", Value: p.String(),
					Reason: fmt.Sprintf("the cluster's network %q has it, and this node's network %q meets it", o.Name,
						n.Name),
					Remedy: "remove one of them, and make it again with another subnet"}
			}
		}
	}
	return nil
}

// fresh resolves the pools of a network. One with leases has none itself: its nodes do.
func (m networks) fresh(ctx context.Context, d cnm.Driver, n cnm.Network, pools []cnm.PoolRequest, others []cnm.Network,
	leases bool) (cnm.Network, error) {
	var taken []netip.Prefix
	for _, o := range others {
		taken = append(taken, o.Cluster.Subnets...)
	}
	resolved, err := m.cfg.IPAM.Resolve(ctx, pools, taken)
	if err != nil {
		return n, err
	}
	for _, p := range resolved {
		n.Cluster.Subnets = append(n.Cluster.Subnets, p.Subnet)
	}
	n.Pools = resolved
	if leases {
		if err := leaseOnly(pools, resolved); err != nil {
			return n, err
		}
		n.Pools = nil
		n.Cluster.Leases = m.cfg.Prefix + "/flannel/" + n.Name
	}
	return n, nil
}

// leaseOnly refuses what nodes with subnets of their own cannot heed.
func leaseOnly(requests []cnm.PoolRequest, pools []cnm.Pool) error {
	for _, r := range requests {
		switch {
		case r.Gateway.IsValid():
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "gateway", Value: r.Gateway.String(),
				Reason: "each node's part of the network has its own gateway, its first address",
				Remedy: "leave it out"}
		case r.Range.IsValid():
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "ip-range", Value: r.Range.String(),
				Reason: "each node gives addresses out of the subnet it has leased", Remedy: "leave it out"}
		case len(r.Aux) > 0:
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "aux-address", Value: fmt.Sprint(len(r.Aux)),
				Reason: "each node gives addresses out of the subnet it has leased", Remedy: "leave it out"}
		}
	}
	return nil
}

// join takes over a directory that somebody else made.
func (m networks) join(ctx context.Context, d Driver, n cnm.Network, path string, pools []cnm.PoolRequest) (cnm.Network,
	cnm.TunnelRequest, error) {
	for _, p := range pools {
		if p.Subnet.IsValid() {
			return n, cnm.TunnelRequest{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "subnet", Value: p.Subnet.String(),
				Reason: "the directory " + path + " says which one the network has", Remedy: "leave it out"}
		}
	}
	dir, err := subnet.Open(m.client, path)
	if err != nil {
		return n, cnm.TunnelRequest{}, err
	}
	c, err := dir.Config(ctx)
	if errors.Is(err, subnet.ErrNoConfig) {
		return n, cnm.TunnelRequest{}, &cnm.Error{Kind: cnm.ErrNotFound, Field: "option flannel.prefix", Value: path,
			Reason: "there is no config below it in etcd", Remedy: "see `etcdctl get " + path +
				"/config`, and that flanneld has the same -etcd-endpoints", Cause: err}
	}
	if err != nil {
		return n, cnm.TunnelRequest{}, err
	}
	return d.Join(n, path, c)
}

// makeDirectory writes the config of a new network's directory. One that is there already is left from a
// creation that was cut short, unless a network has it.
func (m networks) makeDirectory(ctx context.Context, d Driver, n cnm.Network, others []cnm.Network) error {
	c, err := d.LeaseConfig(n)
	if err != nil {
		return err
	}
	dir, err := subnet.Open(m.client, n.Cluster.Leases)
	if err != nil {
		return err
	}
	err = dir.Create(ctx, c)
	if !errors.Is(err, subnet.ErrExists) {
		return err
	}
	if slices.ContainsFunc(others, func(o cnm.Network) bool { return o.Cluster.Leases == n.Cluster.Leases }) {
		return err
	}
	if err := dir.Remove(ctx); err != nil {
		return err
	}
	return dir.Create(ctx, c)
}

// identify gives the network's tunnel its identifiers.
func (m networks) identify(n *cnm.Network, t cnm.TunnelRequest, others []cnm.Network) error {
	type id struct {
		vni  uint32
		port uint16
	}
	taken := map[id]string{}
	for _, o := range others {
		d, ok := m.drivers[o.Driver].(cnm.PeerDriver)
		if !ok {
			continue
		}
		if ot, err := d.Tunnel(o); err == nil && ot.Kind == t.Kind {
			taken[id{o.Cluster.VNI, o.Cluster.Port}] = o.Name
		}
	}
	first, last := uint32(t.VNI), uint32(t.VNI)
	if t.VNI == 0 {
		first, last = t.FirstVNI, t.LastVNI
	}
	from, to := t.Port, t.Port
	if t.Port == 0 {
		from, to = t.FirstPort, t.LastPort
	}
	for port := uint32(from); port <= uint32(to); port++ {
		for vni := first; vni <= last; vni++ {
			if _, ok := taken[id{vni, uint16(port)}]; !ok {
				n.Cluster.VNI, n.Cluster.Port = vni, uint16(port)
				return nil
			}
			if vni == last {
				break // the last VNI may be the last number
			}
		}
	}
	if t.Kind == "" {
		return nil
	}
	by := taken[id{first, from}]
	if first == last && from == to {
		return &cnm.Error{Kind: cnm.ErrExists, Field: "tunnel", Value: fmt.Sprintf("VNI %d, port %d", first, from),
			Reason: fmt.Sprintf("network %q has them", by),
			Remedy: "choose another vni or port, or none to have one chosen; one of flannel's that is joined keeps " +
				"its own, so make the other anew with other ones"}
	}
	return &cnm.Error{Kind: cnm.ErrExhausted, Field: "tunnel", Value: fmt.Sprintf("VNI %d to %d, port %d to %d", first,
		last, from, to), Reason: "networks have all of them", Remedy: "remove a network, or choose another port"}
}

// identifyAgain has a network that exists already keep its tunnel's identifiers, unless another one has them and they
// were not asked for.
func (m networks) identifyAgain(n *cnm.Network, others []cnm.Network) error {
	d, ok := m.drivers[n.Driver].(cnm.PeerDriver)
	if !ok {
		return nil
	}
	asked, err := d.Tunnel(*n)
	if err != nil {
		return err
	}
	kept := asked
	kept.VNI, kept.Port = n.Cluster.VNI, n.Cluster.Port
	if err := m.identify(n, kept, others); !errors.Is(err, cnm.ErrExists) {
		return err
	}
	return m.identify(n, asked, others)
}

// share gets this node its part of a network that was just made.
func (m networks) share(ctx context.Context, d cnm.Driver, n cnm.Network) (cnm.Network, error) {
	if !d.Capabilities().Leases {
		for i := range n.Pools {
			n.Pools[i].Blocks = []netip.Prefix{}
		}
		return n, nil
	}
	ld := d.(Driver)
	attrs, err := ld.Attrs(n, m.cfg.Host())
	if err != nil {
		return n, errors.Join(err, m.delete(ctx, n))
	}
	attrs.NodeID = m.id
	dir, err := subnet.Open(m.client, n.Cluster.Leases)
	if err != nil {
		return n, err
	}
	lease, err := m.leaseID()
	if err != nil {
		return n, nil // the next sync gets it
	}
	l, err := m.leases.hold(ctx, &directory{Directory: dir}, n, record.HeldLease{}, attrs, lease)
	if err != nil {
		return n, errors.Join(err, m.delete(ctx, n))
	}
	h := record.HeldLease{Key: l.Key, Subnet: l.Subnet, Subnet6: l.Subnet6, Create: l.Create, Reserved: l.Reservation()}
	n.Pools = leasePools(h)
	return n, m.leases.keepLease(ctx, n.ID, h)
}

// enlist writes a network that this node knows into an etcd that does not.
func (m networks) enlist(ctx context.Context, n cnm.Network) error {
	guard, others, err := m.guarded(ctx)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(others, func(o cnm.Network) bool { return o.ID == n.ID }) {
		return nil
	}
	if err := nameFree(n, others); err != nil {
		return err
	}
	if err := subnetsFree(n, others); err != nil {
		return err
	}
	n = clone(n)
	n.Cluster.Left = false
	if err := m.identifyAgain(&n, others); err != nil {
		return err
	}
	if d, ok := m.drivers[n.Driver].(Driver); ok && d.Capabilities().Leases {
		n.Pools = nil
		if d.JoinDir(n) == "" {
			if err := m.makeDirectory(ctx, d, n, others); err != nil && !errors.Is(err, subnet.ErrExists) {
				return err
			}
		}
	}
	for i := range n.Pools {
		n.Pools[i].Blocks = nil
	}
	_, err = m.write(ctx, n, guard)
	return quietly(err)
}

// networks makes and removes networks of the cluster, and takes them up and gives them up here.
type networks struct {
	*core
	adopted map[string]string // as the controller last took them, by ID; of the goroutine that works
}
