package cluster

import (
	"context"
	"net/netip"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/subnet"
)

// directory is a lease directory that is followed.
type directory struct {
	*subnet.Directory
	view    *subnet.View       // of a directory that is fed; nil when it is followed by itself
	cancel  context.CancelFunc // of one that is followed by itself
	synced  bool
	leases  map[string]*subnet.Lease // by key
	had     map[netip.Prefix]int     // by how many of the leases
	lengths map[int]int              // of those prefixes, and how many have each
	config  subnet.Config
	err     error // of the config
	ignored []subnet.Ignored
}

func (d *directory) put(l subnet.Lease) {
	d.drop(l.Key)
	d.leases[l.Key] = &l
	d.count(l, 1)
}

func (d *directory) drop(key string) {
	if l, ok := d.leases[key]; ok {
		delete(d.leases, key)
		d.count(*l, -1)
	}
}

func (d *directory) count(l subnet.Lease, by int) {
	for _, p := range prefixes(l.Subnet, l.Subnet6) {
		if d.had[p] += by; d.had[p] == 0 {
			delete(d.had, p)
		}
		if d.lengths[p.Bits()] += by; d.lengths[p.Bits()] == 0 {
			delete(d.lengths, p.Bits())
		}
	}
}

// overlaps reports whether a lease has a part of p. Leases are of one length, mostly: then it takes one look.
func (d *directory) overlaps(p netip.Prefix) bool {
	for bits := range d.lengths {
		if bits <= p.Bits() && d.had[netip.PrefixFrom(p.Addr(), bits).Masked()] > 0 {
			return true
		}
		if bits <= p.Bits() || bits > p.Addr().BitLen() {
			continue
		}
		for q := range d.had {
			if q.Overlaps(p) {
				return true
			}
		}
	}
	return false
}

// newDirectory is one of which nothing is known yet.
func newDirectory(d *subnet.Directory) *directory {
	return &directory{Directory: d, leases: map[string]*subnet.Lease{}, had: map[netip.Prefix]int{},
		lengths: map[int]int{}}
}

// dirLeases is where the directories are that this fabric's networks make, below the prefix of all its keys.
const dirLeases cnm.Kind = "flannel"

// leaseDir is the path of the directory that a key of kind dirLeases belongs to, "" for none.
func (m follower) leaseDir(key string) string {
	start := len(m.cfg.Prefix) + len("/") + len(dirLeases) + len("/")
	i := strings.IndexByte(key[start:], '/')
	if i <= 0 {
		return ""
	}
	return key[:start+i]
}

// feeds reports whether the keys of a directory are among those that the member follows anyway. One that is flannel's
// own is elsewhere.
func (m follower) feeds(path string) bool {
	rest, ok := strings.CutPrefix(path, m.cfg.Prefix+"/"+string(dirLeases)+"/")
	return ok && !strings.Contains(rest, "/")
}

// takeLease keeps a key of a directory, whether or not a network goes by it yet, for the step that the update is:
// what is delivered once serves the records and the leases. The caller holds mu.
func (m follower) takeLease(c etcd.Change, step map[string][]etcd.Change) {
	path := m.leaseDir(c.Key())
	if path == "" {
		return
	}
	keys := m.rep.dirs[path]
	switch {
	case c.New == nil:
		if delete(keys, c.Old.Key); len(keys) == 0 {
			delete(m.rep.dirs, path)
		}
	case keys == nil:
		m.rep.dirs[path] = map[string]*etcd.Item{c.New.Key: c.New}
	default:
		keys[c.New.Key] = c.New
	}
	step[path] = append(step[path], c)
}

// feed hands the directories what became of their keys. The caller holds mu.
func (m follower) feed(u etcd.Update, step map[string][]etcd.Change) {
	for id, dir := range m.dirs {
		changes := step[dir.Path()]
		if dir.view == nil || len(changes) == 0 && !u.Whole {
			continue
		}
		m.apply(id, dir, etcd.Update{Revision: u.Revision, Cluster: u.Cluster, Whole: u.Whole, Changes: changes})
	}
}

func (m follower) apply(id string, dir *directory, e etcd.Update) {
	if u, ok := dir.view.Apply(e); ok {
		m.takeLeases(id, dir, u)
	}
}

