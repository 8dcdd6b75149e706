package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
)

// publisher writes what this node tells the others.
type publisher struct {
	*core
	kept *record.Self // as it is in the local store; of the goroutine that works
}

// batchSize is how many writes one commit to etcd has at most; its own limit is 128.
const batchSize = 100

// publish makes etcd's records of this node's endpoints those that there are.
func (m publisher) publish(ctx context.Context) error {
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
func (m publisher) ownEndpoints(ctx context.Context) (map[string]record.Endpoint, error) {
	list, err := m.ctrl.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	u := m.cfg.Host().Uplink
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]record.Endpoint{}
	for _, e := range list {
		if _, shared := m.rep.networks[e.Network]; !shared || e.Phase == cnm.Deleting {
			continue
		}
		p := record.Endpoint{ID: e.ID, Network: e.Network, Node: m.id, Name: e.Name, Aliases: e.Aliases, MAC: e.MAC,
			Addr4: u.Addr4, Addr6: u.Addr6, Also: alsoCalled(e), Serves: cnm.DNSPorts(e),
			Ingress: cnm.Ingresses(e), Engine: e.Engine}
		if !e.Created.IsZero() {
			p.Since = e.Created.Unix()
		}
		for _, a := range e.Addrs {
			p.Addrs = append(p.Addrs, a.Addr())
		}
		out[p.Key().ID] = p
	}
	return out, nil
}

// alsoCalled are an endpoint's names that its record has no other place for.
func alsoCalled(e cnm.Endpoint) []string {
	e.Name, e.Aliases = "", nil
	return cnm.DNSNames(e)
}

