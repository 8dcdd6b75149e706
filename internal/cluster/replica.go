package cluster

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
)

// follower keeps the replica of what etcd has.
type follower struct{ *core }

// replica is what etcd says, decoded.
type replica struct {
	networks  map[string]held[cnm.Network]
	nodes     map[string]held[record.Node]
	alive     map[string]held[record.Alive]
	endpoints map[string]held[record.Endpoint]               // by record ID
	peers     map[string]string                              // peer ID to the record ID of its endpoint
	rivals    map[string][]string                            // further record IDs that a peer ID stands for
	shadowed  map[string]map[string]bool                     // peers with addresses of this node's, by network
	addrs     map[netAddr]int                                // how many endpoints have an address
	mine      map[string]bool                                // record IDs of this node's endpoints
	blocks    map[string]map[netip.Prefix]held[record.Block] // by network
	shares    map[string]map[string]share                    // of the blocks those that count, by network and node
	shareIDs  map[string]shareAt                             // by peer ID
	refused   map[string][]cnm.Key                           // records of blocks that do not count, by network
	dirs      map[string]map[string]*etcd.Item               // keys of lease directories, by path and key
	bad       map[cnm.Key]error                              // what could not be decoded
	// its revision, to be written over by whose record it should be
	over map[cnm.Key]int64
	seen map[string]time.Time // when nodes were last alive
}

// netAddr is an address of a network.
type netAddr struct {
	network string
	addr    netip.Addr
}

// held is a value and where it stands in etcd.
type held[T any] struct {
	v      T
	create int64
	mod    int64
	lease  int64
}

func newReplica() replica {
	return replica{
		networks: map[string]held[cnm.Network]{}, nodes: map[string]held[record.Node]{},
		alive:     map[string]held[record.Alive]{},
		endpoints: map[string]held[record.Endpoint]{}, peers: map[string]string{}, addrs: map[netAddr]int{},
		rivals: map[string][]string{}, shadowed: map[string]map[string]bool{},
		mine:   map[string]bool{},
		blocks: map[string]map[netip.Prefix]held[record.Block]{}, dirs: map[string]map[string]*etcd.Item{},
		shares: map[string]map[string]share{}, shareIDs: map[string]shareAt{}, refused: map[string][]cnm.Key{},
		bad: map[cnm.Key]error{}, over: map[cnm.Key]int64{}, seen: map[string]time.Time{},
	}
}

// dirty is what has changed and was not copied yet.
type dirty struct {
	self     bool
	all      bool            // every network and every peer
	networks map[string]bool // by ID
	peers    map[string]bool // by peer ID
	read     map[string]bool // networks whose lease directories were read as a whole, by ID
	blocks   map[string]bool // networks whose shares may be others, by ID
}

func newDirty() dirty {
	d := noDirty()
	d.everything()
	return d
}

func noDirty() dirty {
	return dirty{networks: map[string]bool{}, peers: map[string]bool{}, read: map[string]bool{},
		blocks: map[string]bool{}}
}

func (d *dirty) everything() { d.self, d.all = true, true }

// take returns what is dirty and starts anew.
func (d *dirty) take() dirty {
	t := *d
	*d = noDirty()
	return t
}

// give puts back what could not be copied.
func (d *dirty) give(t dirty) {
	d.self, d.all = d.self || t.self, d.all || t.all
	for id := range t.networks {
		d.networks[id] = true
	}
	for id := range t.peers {
		d.peers[id] = true
	}
	for id := range t.read {
		d.read[id] = true
	}
	for id := range t.blocks {
		d.blocks[id] = true
	}
}

// follow keeps the replica.
func (m follower) follow(ctx context.Context) error {
	return etcd.Follow(ctx, m.client, m.cfg.Prefix+"/", m.update, etcd.OnState(m.connected), etcd.Audience(m.audience),
		etcd.Bound(m.cfg.Times.Relist, m.limit))
}

// audience is how many nodes follow etcd as this one does.
func (m follower) audience() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.rep.alive)
}