// lookInto returns the followed directory of a network, and starts to follow it.
func (m follower) lookInto(g *errgroup.Group, n cnm.Network) (*directory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if dir := m.dirs[n.ID]; dir != nil {
		return dir, nil
	}
	open, err := subnet.Open(m.client, n.Cluster.Leases)
	if err != nil {
		return nil, err
	}
	dir := newDirectory(open)
	m.dirs[n.ID] = dir
	if m.feeds(open.Path()) {
		dir.view = open.View()
		e := etcd.Update{Revision: m.self.Revision, Cluster: m.self.Cluster, Whole: true}
		for _, i := range m.rep.dirs[open.Path()] {
			e.Changes = append(e.Changes, etcd.Change{New: i, Revision: i.Mod})
		}
		m.apply(n.ID, dir, e)
		m.signal()
		return dir, nil
	}
	ctx, cancel := context.WithCancel(m.life)
	dir.cancel = cancel
	g.Go(func() error {
		err := open.Follow(ctx, func(u subnet.Update) error { m.updateLeases(n.ID, dir, u); return nil },
			etcd.Bound(m.cfg.Times.Relist, leaseLimit))
		if ctx.Err() != nil {
			return nil
		}
		return err
	})
	return dir, nil
}

func (m follower) unfollow(id string) {
	m.mu.Lock()
	dir := m.dirs[id]
	delete(m.dirs, id)
	if dir != nil {
		for key := range dir.leases {
			m.dirty.peers[cnm.PeerID(id, key)] = true
		}
	}
	m.mu.Unlock()
	if dir != nil && dir.cancel != nil {
		dir.cancel()
	}
}

// updateLeases takes over what became of a directory that is followed by itself.
func (m follower) updateLeases(id string, dir *directory, u subnet.Update) {
	m.mu.Lock()
	if m.dirs[id] == dir {
		m.takeLeases(id, dir, u)
	}
	m.mu.Unlock()
	m.signal()
}

// takeLeases takes over what became of a directory. The caller holds mu.
func (m follower) takeLeases(id string, dir *directory, u subnet.Update) {
	if u.Whole {
		for key := range dir.leases {
			m.dirty.peers[cnm.PeerID(id, key)] = true
			dir.drop(key)
		}
		m.dirty.read[id] = true // what is missing now, this node may know from before
	}
	for _, l := range u.Removed {
		dir.drop(l.Key)
		m.dirty.peers[cnm.PeerID(id, l.Key)] = true
	}
	own := m.held[id].Key
	look := !dir.synced || u.Whole || u.ConfigChanged
	for _, l := range u.Removed {
		look = look || l.Key == own
	}
	for _, l := range u.Changed {
		dir.put(l)
		m.dirty.peers[cnm.PeerID(id, l.Key)] = true
		look = look || l.Key == own || own == ""
	}
	dir.synced, dir.ignored, dir.config, dir.err = true, u.Ignored, u.Config, u.ConfigErr
	if look {
		m.dirty.networks[id] = true
	}
}

// leasePeer is the peer that holds a lease. The caller holds mu.
func (m follower) leasePeer(id string) (cnm.Peer, bool) {
	delete(m.rep.bad, cnm.Key{Kind: "lease", ID: id})
	for network, dir := range m.dirs {
		if cnm.Short(network) != networkOf(id) {
			continue
		}
		l, ok := dir.leases[id[len(networkOf(id))+1:]]
		rec, known := m.rep.networks[network]
		if !ok {
			continue // of another network whose ID begins as this one's
		}
		if !known || l.NodeID == m.id || l.Key == m.held[network].Key {
			return cnm.Peer{}, false
		}
		d, ok := m.drivers[rec.v.Driver].(Driver)
		if !ok || m.isOwnAddress(l.PublicIP, l.PublicIPv6) {
			return cnm.Peer{}, false
		}
		p, err := d.Peer(rec.v, *l)
		if err != nil {
			m.rep.bad[cnm.Key{Kind: "lease", ID: id}] = err
			return cnm.Peer{}, false
		}
		p.ID, p.Network, p.Node = id, network, l.NodeID
		return p, true
	}
	return cnm.Peer{}, false
}
