package cluster

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
)

// peerNode is a node that peers are on, or one that endpoints of one network are on. The firewall lets the first
// send to the ports of tunnels, and the second gets what is for many on that network. So each has a record of its
// own: with one for all nodes, each further node would cost more than the last.
type peerNode struct {
	peers    int
	revision uint64 // of the record; 0: there is none
}

func nodeKey(id string) cnm.Key { return cnm.Key{Kind: cnm.KindNode, ID: id} }

// count adds n to the peers of a peer's node.
func (m peers) count(p cnm.Peer, n int) { add(m.nodes, p, n) }

func add(nodes map[string]peerNode, p cnm.Peer, n int) {
	for _, a := range []netip.Addr{p.Addr4, p.Addr6} {
		if !isNode(a) {
			continue
		}
		ids := []string{cnm.NodeID("", a)}
		if p.Endpoint {
			ids = append(ids, cnm.NodeID(p.Network, a))
		}
		for _, id := range ids {
			node := nodes[id]
			node.peers += n
			nodes[id] = node
		}
	}
}

// isNode reports whether another node can have an address. Another node or etcd has written it: with loopback, every
// user of this host could send to tunnels.
func isNode(a netip.Addr) bool {
	if a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240) { // RFC 1122 section 3.2.1.3, RFC 1112 section 4
		return false
	}
	return a.IsValid() && a.Zone() == "" && !a.Is4In6() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() &&
		!(a.Is6() && a.IsLinkLocalUnicast())
}

// nodeWrites are the records of nodes that come and go with changes of peers.
func (m peers) nodeWrites(changes []peerChange) []cnm.Write {
	changed := map[string]peerNode{}
	for _, c := range changes {
		add(changed, m.known[c.write.Key.ID].peer, -1)
		if c.write.Value != nil {
			add(changed, c.peer, 1)
		}
	}
	var writes []cnm.Write
	for id, c := range changed {
		node := m.nodes[id]
		node.peers += c.peers
		if w, ok := node.write(id); ok {
			writes = append(writes, w)
		}
	}
	return writes
}

// write is what makes the record agree with the count.
func (n peerNode) write(id string) (cnm.Write, bool) {
	w := cnm.Write{Key: nodeKey(id), Revision: n.revision}
	if n.peers > 0 {
		w.Value = []byte("{}")
	}
	return w, (n.peers > 0) != (n.revision != 0)
}

// committedNodes takes note of the revisions that records have got.
func (m peers) committedNodes(ctx context.Context, writes []cnm.Write) error {
	for _, w := range writes {
		if w.Value == nil {
			delete(m.nodes, w.Key.ID)
			continue
		}
		r, err := m.cfg.Local.Get(ctx, w.Key)
		if err != nil {
			return fmt.Errorf("read the node %s: %w", w.Key.ID, err)
		}
		node := m.nodes[w.Key.ID]
		node.revision = r.Revision
		m.nodes[w.Key.ID] = node
	}
	return nil
}

// rereadNodes takes the nodes' records from the local store, and makes them agree with the peers.
func (m peers) rereadNodes(ctx context.Context) error {
	records, err := m.cfg.Local.List(ctx, cnm.KindNode)
	if err != nil {
		return fmt.Errorf("read the nodes that peers are on: %w", err)
	}
	var writes []cnm.Write
	for _, r := range records {
		node := m.nodes[r.Key.ID]
		node.revision = r.Revision
		m.nodes[r.Key.ID] = node
	}
	for id, node := range m.nodes {
		if w, ok := node.write(id); ok {
			writes = append(writes, w)
		}
	}
	if len(writes) == 0 {
		return nil
	}
	if err := m.cfg.Local.Commit(ctx, writes...); err != nil {
		return fmt.Errorf("keep the nodes that peers are on: %w", err)
	}
	for _, w := range writes {
		m.cfg.Wake(cnm.NodeOwner(w.Key.ID))
	}
	return m.committedNodes(ctx, writes)
}
