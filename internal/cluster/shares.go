package cluster

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
)

// share is what another node has of a network whose subnets nodes share: its blocks. Addresses of them lead to the node
// when it says so, whoever has them there.
type share struct {
	prefixes     []netip.Prefix // in their order
	addr4, addr6 netip.Addr     // of the node
	fast         bool
}

func (s share) same(t share) bool {
	return slices.Equal(s.prefixes, t.prefixes) && s.addr4 == t.addr4 && s.addr6 == t.addr6 && s.fast == t.fast
}

// shareAt is whose share of which network a peer is.
type shareAt struct{ network, node string }

func (a shareAt) peerID() string { return cnm.PeerID(a.network, "blocks-"+a.node) }

// peer is the share as a peer.
func (s share) peer(a shareAt) cnm.Peer {
	return cnm.Peer{ID: a.peerID(), Network: a.network, Node: a.node, Blocks: true, Prefixes: s.prefixes,
		Addr4: s.addr4, Addr6: s.addr6, Fast: s.fast}
}

// covers reports whether the share leads to an endpoint of its node.
func (s share) covers(e record.Endpoint) bool {
	if !s.fast || s.addr4 != e.Addr4 || s.addr6 != e.Addr6 {
		return false
	}
	return !slices.ContainsFunc(e.Addrs, func(a netip.Addr) bool {
		return !slices.ContainsFunc(s.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
	})
}

// outdatedShares notes that the shares of the networks that a node has blocks of may be others. The caller holds mu.
func (m *core) outdatedShares(node string) {
	for network, blocks := range m.rep.blocks {
		for _, b := range blocks {
			if b.v.Node == node {
				m.dirty.blocks[network] = true
				break
			}
		}
	}
}

// syncShares renews the shares of the networks whose blocks or nodes have changed, and adds the IDs of the peers that
// are others by that: shares, and endpoints of their nodes.
func (m peers) syncShares(d dirty) {
	m.mu.Lock()
	defer m.mu.Unlock()
	networks := d.blocks
	if d.all {
		for id := range m.rep.blocks {
			networks[id] = true
		}
		for id := range m.rep.shares {
			networks[id] = true
		}
	}
	changed := map[shareAt]bool{}
	for id := range networks {
		before, now := m.rep.shares[id], m.admitShares(id)
		for node, s := range now {
			changed[shareAt{id, node}] = !s.same(before[node])
		}
		for node := range before {
			if _, still := now[node]; !still {
				changed[shareAt{id, node}] = true
			}
		}
		if delete(m.rep.shares, id); len(now) > 0 {
			m.rep.shares[id] = now
		}
	}
	affected := false
	for at, yes := range changed {
		if !yes {
			continue
		}
		affected = true
		d.peers[at.peerID()] = true
		if _, there := m.rep.shares[at.network][at.node]; there {
			m.rep.shareIDs[at.peerID()] = at
		} else {
			delete(m.rep.shareIDs, at.peerID())
		}
	}
	if !affected {
		return
	}
	for id, rid := range m.rep.peers {
		if e := m.rep.endpoints[rid].v; changed[shareAt{e.Network, e.Node}] {
			d.peers[id] = true
		}
	}
}

// ownedBlock is a block and whose it is.
type ownedBlock struct {
	held[record.Block]
	prefix netip.Prefix
}

// admitShares are the shares of other nodes of a network. A block that cannot be its node's is refused: of two that
// overlap this node's own counts, or the older one. The caller holds mu.
func (m peers) admitShares(network string) map[string]share {
	for _, key := range m.rep.refused[network] {
		delete(m.rep.bad, key)
	}
	delete(m.rep.refused, network)
	n, ok := m.rep.networks[network]
	if d, known := m.drivers[n.v.Driver]; !ok || !known || d.Capabilities().Leases {
		return nil
	}
	var all []ownedBlock
	for p, b := range m.rep.blocks[network] {
		all = append(all, ownedBlock{b, p})
	}
	slices.SortFunc(all, func(a, b ownedBlock) int {
		return cmp.Or(cmp.Compare(rank(a.v.Node != m.id), rank(b.v.Node != m.id)), cmp.Compare(a.create, b.create),
			a.prefix.Compare(b.prefix))
	})
	out, taken := map[string]share{}, newTakenBlocks(n.v)
	for _, b := range all {
		err := taken.take(b, m.id)
		node, known := m.rep.nodes[b.v.Node]
		switch {
		case b.v.Node == m.id || b.prefix.IsSingleIP(): // that leads to its endpoint alone
		case err != nil:
			key := record.BlockKey(network, b.prefix)
			m.rep.bad[key] = fmt.Errorf("%w: remove the record that is wrong (etcdctl del %s/%s/%s)", err,
				m.cfg.Prefix, key.Kind, key.ID)
			m.rep.refused[network] = append(m.rep.refused[network], key)
		case known && isNodeID(b.v.Node):
			s := out[b.v.Node]
			s.prefixes = append(s.prefixes, b.prefix)
			s.addr4, s.addr6, s.fast = node.v.Addr4, node.v.Addr6, node.v.ByAddress
			out[b.v.Node] = s
		}
	}
	for _, s := range out {
		slices.SortFunc(s.prefixes, netip.Prefix.Compare)
	}
	return out
}

func rank(last bool) int {
	if last {
		return 1
	}
	return 0
}

// isNodeID reports whether an ID is one that [identity] makes: it becomes part of a peer's.
func isNodeID(id string) bool {
	raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
	return err == nil && len(raw) == 16 && len(id) == 36
}

// takenBlocks are blocks of a network that do not overlap.
type takenBlocks struct {
	subnets []netip.Prefix
	blocks  map[netip.Prefix]string // their nodes
	around  map[netip.Prefix]netip.Prefix
}

func newTakenBlocks(n cnm.Network) takenBlocks {
	return takenBlocks{subnets: subnetsOf(n), blocks: map[netip.Prefix]string{},
		around: map[netip.Prefix]netip.Prefix{}}
}

// take adds a block, or says why it can be nobody's. Blocks are of few lengths, so what is around one is few prefixes.
func (t takenBlocks) take(b ownedBlock, self string) error {
	i := slices.IndexFunc(t.subnets, func(s netip.Prefix) bool { return s.Contains(b.prefix.Addr()) })
	if i < 0 {
		return fmt.Errorf("it is in no subnet of the network")
	}
	largest := blockBits(t.subnets[i])
	if b.prefix.Bits() < largest {
		return fmt.Errorf("it is larger than a block of %s, a /%d", t.subnets[i], largest)
	}
	var around []netip.Prefix
	for bits := largest; bits <= b.prefix.Bits(); bits++ {
		around = append(around, netip.PrefixFrom(b.prefix.Addr(), bits).Masked())
	}
	other, taken := t.around[b.prefix]
	for _, p := range around {
		if _, is := t.blocks[p]; is {
			other, taken = p, true
		}
	}
	switch {
	case taken && t.blocks[other] == self:
		return fmt.Errorf("it overlaps the block %s, which this node gives out", other)
	case taken && t.blocks[other] != b.v.Node:
		return fmt.Errorf("it overlaps the older block %s of node %q", other, t.blocks[other])
	case taken:
		return fmt.Errorf("it overlaps the block %s of the same node", other)
	}
	t.blocks[b.prefix] = b.v.Node
	for _, p := range around {
		t.around[p] = b.prefix
	}
	return nil
}