// publication is what leads from etcd's records to the wanted ones.
func (m publisher) publication(want map[string]record.Endpoint, lease int64) ([]etcdstore.LeasedWrite, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var writes []etcdstore.LeasedWrite
	for id, e := range want {
		b, err := record.Encode(e)
		if err != nil {
			return nil, err
		}
		have, ok := m.rep.endpoints[id]
		if ok {
			old, err := record.Encode(have.v)
			if err == nil && string(old) == string(b) && have.lease == lease {
				continue
			}
		}
		writes = append(writes, etcdstore.LeasedWrite{Write: cnm.Write{Key: e.Key(), Value: b,
			Revision: uint64(m.revision(e.Key(), have.mod))}, Lease: lease})
	}
	for id := range m.rep.mine {
		if m.lost {
			break // a network that etcd has lost comes back, and what is on it is still there
		}
		if _, wanted := want[id]; !wanted {
			writes = append(writes, etcdstore.LeasedWrite{
				Write: cnm.Write{Key: cnm.Key{Kind: record.KindEndpoint, ID: id},
					Revision: uint64(m.rep.endpoints[id].mod)}})
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
func (m publisher) writeNetworksAgain(ctx context.Context) error {
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
		m.lossSeen()
		err := m.networks.enlist(ctx, n)
		if errors.Is(err, cnm.ErrExists) {
			// Another one has its place, so it is given up. Its own trouble would go with it.
			m.trouble("place of "+n.ID, fmt.Errorf("network %s of this node has no place in the cluster, and goes "+
				"with its last endpoint: %w", n.Name, err))
			continue
		}
		if err == nil {
			m.cfg.Log.Warn("etcd has lost a network; wrote it again", "network", n.Name)
			err = errNotYet
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// register writes this node's own records.
func (m publisher) register(ctx context.Context) error {
	if sign, foreign := m.foreign(); foreign {
		forged, err := m.forged(ctx, sign.lease)
		if err == nil && !forged {
			err = m.refuse(sign)
		}
		if err != nil {
			return err
		}
	}
	m.mu.Lock()
	refused := m.refused
	m.mu.Unlock()
	if refused != nil {
		// The other one is away, and its containers may run on: only people know which of the two is to stay.
		return refused
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
	node.mod = m.revision(cnm.Key{Kind: record.KindNode, ID: m.id}, node.mod)
	now.mod = m.revision(cnm.Key{Kind: record.KindAlive, ID: m.id}, now.mod)
	m.mu.Unlock()
	// Both in one transaction: a node that joins is one thing for etcd to tell everybody.
	var writes []etcdstore.LeasedWrite
	if !present || node.lease != lease || !sameNode(node.v, want) {
		w, err := leased(lease, cnm.Key{Kind: record.KindNode, ID: m.id}, want, node.mod)
		if err != nil {
			return err
		}
		writes = append(writes, w)
	}
	sign := record.Alive{Instance: m.instance, Boot: m.cfg.Boot, Addr: m.address()}
	if !there || now.lease != alive || now.v != sign {
		w, err := leased(alive, cnm.Key{Kind: record.KindAlive, ID: m.id}, sign, now.mod)
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

func (m publisher) ownNode() record.Node {
	h := m.cfg.Host()
	n := record.Node{ID: m.id, Name: m.cfg.Name, Addr4: h.Uplink.Addr4, Addr6: h.Uplink.Addr6, MTU: h.Uplink.MTU,
		Version: m.cfg.Version, Boot: m.cfg.Boot, ByAddress: h.Fast}
	for _, d := range m.cfg.Drivers {
		if d.Scope() == cnm.Cluster {
			n.Drivers = append(n.Drivers, d.Name())
		}
	}
	return n
}

func sameNode(a, b record.Node) bool {
	x, errX := record.Encode(a)
	y, errY := record.Encode(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// foreign returns a sign of life of this node's that another host gives.
func (m publisher) foreign() (sign held[record.Alive], is bool) {
	addr := m.address()
	m.mu.Lock()
	defer m.mu.Unlock()
	sign, ok := m.rep.alive[m.id]
	// What no etcd lease keeps is no sign of life: nothing renews it.
	return sign, ok && sign.lease != 0 && sign.v.Instance != m.instance &&
		(sign.v.Boot != m.cfg.Boot || sign.v.Addr != addr)
}

// maxAlive is the longest etcd lease that a sign of life hangs on, unless a quarter of it is less than this node's own.
const maxAlive = time.Minute

// forged reports whether a sign of life hangs on a lease that no node has: those are short, and go unless a netd that
// runs renews them. One for hours would keep a node away that nobody else is.
func (m publisher) forged(ctx context.Context, lease int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, signTime)
	defer cancel()
	r, err := m.client.TimeToLive(ctx, clientv3.LeaseID(lease))
	if err != nil {
		return false, unavailable(fmt.Errorf("look at this node's sign of life: %w", err))
	}
	return r.TTL < 0 || time.Duration(r.GrantedTTL)*time.Second > max(maxAlive, 4*m.cfg.Times.Alive), nil
}

// signTime bounds a look at a lease.
const signTime = 5 * time.Second

// refuse has this node not be one that another host is, which a copied disk makes: two with one identity would take
// each other's addresses for their own.
func (m publisher) refuse(sign held[record.Alive]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused != nil {
		return m.refused
	}
	if time.Since(m.rep.seen[m.id]) < 2*m.cfg.Times.Alive {
		return errNotYet // it may be this host before a reboot
	}
	m.state.Twin = sign.v.Addr
	m.refused = &cnm.Error{
		Kind: cnm.ErrExists, Field: "node", Value: m.id,
		Reason: fmt.Sprintf("another host, %s, is a member with this node's identity", sign.v.Addr),
		Remedy: fmt.Sprintf("if one's disk is a copy of the other's, stop netd on the copy, remove %s/node-id and "+
			"start it again; where the copy is gone, start netd again here", m.cfg.Root),
	}
	return m.refused
}

// remember keeps what a later life must know.
func (m publisher) remember(ctx context.Context) error {
	m.mu.Lock()
	now := record.Self{Lease: m.lease.ID(), Expires: m.lease.Expires().Round(0), Cluster: m.self.Cluster,
		Revision: m.self.Revision, Guard: m.self.Guard}
	m.mu.Unlock()
	// Once a minute is enough for what only grows.
	if k := *m.kept; now.Lease == 0 || k.Lease == now.Lease && k.Cluster == now.Cluster && k.Guard == now.Guard &&
		now.Expires.Sub(k.Expires) < quiet {
		return nil
	}
	rec, err := m.cfg.Local.Get(ctx, record.SelfKey())
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return fmt.Errorf("keep the membership: %w", err)
	}
	b, err := record.Encode(now)
	if err != nil {
		return err
	}
	if err := m.cfg.Local.Commit(ctx, cnm.Write{Key: record.SelfKey(), Value: b, Revision: rec.Revision}); err != nil {
		return fmt.Errorf("keep the membership: %w", err)
	}
	*m.kept = now
	return nil
}
