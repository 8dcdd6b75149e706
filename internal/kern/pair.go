package kern

import (
	"cmp"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
	"golang.org/x/sys/unix"
)

// netnsaNSID and netnsaFD are attributes of linux/net_namespace.h.
const (
	netnsaNSID = 1
	netnsaFD   = 3
)

// pairing joins the two ends of every veth pair of ours into one link.
type pairing struct {
	k     *Kernel
	views []*view
	taken map[*link]bool
	owned map[*link]bool
	going map[*link]bool              // about to follow a namespace we let go of: not shown, nor what is on it
	files func() map[plan.NetNS]int32 // namespace IDs as the fabric's namespace has them
}

// links are all links of ours, and every namespace's loopback.
func (p *pairing) links() []plan.Link {
	p.owned, p.going = map[*link]bool{}, map[*link]bool{}
	var out []plan.Link
	var unmarked, seconds []*link
	for _, v := range p.views {
		for _, index := range slices.Sorted(maps.Keys(v.links)) {
			l := v.links[index]
			_, peer, ok := l.owner()
			switch {
			case l.kind == plan.Loopback && l.name == "lo":
				out = append(out, plan.Link{NS: v.ns, Name: l.name, Kind: l.kind, MTU: l.mtu, Up: l.up})
			case ok && peer:
				p.owned[l] = true
				seconds = append(seconds, l)
			case ok && l.alias == "":
				p.owned[l] = true
				unmarked = append(unmarked, l)
			case ok && v.ns == "" && p.k.shadow.isGoing(l.name):
				p.going[l] = true
			case ok:
				p.owned[l] = true
				out = append(out, p.first(v.links, l))
			}
		}
	}
	for _, l := range unmarked {
		if !p.taken[l] {
			out = append(out, p.first(p.view(l.ns).links, l))
		}
	}
	for _, l := range seconds {
		if !p.taken[l] {
			out = append(out, p.orphan(l))
		}
	}
	return out
}

func (p *pairing) view(ns plan.NetNS) *view {
	i := slices.IndexFunc(p.views, func(v *view) bool { return v.ns == ns })
	return p.views[i]
}

// first is the link with the end l, and for a veth pair the other one. A
// pair that is not what one of ours is once it is made, because a crash came
// between or somebody changed one end, shows as down or without an MTU, so that it differs from
// what is wanted.
func (p *pairing) first(neighbours map[uint32]*link, l *link) plan.Link {
	scope, _, _ := l.owner()
	out := plan.Link{
		NS: l.ns, Name: l.name, Scope: scope, Kind: l.kind, MAC: l.mac, MTU: l.mtu, Up: l.up, Port: l.port,
		VXLAN: l.device(),
	}
	if m := neighbours[l.masterIndex]; m != nil {
		out.Master = m.name
	}
	if l.kind != plan.Veth {
		return out
	}
	other := p.other(l)
	if other == nil {
		return out // its namespace is not pinned, or is going
	}
	p.taken[other], p.owned[other] = true, true
	out.Peer = plan.VethPeer{NS: other.ns, Name: other.name, MAC: other.mac}
	if s, peer, ok := other.owner(); !ok || !peer || s != scope || other.up != l.up {
		out.Up = false
	}
	if other.mtu != l.mtu {
		out.MTU = 0
	}
	return out
}

// orphan is a second end whose first end is not ours or has lost its mark: a
// link by itself, so that it is removed and made anew.
func (p *pairing) orphan(l *link) plan.Link {
	scope, _, _ := l.owner()
	return plan.Link{NS: l.ns, Name: l.name, Scope: scope, Kind: l.kind, MAC: l.mac, MTU: l.mtu, Up: l.up}
}

// other finds the far end: the link that names l as its far end just as l
// names it. Indexes are only unique in a namespace, so there may be
// several; then the kernel's namespace IDs decide.
func (p *pairing) other(l *link) *link {
	var found []*link
	for _, v := range p.views {
		o := v.links[l.peerIndex]
		if o == nil || o == l || o.kind != plan.Veth || o.peerIndex != l.index || p.taken[o] {
			continue
		}
		if here := v.ns == l.ns; here != (l.nsid < 0) || here != (o.nsid < 0) {
			continue
		}
		found = append(found, o)
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(o *link) bool { return !p.confirmed(l, o) })
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *link) int { return cmp.Compare(a.ns, b.ns) })
}

// confirmed asks whether the namespaces that two ends name are each other's.
func (p *pairing) confirmed(a, b *link) bool {
	if a.ns == "" || b.ns == "" {
		ids := p.files()
		if a.ns == "" {
			return ids[b.ns] == a.nsid
		}
		return ids[a.ns] == b.nsid
	}
	c, err := p.k.borrowNS(a.ns)
	if err != nil {
		return false
	}
	defer p.k.giveBackNS(a.ns, c)
	return p.k.netnsID(c, b.ns) == a.nsid
}

// netnsIDs asks for the IDs that pinned namespaces have in the fabric's own.
func (k *Kernel) netnsIDs(views []*view) map[plan.NetNS]int32 {
	ids := map[plan.NetNS]int32{}
	c, err := k.borrow()
	if err != nil {
		return ids
	}
	defer k.giveBack(c)
	for _, v := range views {
		if v != nil && v.ns != "" {
			ids[v.ns] = k.netnsID(c, v.ns)
		}
	}
	return ids
}

// netnsID is the ID a namespace has in that of the socket, or -2 when it has none.
func (k *Kernel) netnsID(c *conn, ns plan.NetNS) int32 {
	id := int32(-2)
	file := k.self
	if ns != "" {
		var err error
		if file, err = k.openPin(ns); err != nil {
			return id
		}
		defer file.Close()
	}
	h := header(4) // struct rtgenmsg, padded
	h.u32(netnsaFD, uint32(file.Fd()))
	_, err := c.batch([]request{{kind: unix.RTM_GETNSID, data: h.b, reply: func(b []byte) error {
		if len(b) < 4 {
			return errShort
		}
		return eachAttr(b[4:], func(kind uint16, v []byte) error {
			if kind == netnsaNSID {
				id = int32(u32(v))
			}
			return nil
		})
	}}})
	if err != nil || id < 0 {
		return -2
	}
	return id
}
