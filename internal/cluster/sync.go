package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// quiet is how long nothing is looked at when nothing asks for it.
const quiet = time.Minute

// errNotYet is what a step waits for that is under way.
var errNotYet = errors.New("not yet")

// sync copies what is dirty, both ways, and returns when to come again at the latest.
func (m *Member) sync(ctx context.Context, g *errgroup.Group) time.Duration {
	m.mu.Lock()
	if !m.state.Synced {
		m.mu.Unlock()
		return quiet
	}
	d := m.dirty.take()
	lost := m.lost
	m.mu.Unlock()
	failed := dirty{networks: map[string]bool{}, peers: map[string]bool{}, read: map[string]bool{}}
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
		if fail(m.writeNetworksAgain(ctx)) {
			failed.all = true
		} else {
			m.found()
		}
	}
	if d.self {
		failed.self = fail(m.register(ctx)) || failed.self
		failed.self = fail(m.publish(ctx)) || failed.self
	}
	for _, id := range m.dirtyNetworks(ctx, d) {
		if fail(m.syncNetwork(ctx, g, id)) {
			failed.networks[id] = true
		}
	}
	next, err := m.syncPeers(ctx, d)
	if fail(err) {
		failed.all = true
	}
	fail(m.remember(ctx))
	return m.after(ctx, failed, errs, next)
}

// after notes what failed and says when to try again.
func (m *Member) after(ctx context.Context, failed dirty, errs []error, next time.Duration) time.Duration {
	m.mu.Lock()
	m.dirty.give(failed)
	again := m.dirty.self || m.dirty.all || len(m.dirty.networks)+len(m.dirty.peers) > 0
	m.mu.Unlock()
	if gone := errors.Join(errs...); errors.Is(gone, etcdstore.ErrLeaseGone) || errors.Is(gone, rpctypes.ErrLeaseNotFound) {
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
func (m *Member) found() {
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
func (m *Member) leaseID() (int64, error) {
	if id := m.lease.ID(); id != 0 {
		return id, nil
	}
	return 0, errNotYet
}

// register writes this node's own records.
func (m *Member) register(ctx context.Context) error {
	if err := m.mayRegister(); err != nil {
		return err
	}
	lease, err := m.leaseID()
	if err != nil {
		return err
	}
	alive := m.alive.ID()
	if alive == 0 {
		return errNotYet
	}
	want := m.ownNode()
	m.mu.Lock()
	node, present := m.rep.nodes[m.id]
	now, there := m.rep.alive[m.id]
	node.mod = m.revision(cnm.Key{Kind: kindNode, ID: m.id}, node.mod)
	now.mod = m.revision(cnm.Key{Kind: kindAlive, ID: m.id}, now.mod)
	m.mu.Unlock()
	// Both in one transaction: a node that joins is one thing for etcd to tell everybody.
	var writes []etcdstore.LeasedWrite
	if !present || node.lease != lease || !sameNode(node.v, want) {
		w, err := leased(lease, cnm.Key{Kind: kindNode, ID: m.id}, want, node.mod)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	sign := aliveRecord{Instance: m.instance, Boot: m.cfg.Boot, Addr: m.address()}
	if !there || now.lease != alive || now.v != sign {
		w, err := leased(alive, cnm.Key{Kind: kindAlive, ID: m.id}, sign, now.mod)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	if err := m.commit(ctx, writes); err != nil {
		return fmt.Errorf("register the node: %w", quietly(err))
	}
	return nil
}

// commit writes records to etcd, and knows them from then on.
func (m *Member) commit(ctx context.Context, writes []etcdstore.LeasedWrite) error {
	revision, err := m.store.CommitLeased(ctx, writes...)
	if err != nil {
		return err
	}
	for _, w := range writes {
		i := &etcd.Item{Key: m.cfg.Prefix + "/" + string(w.Key.Kind) + "/" + w.Key.ID, Value: w.Value, Mod: revision, Lease: w.Lease}
		if i.Create = int64(w.Revision); w.Revision == 0 {
			i.Create = revision
		}
		m.wrote(i)
	}
	return nil
}

// leased is the write of a record over the revision that was seen.
func leased(lease int64, key cnm.Key, v any, revision int64) (etcdstore.LeasedWrite, error) {
	b, err := encode(v)
	return etcdstore.LeasedWrite{Write: cnm.Write{Key: key, Value: b, Revision: uint64(revision)}, Lease: lease}, err
}

func (m *Member) ownNode() Node {
	h := m.cfg.Host()
	n := Node{ID: m.id, Name: m.cfg.Name, Addr4: h.Uplink.Addr4, Addr6: h.Uplink.Addr6, MTU: h.Uplink.MTU, Version: m.cfg.Version, Boot: m.cfg.Boot}
	for _, d := range m.cfg.Drivers {
		if d.Scope() == cnm.Cluster {
			n.Drivers = append(n.Drivers, d.Name())
		}
	}
	return n
}

func sameNode(a, b Node) bool {
	x, errX := encode(a)
	y, errY := encode(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// address names the node on the underlay.
func (m *Member) address() string {
	u := m.cfg.Host().Uplink
	switch {
	case u.Addr4.IsValid():
		return u.Addr4.String()
	case u.Addr6.IsValid():
		return u.Addr6.String()
	}
	return ""
}

// mayRegister refuses to be a node that another host is, which a copied disk makes: two with one identity would
// take each other's addresses for their own.
func (m *Member) mayRegister() error {
	addr := m.address()
	m.mu.Lock()
	defer m.mu.Unlock()
	there, ok := m.rep.alive[m.id]
	own := !ok || there.v.Instance == m.instance || there.v.Boot == m.cfg.Boot && there.v.Addr == addr
	if own {
		m.refused = nil
		return nil
	}
	if time.Since(m.rep.seen[m.id]) < 2*m.cfg.Times.Alive {
		return errNotYet // it may be this host before a reboot
	}
	m.refused = &cnm.Error{
		Kind: cnm.ErrExists, Field: "node", Value: m.id,
		Reason: fmt.Sprintf("another host, %s, is a member with this node's identity", there.v.Addr),
		Remedy: fmt.Sprintf("if one's disk is a copy of the other's, stop netd on the copy, remove %s/node-id and start it again", m.cfg.Root),
	}
	return m.refused
}

// put writes one record over the revision that was seen.
func (m *Member) put(ctx context.Context, lease int64, key cnm.Key, v any, revision int64) error {
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

// remember keeps what a later life must know.
func (m *Member) remember(ctx context.Context) error {
	m.mu.Lock()
	now := selfRecord{Lease: m.lease.ID(), Expires: m.lease.Expires().Round(0), Cluster: m.self.Cluster, Revision: m.self.Revision}
	m.mu.Unlock()
	// Once a minute is enough for what only grows.
	if k := m.kept; now.Lease == 0 || k.Lease == now.Lease && k.Cluster == now.Cluster && now.Expires.Sub(k.Expires) < quiet {
		return nil
	}
	rec, err := m.cfg.Local.Get(ctx, selfKey())
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return fmt.Errorf("keep the membership: %w", err)
	}
	b, err := encode(now)
	if err != nil {
		return err
	}
	if err := m.cfg.Local.Commit(ctx, cnm.Write{Key: selfKey(), Value: b, Revision: rec.Revision}); err != nil {
		return fmt.Errorf("keep the membership: %w", err)
	}
	m.kept = now
	return nil
}
