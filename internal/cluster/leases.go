package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/subnet"
)

// leases holds this node's subnet leases.
type leases struct{ *core }

// ensureLease makes sure of this node's subnet of a network: it acquires one, or asserts the one it has when
// etcd's record is not what it should be. What it returns holds even with an error, unless it is empty.
func (m leases) ensureLease(ctx context.Context, g *errgroup.Group, d Driver, n cnm.Network) (record.HeldLease, error) {
	m.mu.Lock()
	h := m.held[n.ID]
	refused := m.refused
	m.mu.Unlock()
	if refused != nil {
		return h, refused
	}
	dir, err := m.follower.lookInto(g, n)
	if err != nil {
		return h, err
	}
	m.mu.Lock()
	synced := dir.synced
	cur, present := dir.leases[h.Key]
	m.mu.Unlock()
	if !synced {
		return h, errNotYet
	}
	etcdLease, err := m.leaseID()
	if err != nil {
		return h, err
	}
	attrs, err := d.Attrs(n, m.cfg.Host())
	if err != nil {
		return h, err
	}
	attrs.NodeID = m.id
	if h.Key != "" && present && cur.Create == h.Create && sameAttrs(cur.Attrs, attrs) &&
		(cur.EtcdLease == etcdLease || h.Reserved) {
		return h, m.writeEnv(d, n, *cur)
	}
	l, err := m.hold(ctx, dir, n, h, attrs, etcdLease)
	if err != nil {
		return h, err
	}
	if dir.view != nil {
		value, err := record.Encode(l.Attrs)
		if err != nil {
			return h, err
		}
		m.wrote(&etcd.Item{Key: dir.Path() + "/subnets/" + l.Key, Value: value, Create: l.Create, Mod: l.Mod,
			Lease: l.EtcdLease})
	}
	h = record.HeldLease{Key: l.Key, Subnet: l.Subnet, Subnet6: l.Subnet6, Create: l.Create, Reserved: l.Reservation()}
	if err := m.keepLease(ctx, n.ID, h); err != nil {
		return h, err
	}
	return h, m.writeEnv(d, n, l)
}

// hold asserts the lease that the node has, or acquires one.
func (m leases) hold(ctx context.Context, dir *directory, n cnm.Network, h record.HeldLease, attrs subnet.Attrs,
	etcdLease int64) (subnet.Lease, error) {
	if err := m.unrivalled(n); err != nil {
		return subnet.Lease{}, err
	}
	prior := subnet.Subnets{V4: h.Subnet, V6: h.Subnet6}
	if h.Key != "" {
		l := subnet.Lease{Subnet: h.Subnet, Subnet6: h.Subnet6, Key: h.Key, Create: h.Create, EtcdLease: etcdLease,
			Attrs: attrs}
		if h.Reserved {
			l.EtcdLease = 0
		}
		got, err := dir.Assert(ctx, l, attrs, etcdLease)
		lost, ok := errors.AsType[*subnet.LostError](err)
		if !ok {
			return got, unavailable(err)
		}
		m.cfg.Log.Warn("somebody else has this node's subnet; giving way", "network", n.Name, "err", lost)
		m.cfg.Notify("lose", map[string]string{"network": n.Name, "subnet": prior.String(), "reason": lost.Error()})
		prior = subnet.Subnets{}
	}
	l, err := dir.Acquire(ctx, attrs, prior, etcdLease)
	if err != nil {
		if errors.Is(err, subnet.ErrExhausted) {
			return l, &cnm.Error{Kind: cnm.ErrExhausted, Field: "network", Value: n.Name, Cause: err,
				Reason: "every subnet is some node's",
				Remedy: "make the network with a larger subnet or a greater -o subnet-length"}
		}
		return l, unavailable(err)
	}
	m.cfg.Log.Info("this node has a subnet", "network", n.Name, "subnet", l.Subnets().String())
	m.cfg.Notify("acquire", map[string]string{"network": n.Name, "subnet": l.Subnets().String()})
	return l, nil
}

