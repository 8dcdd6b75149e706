package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/subnet"
)

// NodeView is a node as this one knows it.
type NodeView struct {
	record.Node
	Self      bool
	Alive     bool
	LastSeen  time.Time                 // zero: not since this netd started
	Subnets   map[string][]netip.Prefix // leased, by network name
	Blocks    map[string][]netip.Prefix // by network name
	Endpoints int
}

// LeaseView is a subnet lease as this node knows it.
type LeaseView struct {
	subnet.Lease
	Network cnm.Network
	Node    string // the holder's name, "" when it is no vethloom node
	Own     bool
	// when it is over unless it is renewed, as far as this node can tell; zero: a reservation, or a flanneld's
	Expires time.Time
	Problem string // why it is not used
}

// Nodes lists the nodes by name.
func (m *Member) Nodes() []NodeView {
	m.mu.Lock()
	defer m.mu.Unlock()
	views := map[string]*NodeView{}
	for id, rec := range m.rep.nodes {
		_, alive := m.rep.alive[id]
		v := &NodeView{Node: rec.v, Self: id == m.id, Alive: alive, LastSeen: m.rep.seen[id],
			Subnets: map[string][]netip.Prefix{}, Blocks: map[string][]netip.Prefix{}}
		if alive && m.state.Connected {
			v.LastSeen = time.Now()
		}
		views[id] = v
	}
	for network, dir := range m.dirs {
		name := m.rep.networks[network].v.Name
		for _, l := range dir.leases {
			if v := views[l.NodeID]; v != nil {
				v.Subnets[name] = append(v.Subnets[name], prefixes(l.Subnet, l.Subnet6)...)
			}
		}
	}
	for network, blocks := range m.rep.blocks {
		name := m.rep.networks[network].v.Name
		for p, b := range blocks {
			if v := views[b.v.Node]; v != nil {
				v.Blocks[name] = append(v.Blocks[name], p)
			}
		}
	}
	for _, e := range m.rep.endpoints {
		if v := views[e.v.Node]; v != nil {
			v.Endpoints++
		}
	}
	out := make([]NodeView, 0, len(views))
	for _, id := range slices.Sorted(maps.Keys(views)) {
		out = append(out, *views[id])
	}
	slices.SortStableFunc(out, func(a, b NodeView) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

func prefixes(all ...netip.Prefix) []netip.Prefix {
	return slices.DeleteFunc(all, func(p netip.Prefix) bool { return !p.IsValid() })
}

// Leases lists the leases of every network whose nodes have subnets of their own, those that are ignored too.
func (m *Member) Leases() []LeaseView {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []LeaseView
	for network, dir := range m.dirs {
		n := m.rep.networks[network].v
		for _, l := range dir.leases {
			v := LeaseView{Lease: *l, Network: n, Node: m.rep.nodes[l.NodeID].v.Name, Own: l.NodeID == m.id}
			switch _, alive := m.rep.alive[l.NodeID]; {
			case l.Reservation(), l.NodeID == "": // a flanneld renews once a day, and shows no other sign of life
			case v.Own && m.lease != nil:
				v.Expires = m.lease.Expires()
			case alive:
				v.Expires = time.Now().Add(m.cfg.Times.Lease)
			default:
				v.Expires = m.rep.seen[l.NodeID].Add(m.cfg.Times.Lease)
			}
			id := cnm.PeerID(network, l.Key)
			if err := cmp.Or(m.rep.bad[cnm.Key{Kind: "lease", ID: id}], m.rep.bad[peerKey(id)]); err != nil {
				v.Problem = err.Error()
			} else if !v.Own && m.isOwnAddress(l.PublicIP, l.PublicIPv6) {
				v.Problem = "its holder has this node's address"
			}
			out = append(out, v)
		}
		for _, i := range dir.ignored {
			l := subnet.Lease{Key: i.Key}
			if s, err := subnet.ParseKey(i.Key); err == nil {
				l.Subnet, l.Subnet6 = s.V4, s.V6
			}
			out = append(out, LeaseView{Lease: l, Network: n, Problem: i.Reason})
		}
	}
	slices.SortFunc(out, func(a, b LeaseView) int {
		return cmp.Or(cmp.Compare(a.Network.Name, b.Network.Name), a.Subnet.Addr().Compare(b.Subnet.Addr()),
			cmp.Compare(a.Key, b.Key))
	})
	return out
}

// Expires is when what this node holds is over unless it is renewed; zero: it holds nothing yet.
func (m *Member) Expires() time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lease == nil || m.lease.ID() == 0 {
		return m.self.Expires
	}
	return m.lease.Expires()
}

// Problems are what users should know, in words: Malformed, and the networks that this node has left.
func (m *Member) Problems() []string {
	m.mu.Lock()
	var out []string
	for _, name := range m.left {
		out = append(out, cnm.LeftError(name).Error())
	}
	m.mu.Unlock()
	slices.Sort(out)
	return append(out, m.Malformed()...)
}

// Malformed is what of the cluster's records this node cannot use, and what keeps it from being a member like others.
func (m *Member) Malformed() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, id := range slices.Sorted(maps.Keys(m.troubles)) {
		out = append(out, m.troubles[id].Error())
	}
	if err := m.notWritten; err != nil {
		text := "other nodes do not hear of what changes here, as it cannot be written to etcd: " + err.Error()
		if errors.Is(err, rpctypes.ErrNoSpace) || strings.Contains(err.Error(), rpctypes.ErrNoSpace.Error()) {
			text += " (NOSPACE): compact and defragment etcd or raise its --quota-backend-bytes, then run `etcdctl " +
				"alarm disarm`"
		}
		out = append(out, text)
	}
	return append(append(out, m.beyond()...), m.unusable()...)
}

// unusable are the records that this node cannot use, and those that cannot all be right. The caller holds mu.
func (m *Member) unusable() (out []string) {
	for key, err := range m.rep.bad {
		out = append(out, "ignoring the record "+string(key.Kind)+"/"+key.ID+" in etcd: "+err.Error())
	}
	for id, dir := range m.dirs {
		name := m.rep.networks[id].v.Name
		if dir.err != nil {
			out = append(out, "network "+name+": the config in "+dir.Path()+": "+dir.err.Error())
		}
		for _, i := range dir.ignored {
			out = append(out, "network "+name+": ignoring the lease "+i.Key+": "+i.Reason)
		}
	}
	out = append(out, m.doubles()...)
	for i := range out {
		out[i] = strings.ToValidUTF8(out[i], "\uFFFD")
	}
	slices.Sort(out)
	if more := len(out) - maxProblems; more > 0 {
		out = append(out[:maxProblems], fmt.Sprintf("and %d more", more))
	}
	return out
}

// maxProblems bounds what is told of at once: whoever writes to etcd can make as many as there are keys.
const maxProblems = 100

// doubles tells of nodes that have this one's name or address. The caller holds mu.
func (m *Member) doubles() (out []string) {
	u := m.cfg.Host().Uplink
	for id, n := range m.rep.nodes {
		_, alive := m.rep.alive[id]
		same := n.v.Addr4.IsValid() && n.v.Addr4 == u.Addr4 || n.v.Addr6.IsValid() && n.v.Addr6 == u.Addr6
		if id != m.id && alive && same {
			out = append(out, "node "+n.v.Name+" ("+id+") has this node's address on the underlay: give one of them "+
				"another (--node-ip)")
		}
		if id != m.id && alive && n.v.Name == m.cfg.Name {
			out = append(out, "node "+id+" has this node's name, "+n.v.Name+": give one of them another (--node-name)")
		}
	}
	return out
}
