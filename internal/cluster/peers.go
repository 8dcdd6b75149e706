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
	"github.com/vethloom/vethloom/plan"
)

// peers copies what other nodes have of cluster networks into the local store. Its maps belong to the goroutine
// that works.
type peers struct {
	*core
	known     map[string]peerState // of the local store, by ID
	vanishing map[string]bool      // those that etcd has no more, and that stay for a grace
	nodes     map[string]peerNode  // by [cnm.NodeID]
}

// localBatch is how many peers one commit to the local store has at most.
const localBatch = 500

// peerState is a peer in the local store.
type peerState struct {
	peer     cnm.Peer
	revision uint64
	missing  time.Time // since when etcd does not have it, while it stays for a grace
}

// syncPeers makes the local store's peers those of etcd and wakes their scopes. It returns when the
// next grace is over.
func (m peers) syncPeers(ctx context.Context, d dirty) (time.Duration, error) {
	ids := d.peers
	if d.all || len(d.networks) > 0 || time.Since(m.around.at) > quiet {
		changed, err := m.lookAround(ctx)
		if err != nil {
			return quiet, err
		}
		d.all = d.all || changed
	}
	m.syncShares(d)
	if d.all {
		m.allPeers(ids)
	}
	if len(d.read) > 0 {
		for id, p := range m.known {
			if d.read[p.peer.Network] {
				ids[id] = true
			}
		}
	}
	next := time.Hour
	var changes []peerChange
	for id := range m.vanishing {
		ids[id] = true
	}
	now := time.Now()
	for id := range ids {
		have, kept := m.known[id]
		want, wanted := m.wantPeer(id)
		switch {
		case wanted && kept && samePeer(have.peer, want):
			if m.vanishing[id] {
				have.missing = time.Time{}
				m.known[id] = have
				delete(m.vanishing, id)
			}
			continue
		case !wanted && (!kept || m.unread(have.peer)):
			continue
		case !wanted:
			if left := m.grace(have, now); left > 0 {
				if have.missing.IsZero() {
					have.missing = now
					m.known[id] = have
					m.vanishing[id] = true
				}
				next = min(next, left)
				continue
			}
		}
		c := peerChange{peer: want, write: cnm.Write{Key: cnm.Key{Kind: cnm.KindPeer, ID: id}, Revision: have.revision}}
		if wanted {
			b, err := record.Encode(want)
			if err != nil {
				return next, err
			}
			c.write.Value = b
		}
		changes = append(changes, c)
	}
	return next, m.commitPeers(ctx, changes)
}

// peerChange is a write of a peer's record, and the peer that it says.
type peerChange struct {
	peer  cnm.Peer
	write cnm.Write
}

// commitPeers writes the records and has the kernel follow, once for all of them.
func (m peers) commitPeers(ctx context.Context, changes []peerChange) error {
	scopes := make([]plan.Owner, 0, len(changes))
	defer func() { m.cfg.Wake(scopes...) }()
	for batch := range slices.Chunk(changes, localBatch) {
		writes := make([]cnm.Write, 0, len(batch))
		for _, c := range batch {
			writes = append(writes, c.write)
		}
		nodes := m.nodeWrites(batch)
		writes = append(writes, nodes...)
		if err := m.cfg.Local.Commit(ctx, writes...); err != nil {
			return fmt.Errorf("keep the peers: %w", errors.Join(err, m.rereadPeers(ctx)))
		}
		for _, c := range batch {
			had := m.known[c.write.Key.ID].peer.Ingress
			if err := m.committed(ctx, c); err != nil {
				return err
			}
			both := cnm.Peer{ID: c.write.Key.ID, Ingress: slices.Concat(had, c.peer.Ingress)}
			scopes = append(scopes, both.Owners()...)
		}
		if err := m.committedNodes(ctx, nodes); err != nil {
			return errors.Join(err, m.rereadPeers(ctx))
		}
		for _, w := range nodes {
			scopes = append(scopes, cnm.NodeOwner(w.Key.ID))
		}
	}
	return nil
}

// committed takes note of a change and of the revision that its record has got.
func (m peers) committed(ctx context.Context, c peerChange) error {
	id := c.write.Key.ID
	delete(m.vanishing, id)
	m.count(m.known[id].peer, -1)
	if c.write.Value == nil {
		delete(m.known, id)
		return nil
	}
	r, err := m.cfg.Local.Get(ctx, c.write.Key)
	if err != nil {
		return fmt.Errorf("read the peer %s: %w", id, errors.Join(err, m.rereadPeers(ctx)))
	}
	m.known[id] = peerState{peer: c.peer, revision: r.Revision}
	m.count(c.peer, 1)
	return nil
}

// rereadPeers takes the peers from the local store.
func (m peers) rereadPeers(ctx context.Context) error {
	records, err := m.cfg.Local.List(ctx, cnm.KindPeer)
	if err != nil {
		return fmt.Errorf("read the peers: %w", err)
	}
	clear(m.known)
	clear(m.vanishing)
	clear(m.nodes)
	for _, r := range records {
		p, err := record.Decode[cnm.Peer](r.Value)
		if err != nil {
			return fmt.Errorf("decode the peer %s: %w", r.Key.ID, err)
		}
		m.known[r.Key.ID] = peerState{peer: p, revision: r.Revision}
		m.count(p, 1)
	}
	return m.rereadNodes(ctx)
}