func (m follower) update(u etcd.Update) error {
	m.mu.Lock()
	wiped := u.Whole && m.hasLost(u) || m.wiped(u)
	if wiped || m.empty(u) {
		m.lose()
	}
	if u.Whole && !m.state.Synced {
		m.state.Synced = true
		m.dirty.everything()
	}
	m.self.Cluster, m.self.Revision, m.excess = u.Cluster, u.Revision, u.Excess
	leases := map[string][]etcd.Change{}
	for key, i := range m.ahead {
		if u.Whole || i.Mod <= u.Revision { // unless it is among the changes, it is not there any more
			delete(m.ahead, key)
			m.take(etcd.Change{Old: i, Revision: i.Mod}, leases)
		}
	}
	for _, c := range u.Changes {
		m.take(c, leases)
	}
	m.feed(u, leases)
	m.mu.Unlock()
	if wiped {
		m.lossSeen()
	}
	m.signal()
	return nil
}

// wrote takes over what this node has itself made of a key: the watch may be long in bringing it, and what is not
// known to be there would be written again.
func (m *core) wrote(i *etcd.Item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i.Mod <= m.self.Revision {
		return // it has come
	}
	leases := map[string][]etcd.Change{}
	c := etcd.Change{New: i, Revision: i.Mod}
	if i.Value == nil {
		c = etcd.Change{Old: i, Revision: i.Mod}
	} else {
		m.ahead[i.Key] = i
	}
	m.follower.take(c, leases)
	m.follower.feed(etcd.Update{Revision: m.self.Revision, Cluster: m.self.Cluster}, leases)
}

// hasLost reports whether this etcd is not what it was: another one, or an older state of it.
func (m follower) hasLost(u etcd.Update) bool {
	return m.self.Cluster != 0 && (m.self.Cluster != u.Cluster || u.Revision < m.self.Revision)
}

// take enters one change; those of lease directories it collects. The caller holds mu.
func (m follower) take(c etcd.Change, leases map[string][]etcd.Change) {
	item := c.New
	if item == nil {
		item = c.Old
	}
	kind, id, _ := strings.Cut(item.Key[len(m.cfg.Prefix)+1:], "/")
	if cnm.Kind(kind) == dirLeases && id != "" {
		m.takeLease(c, leases)
		return
	}
	key := cnm.Key{Kind: cnm.Kind(kind), ID: id} // of what is none of these kinds, nothing is taken
	if len(m.rep.bad)+len(m.rep.over) > 0 {
		delete(m.rep.bad, key)
		delete(m.rep.over, key)
	}
	var err error
	switch key.Kind {
	case cnm.KindNetwork:
		err = m.takeNetwork(key.ID, c)
	case record.KindNode:
		err = m.takeNode(key.ID, c)
	case record.KindAlive:
		err = enter(m.rep.alive, key.ID, c, record.CheckAlive)
		m.rep.seen[key.ID] = time.Now()
		m.forgetSeen(key.ID)
		m.dirty.self = m.dirty.self || key.ID == m.id
	case record.KindGuard:
		if key.ID == record.GuardID && c.New != nil {
			m.self.Guard = c.New.Create
		}
	case record.KindEndpoint:
		err = m.takeEndpoint(key.ID, c)
	case record.KindBlock:
		err = m.takeBlock(key.ID, c)
	}
	if err != nil && c.New != nil {
		m.rep.bad[key], m.rep.over[key] = err, c.New.Mod
		if len(m.rep.bad) <= maxProblems {
			m.cfg.Log.Warn("ignoring a record in etcd that makes no sense", "kind", key.Kind, "id", key.ID, "err", err)
		}
	}
}

// revision is what a record of this node is to be written over: mod, or garbage in its place. The caller holds mu.
func (m *core) revision(key cnm.Key, mod int64) int64 {
	if mod == 0 {
		return m.rep.over[key]
	}
	return mod
}

func enter[T any](to map[string]held[T], id string, c etcd.Change, sound func(string, T) error) error {
	delete(to, id)
	if c.New == nil {
		return nil
	}
	v, err := decode[T](c.New)
	if err == nil {
		err = sound(id, v)
	}
	if err == nil {
		to[id] = held[T]{v, c.New.Create, c.New.Mod, c.New.Lease}
	}
	return err
}

