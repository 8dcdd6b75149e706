package cluster

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
)

// surroundings are what the tunnels and routes to other nodes must not lead to.
type surroundings struct {
	own    map[netip.Addr]bool     // addresses of this host
	inside map[netip.Prefix]string // subnets of the cluster's networks that this node has, and their names
	at     time.Time               // of the look
}

func (s surroundings) same(t surroundings) bool {
	return maps.Equal(s.own, t.own) && maps.Equal(s.inside, t.inside)
}

// lookAround renews what is known of the surroundings, and reports whether they have changed.
func (m peers) lookAround(ctx context.Context) (changed bool, err error) {
	now := surroundings{own: map[netip.Addr]bool{}, inside: map[netip.Prefix]string{}, at: time.Now()}
	if m.cfg.Needs != nil {
		needs, err := m.cfg.Needs(ctx)
		if err != nil {
			return false, fmt.Errorf("look at what the host uses: %w", err)
		}
		for _, a := range needs.Own {
			now.own[a] = true
		}
	}
	networks, err := m.ctrl.Networks(ctx)
	if err != nil {
		return false, err
	}
	for _, n := range networks {
		if n.Cluster == nil || n.Left() || n.Gone() || n.Phase == cnm.Deleting {
			continue // has no tunnel
		}
		for _, s := range subnetsOf(n) {
			now.inside[s] = n.Name
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changed = !m.around.same(now)
	m.around = now
	return changed, nil
}

// astray is why packets for another node must not be sent to an address that its record gives: another node or etcd has
// written it. One with this node's own address is no peer at all. The caller holds mu.
func (m *core) astray(addrs ...netip.Addr) error {
	for _, a := range addrs {
		if !a.IsValid() {
			continue
		}
		if !isNode(a) {
			return fmt.Errorf("no node can have the address %s", a)
		}
		if m.around.own[a] {
			return fmt.Errorf("its node's address %s is one of this host's", a)
		}
		for s, name := range m.around.inside {
			if s.Contains(a) {
				return fmt.Errorf("its node's address %s is inside network %.64s (%s): packets would go into the "+
					"tunnel that carries them", a, name, s)
			}
		}
	}
	return nil
}

// ours is why an endpoint of another node cannot have an address that this node gives out. The caller holds mu.
func (m *core) ours(e record.Endpoint) error {
	if h, ok := m.held[e.Network]; ok {
		for _, a := range e.Addrs {
			if h.Subnet.Contains(a) || h.Subnet6.Contains(a) {
				return fmt.Errorf("its address %s is of the subnet that this node has", a)
			}
		}
	}
	for p, b := range m.rep.blocks[e.Network] {
		if b.v.Node != m.id {
			continue
		}
		for _, a := range e.Addrs {
			if p.Contains(a) {
				return fmt.Errorf("its address %s is of the block %s, which this node gives out", a, p)
			}
		}
	}
	return nil
}

// peerKey is by which it is told why a peer is refused.
func peerKey(id string) cnm.Key { return cnm.Key{Kind: cnm.KindPeer, ID: id} }

// enlistPeer has a record be that of a peer. IDs of peers are short: of two records that have one, the older counts,
// and the other when that is gone. The caller holds mu.
func (r *replica) enlistPeer(pid, id string) {
	first, taken := r.peers[pid]
	switch {
	case !taken:
		r.peers[pid] = id
	case r.endpoints[first].create <= r.endpoints[id].create:
		r.rivals[pid] = append(r.rivals[pid], id)
	default:
		r.peers[pid] = id
		r.rivals[pid] = append(r.rivals[pid], first)
	}
}

// delistPeer undoes enlistPeer.
func (r *replica) delistPeer(pid, id string) {
	rest := r.rivals[pid]
	delete(r.rivals, pid)
	if r.peers[pid] == id {
		delete(r.peers, pid)
	}
	for _, other := range rest {
		if other != id {
			r.enlistPeer(pid, other)
		}
	}
}