// unrivalled refuses to take the subnet of a flanneld that still runs here: peers would send to a device that is not
// there yet, and giving the lease back would end the flanneld.
func (m *core) unrivalled(n cnm.Network) error {
	if m.cfg.Rival == nil {
		return nil
	}
	rival := m.cfg.Rival(n.Cluster.Leases)
	if rival == "" {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name, Reason: rival +
		" has this host's subnet of " + n.Cluster.Leases,
		Remedy: "stop it, and remove the devices and routes it leaves (`ip link del flannel.1`); its subnet is this " +
			"node's then"}
}

func sameAttrs(a, b subnet.Attrs) bool {
	x, errX := a.MarshalJSON()
	y, errY := b.MarshalJSON()
	return errX == nil && errY == nil && string(x) == string(y)
}

// keepLease remembers a lease over a restart.
func (m leases) keepLease(ctx context.Context, network string, h record.HeldLease) error {
	rec, err := m.cfg.Local.Get(ctx, record.LeaseKey(network))
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return fmt.Errorf("keep the lease: %w", err)
	}
	b, err := record.Encode(h)
	if err != nil {
		return err
	}
	if err := m.cfg.Local.Commit(ctx, cnm.Write{Key: record.LeaseKey(network), Value: b,
		Revision: rec.Revision}); err != nil {
		return fmt.Errorf("keep the lease: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held[network] = h
	m.dirty.peers[cnm.PeerID(network, h.Key)] = true
	return nil
}

// forgetLease drops the lease of a network that is gone.
func (m leases) forgetLease(ctx context.Context, network string) error {
	rec, err := m.cfg.Local.Get(ctx, record.LeaseKey(network))
	if err == nil {
		err = m.cfg.Local.Commit(ctx, cnm.Write{Key: record.LeaseKey(network), Revision: rec.Revision})
	}
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return fmt.Errorf("forget the lease of network %s: %w", cnm.Short(network), err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.held, network)
	return nil
}

// writeEnv writes subnet.env where this node's configuration asks for it.
func (m leases) writeEnv(d Driver, n cnm.Network, l subnet.Lease) error {
	path := m.cfg.SubnetEnv[n.Name]
	if path == "" {
		return nil
	}
	n.Pools = leasePools(record.HeldLease{Subnet: l.Subnet, Subnet6: l.Subnet6})
	env, err := d.Env(n, m.cfg.Host())
	if err == nil {
		err = subnet.WriteEnv(path, env)
	}
	if err != nil {
		return fmt.Errorf("--subnet-env %s=%s: %w", n.Name, path, err)
	}
	return nil
}

// unavailable turns what etcd says into the model's error.
func unavailable(err error) error {
	if err == nil || errors.Is(err, subnet.ErrBadConfig) || errors.Is(err, subnet.ErrNoConfig) ||
		errors.Is(err, subnet.ErrLost) {
		return err
	}
	if _, ok := errors.AsType[*cnm.Error](err); ok || errors.Is(err, cnm.ErrUnavailable) {
		return err
	}
	return &cnm.Error{Kind: cnm.ErrUnavailable, Reason: "etcd does not answer",
		Remedy: "see what `net status` says of the cluster, and try again", Cause: err}
}

// usable implements [cnm.Membership].
func (m leases) usable(network string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused != nil {
		return m.refused
	}
	if m.held[network].Reserved {
		return nil
	}
	until := m.self.Expires
	if m.lease != nil && m.lease.ID() != 0 {
		until = m.lease.Expires()
	}
	if time.Now().Before(until) {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrUnavailable, Field: "network", Value: cnm.Short(network), Cause: m.state.Err,
		Reason: "this node's share of it is over, as etcd could not be reached to renew it, and may be another's by " +
			"now",
		Remedy: "see what `net status` says of the cluster; the containers that are there go on"}
}