// decode reads a record that has come from etcd.
func decode[T any](i *etcd.Item) (T, error) {
	if i.Cut {
		var none T
		return none, errors.New("it is larger than a record of its kind may be")
	}
	return record.Decode[T](i.Value)
}

// takeNetwork keeps what was known of a network whose record is garbage: only a removal is one.
func (m follower) takeNetwork(id string, c etcd.Change) error {
	old, ok := m.rep.networks[id]
	err := enter(m.rep.networks, id, c, record.CheckNetwork)
	if err != nil && ok {
		m.rep.networks[id] = old
	}
	m.dirty.networks[id], m.dirty.blocks[id] = true, true
	// What is on a network may be there before the watch brings the network's record.
	m.dirty.self = m.dirty.self || !ok
	return err
}

func (m follower) takeNode(id string, c etcd.Change) error {
	// Ways to blocks depend on it; what else others have says itself where they are.
	before, had := m.rep.nodes[id]
	err := enter(m.rep.nodes, id, c, record.CheckNode)
	if now, has := m.rep.nodes[id]; had != has || before.v.Addr4 != now.v.Addr4 || before.v.Addr6 != now.v.Addr6 ||
		before.v.ByAddress != now.v.ByAddress {
		m.outdatedShares(id)
	}
	m.dirty.self = m.dirty.self || id == m.id
	m.forgetSeen(id)
	return err
}

// forgetSeen forgets when a node was last alive that is known no more. The caller holds mu.
func (m follower) forgetSeen(id string) {
	_, known := m.rep.nodes[id]
	if _, alive := m.rep.alive[id]; !alive && !known && id != m.id {
		delete(m.rep.seen, id)
	}
}

func (m follower) takeEndpoint(id string, c etcd.Change) error {
	if old, ok := m.rep.endpoints[id]; ok {
		pid := endpointPeerID(old.v)
		m.rep.delistPeer(pid, id)
		delete(m.rep.mine, id)
		m.rep.countAddrs(old.v, -1)
		m.dirty.peers[pid] = true
		m.dirty.self = m.dirty.self || old.v.Node == m.id
	}
	err := enter(m.rep.endpoints, id, c, record.CheckEndpoint)
	now, ok := m.rep.endpoints[id]
	if ok {
		pid := endpointPeerID(now.v)
		m.rep.enlistPeer(pid, id)
		m.rep.countAddrs(now.v, 1)
		m.dirty.peers[pid] = true
		if now.v.Node == m.id {
			m.rep.mine[id] = true
			m.dirty.self = true
		}
	}
	return err
}

// countAddrs notes by how many endpoints more, or fewer, each address is had.
func (r *replica) countAddrs(e record.Endpoint, by int) {
	for _, a := range e.Addrs {
		at := netAddr{e.Network, a}
		if r.addrs[at] += by; r.addrs[at] <= 0 {
			delete(r.addrs, at)
		}
	}
}

func (m follower) takeBlock(id string, c etcd.Change) error {
	network, p, err := record.ParseBlock(id)
	if err != nil {
		return err
	}
	m.dirty.blocks[network] = true
	// Of the blocks of others, this node asks etcd when it needs another one.
	ours := m.rep.blocks[network][p].v.Node == m.id
	delete(m.rep.blocks[network], p)
	var v record.Block
	if c.New != nil {
		if v, err = decode[record.Block](c.New); err == nil {
			err = record.CheckBlock(p, v)
		}
	}
	if ours || v.Node == m.id {
		m.dirty.networks[network] = true
		for peer := range m.rep.shadowed[network] {
			m.dirty.peers[peer] = true
		}
	}
	if c.New == nil || err != nil {
		return err
	}
	if m.rep.blocks[network] == nil {
		m.rep.blocks[network] = map[netip.Prefix]held[record.Block]{}
	}
	m.rep.blocks[network][p] = held[record.Block]{v, c.New.Create, c.New.Mod, c.New.Lease}
	return nil
}

// endpointPeerID is the ID of the peer record of another node's endpoint.
func endpointPeerID(e record.Endpoint) string { return cnm.PeerID(e.Network, cnm.Short(e.ID)) }

// networkOf is the short network ID of a peer.
func networkOf(peerID string) string {
	network, _, _ := strings.Cut(peerID, "/")
	return network
}
