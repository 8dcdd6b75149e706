package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// batchSize is how many writes one commit to etcd has at most; its own limit is 128.
const batchSize = 100

// publish makes etcd's records of this node's endpoints those that there are.
func (m *Member) publish(ctx context.Context) error {
	m.mu.Lock()
	refused := m.refused
	m.mu.Unlock()
	if refused != nil {
		return nil // register has said so
	}
	lease, err := m.leaseID()
	if err != nil {
		return err
	}
	want, err := m.ownEndpoints(ctx)
	if err != nil {
		return err
	}
	writes, err := m.publication(want, lease)
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(writes, batchSize) {
		if err := m.commit(ctx, batch); err != nil {
			return fmt.Errorf("publish this node's endpoints: %w", quietly(err))
		}
	}
	return nil
}

// ownEndpoints are this node's endpoints on cluster networks, by the ID of their record.
func (m *Member) ownEndpoints(ctx context.Context) (map[string]Endpoint, error) {
	list, err := m.ctrl.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	u := m.cfg.Host().Uplink
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]Endpoint{}
	for _, e := range list {
		if _, shared := m.rep.networks[e.Network]; !shared || e.Phase == cnm.Deleting {
			continue
		}
		p := Endpoint{ID: e.ID, Network: e.Network, Node: m.id, Name: e.Name, Aliases: e.Aliases, MAC: e.MAC, Addr4: u.Addr4, Addr6: u.Addr6}
		for _, a := range e.Addrs {
			p.Addrs = append(p.Addrs, a.Addr())
		}
		out[p.key().ID] = p
	}
	return out, nil
}

// publication is what leads from etcd's records to the wanted ones.
func (m *Member) publication(want map[string]Endpoint, lease int64) ([]etcdstore.LeasedWrite, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var writes []etcdstore.LeasedWrite
	for id, e := range want {
		b, err := encode(e)
		if err != nil {
			return nil, err
		}
		have, ok := m.rep.endpoints[id]
		if ok {
			old, err := encode(have.v)
			if err == nil && string(old) == string(b) && have.lease == lease {
				continue
			}
		}
		writes = append(writes, etcdstore.LeasedWrite{Write: cnm.Write{Key: e.key(), Value: b, Revision: uint64(m.revision(e.key(), have.mod))}, Lease: lease})
	}
	for id := range m.rep.mine {
		if _, wanted := want[id]; !wanted {
			writes = append(writes, etcdstore.LeasedWrite{Write: cnm.Write{Key: cnm.Key{Kind: kindEndpoint, ID: id}, Revision: uint64(m.rep.endpoints[id].mod)}})
		}
	}
	slices.SortFunc(writes, func(a, b etcdstore.LeasedWrite) int {
		switch {
		case a.Key.ID < b.Key.ID:
			return -1
		case a.Key.ID > b.Key.ID:
			return 1
		}
		return 0
	})
	return writes, nil
}

// writeNetworksAgain gives an etcd that has lost data the networks that this node knows. Which of them
// somebody has removed meanwhile it cannot tell. It is errNotYet until all of them are there.
func (m *Member) writeNetworksAgain(ctx context.Context) error {
	local, err := m.ctrl.Networks(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range local {
		if n.Cluster == nil || n.Cluster.Gone || n.Phase == cnm.Deleting {
			continue
		}
		m.mu.Lock()
		_, there := m.rep.networks[n.ID]
		m.mu.Unlock()
		if there {
			continue
		}
		err := m.enlist(ctx, n)
		if errors.Is(err, cnm.ErrExists) {
			m.trouble(n.ID, fmt.Errorf("write network %s to etcd again: %w", n.Name, err))
			continue // another one has its place by now
		}
		if err == nil {
			m.cfg.Log.Warn("etcd has lost a network; wrote it again", "network", n.Name)
			err = errNotYet
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