// allPeers adds the ID of every peer that there is or should be.
func (m peers) allPeers(ids map[string]bool) {
	for id := range m.known {
		ids[id] = true
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.rep.peers {
		ids[id] = true
	}
	for id := range m.rep.shareIDs {
		ids[id] = true
	}
	for network, dir := range m.dirs {
		for key := range dir.leases {
			ids[cnm.PeerID(network, key)] = true
		}
	}
}

// wantPeer is what etcd says a peer is.
func (m peers) wantPeer(id string) (cnm.Peer, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rep.bad, peerKey(id))
	p, ok := cnm.Peer{}, false
	if rid, known := m.rep.peers[id]; known {
		p, ok = m.endpointPeer(id, m.rep.endpoints[rid].v)
	} else if at, known := m.rep.shareIDs[id]; known {
		p = m.rep.shares[at.network][at.node].peer(at)
		ok = !m.isOwnAddress(p.Addr4, p.Addr6)
	} else {
		p, ok = m.follower.leasePeer(id)
	}
	if !ok || m.hasLeft(p.Network) {
		return cnm.Peer{}, false
	}
	if err := m.astray(p.Addr4, p.Addr6); err != nil {
		m.rep.bad[peerKey(id)] = err
		return cnm.Peer{}, false
	}
	return p, true
}

// endpointPeer is another node's endpoint. Where every node has a subnet it is known for its name alone.
func (m peers) endpointPeer(id string, e record.Endpoint) (cnm.Peer, bool) {
	n, ok := m.rep.networks[e.Network]
	if !ok || e.Node == m.id || m.isOwnAddress(e.Addr4, e.Addr6) {
		return cnm.Peer{}, false
	}
	if _, ok := m.drivers[n.v.Driver]; !ok {
		return cnm.Peer{}, false
	}
	shadowed := m.rep.shadowed[e.Network]
	delete(shadowed, id)
	if err := m.ours(e); err != nil {
		if shadowed == nil {
			shadowed = map[string]bool{}
			m.rep.shadowed[e.Network] = shadowed
		}
		shadowed[id] = true
		m.rep.bad[peerKey(id)] = err
		return cnm.Peer{}, false
	}
	p := cnm.Peer{ID: id, Network: e.Network, Node: e.Node, Endpoint: true, Addr4: e.Addr4, Addr6: e.Addr6, MAC: e.MAC,
		Names: e.Names(), Ports: e.Serves, Ingress: e.Ingress, Engine: cnm.KnownEngine(e.Engine), Since: e.Since,
		InBlock: m.rep.shares[e.Network][e.Node].covers(e)}
	for _, a := range e.Addrs {
		p.Prefixes = append(p.Prefixes, netip.PrefixFrom(a, a.BitLen()))
	}
	return p, len(p.Prefixes) > 0
}

// isOwnAddress reports whether another node's record has this node's address. It would lead packets in a circle.
func (m *core) isOwnAddress(a4, a6 netip.Addr) bool {
	u := m.cfg.Host().Uplink
	return a4.IsValid() && a4 == u.Addr4 || a6.IsValid() && a6 == u.Addr6
}

func samePeer(a, b cnm.Peer) bool {
	return a.Network == b.Network && a.Node == b.Node && a.Endpoint == b.Endpoint &&
		a.Blocks == b.Blocks && a.Fast == b.Fast && a.InBlock == b.InBlock && slices.Equal(a.Prefixes, b.Prefixes) &&
		a.Addr4 == b.Addr4 && a.Addr6 == b.Addr6 && a.MAC == b.MAC && a.MAC6 == b.MAC6 && a.Backend == b.Backend &&
		slices.Equal(a.Names, b.Names) && slices.Equal(a.Ports, b.Ports) &&
		slices.Equal(a.Ingress, b.Ingress) && a.Engine == b.Engine && a.Since == b.Since
}

// grace is how long a peer that etcd does not have any more stays: none when its node has taken it back, its
// network is gone, or somebody else has one of its prefixes.
func (m peers) grace(have peerState, now time.Time) time.Duration {
	p := have.peer
	m.mu.Lock()
	defer m.mu.Unlock()
	_, nodeThere := m.rep.nodes[p.Node]
	_, networkThere := m.rep.networks[p.Network]
	lost := m.lost || now.Sub(m.lostAt) < m.cfg.Times.Grace
	if !lost && (nodeThere || !networkThere || p.Node == "") && have.missing.IsZero() {
		return 0
	}
	if m.lost && !networkThere {
		return m.cfg.Times.Grace // nothing can be told before the network is back
	}
	if m.taken(p) {
		return 0
	}
	if have.missing.IsZero() {
		return m.cfg.Times.Grace
	}
	return m.cfg.Times.Grace - now.Sub(have.missing)
}

// unread reports whether what holds a peer has not been read yet, so that its absence says nothing. Once it
// has, all of its leases are dirty.
func (m peers) unread(p cnm.Peer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := m.rep.networks[p.Network]; !there || p.Endpoint || p.Blocks {
		return false
	}
	dir := m.dirs[p.Network]
	return dir == nil || !dir.synced
}

// taken reports whether this node or another peer has a prefix of p.
func (m peers) taken(p cnm.Peer) bool {
	overlaps := func(q netip.Prefix) bool {
		return q.IsValid() && slices.ContainsFunc(p.Prefixes, q.Overlaps)
	}
	if h, ok := m.held[p.Network]; ok && (overlaps(h.Subnet) || overlaps(h.Subnet6)) {
		return true
	}
	if p.Blocks {
		for q, b := range m.rep.blocks[p.Network] {
			if b.v.Node != p.Node && overlaps(q) {
				return true
			}
		}
		return false
	}
	if dir := m.dirs[p.Network]; dir != nil && !p.Endpoint && slices.ContainsFunc(p.Prefixes, dir.overlaps) {
		return true
	}
	if !p.Endpoint {
		return false
	}
	return slices.ContainsFunc(p.Prefixes,
		func(q netip.Prefix) bool { return m.rep.addrs[netAddr{p.Network, q.Addr()}] > 0 })
}
