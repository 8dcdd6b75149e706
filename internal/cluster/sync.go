package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// quiet is how long nothing is looked at when nothing asks for it.
const quiet = time.Minute

// errNotYet is what a step waits for that is under way.
var errNotYet = errors.New("not yet")

// sync copies what is dirty, both ways, and returns when to come again at the latest.
func (m *Member) sync(ctx context.Context, g *errgroup.Group) time.Duration {
	if err := m.networks.heedLeft(ctx); err != nil {
		m.tell(err)
		return m.cfg.Times.Retry
	}
	m.mu.Lock()
	if !m.state.Synced {
		m.mu.Unlock()
		return quiet
	}
	d := m.dirty.take()
	lost := m.lost
	m.mu.Unlock()
	failed := noDirty()
	var errs []error
	fail := func(err error) bool {
		if err != nil && !errors.Is(err, errNotYet) {
			errs = append(errs, err)
		}
		return err != nil
	}
	if lost {
		m.lease.Renew()
		m.alive.Renew()
		if fail(m.publisher.writeNetworksAgain(ctx)) {
			failed.all = true
		} else {
			m.found()
		}
	}
	if d.self {
		err := errors.Join(m.publisher.register(ctx), m.publisher.publish(ctx))
		failed.self = fail(err) || failed.self
		m.unwritten(err)
	}
	for _, id := range m.dirtyNetworks(ctx, d) {
		if fail(m.networks.syncNetwork(ctx, g, id)) {
			failed.networks[id] = true
		}
	}
	next, err := m.peers.syncPeers(ctx, d)
	if fail(err) {
		failed.all = true
	}
	again, err := m.blocks.release(ctx)
	fail(err)
	fail(m.publisher.remember(ctx))
	return m.after(ctx, failed, errs, min(next, again))
}

// after notes what failed and says when to try again.
func (m *Member) after(ctx context.Context, failed dirty, errs []error, next time.Duration) time.Duration {
	m.mu.Lock()
	m.dirty.give(failed)
	again := m.dirty.self || m.dirty.all || len(m.dirty.networks)+len(m.dirty.peers)+len(m.dirty.blocks) > 0
	m.mu.Unlock()
	if gone := errors.Join(errs...); errors.Is(gone, etcdstore.ErrLeaseGone) ||
		errors.Is(gone, rpctypes.ErrLeaseNotFound) {
		m.lease.Renew()
		m.alive.Renew()
	}
	if ctx.Err() == nil {
		m.tell(errors.Join(errs...))
	}
	if again {
		next = min(next, m.cfg.Times.Retry)
	}
	return min(next, quiet)
}

// unwritten notes why what this node tells the others is not in etcd, or that it is.
func (m *core) unwritten(err error) {
	if errors.Is(err, errNotYet) || errors.Is(err, context.Canceled) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.notWritten = err
}

// tell logs what is wrong once, however often it is tried again.
func (m *Member) tell(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	switch {
	case text == m.told:
	case err != nil:
		m.cfg.Log.Warn("the cluster's records and this node's differ; trying again", "err", err)
	default:
		m.cfg.Log.Info("the cluster's records and this node's agree again")
	}
	m.told = text
}

// found ends the state of having lost data.
func (m *core) found() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lost = false
	m.lostAt = time.Now()
}

// dirtyNetworks are the IDs of the networks to look at: with all, also those that only this node knows.
func (m *Member) dirtyNetworks(ctx context.Context, d dirty) []string {
	ids := d.networks
	if d.all {
		m.mu.Lock()
		for id := range m.rep.networks {
			ids[id] = true
		}
		m.mu.Unlock()
		local, err := m.ctrl.Networks(ctx)
		if err != nil {
			return nil // only with ctx
		}
		for _, n := range local {
			if n.Cluster != nil {
				ids[n.ID] = true
			}
		}
	}
	out := make([]string, 0, len(ids))
	for id := range ids {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// leaseID is the etcd lease that this node's records hang on.
func (m *core) leaseID() (int64, error) {
	if id := m.lease.ID(); id != 0 {
		return id, nil
	}
	return 0, errNotYet
}

// commit writes records to etcd, and knows them from then on.
func (m *core) commit(ctx context.Context, writes []etcdstore.LeasedWrite) error {
	revision, err := m.store.CommitLeased(ctx, writes...)
	if err != nil {
		return err
	}
	for _, w := range writes {
		i := &etcd.Item{Key: m.cfg.Prefix + "/" + string(w.Key.Kind) + "/" + w.Key.ID, Value: w.Value, Mod: revision,
			Lease: w.Lease}
		if i.Create = int64(w.Revision); w.Revision == 0 {
			i.Create = revision
		}
		m.wrote(i)
	}
	return nil
}

// leased is the write of a record over the revision that was seen.
func leased(lease int64, key cnm.Key, v any, revision int64) (etcdstore.LeasedWrite, error) {
	b, err := record.Encode(v)
	return etcdstore.LeasedWrite{Write: cnm.Write{Key: key, Value: b, Revision: uint64(revision)}, Lease: lease}, err
}

// address names the node on the underlay.
func (m *core) address() string {
	u := m.cfg.Host().Uplink
	switch {
	case u.Addr4.IsValid():
		return u.Addr4.String()
	case u.Addr6.IsValid():
		return u.Addr6.String()
	}
	return ""
}

// put writes one record over the revision that was seen.
func (m *core) put(ctx context.Context, lease int64, key cnm.Key, v any, revision int64) error {
	w, err := leased(lease, key, v, revision)
	if err != nil {
		return err
	}
	_, err = m.store.CommitLeased(ctx, w)
	return quietly(err)
}

// quietly makes a conflict something to wait for: the watch will bring what is there now.
func quietly(err error) error {
	if errors.Is(err, cnm.ErrConflict) {
		return errNotYet
	}
	return err
}
