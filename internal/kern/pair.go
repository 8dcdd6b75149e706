package kern

import (
	"cmp"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
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
	taken map[*rtnetlink.Link]bool
	owned map[*rtnetlink.Link]bool
	going map[*rtnetlink.Link]bool    // about to follow a namespace we let go of: not shown, nor what is on it
	files func() map[plan.NetNS]int32 // namespace IDs as the fabric's namespace has them
}

// links are all links of ours, and every namespace's loopback.
func (p *pairing) links() []plan.Link {
	p.owned, p.going = map[*rtnetlink.Link]bool{}, map[*rtnetlink.Link]bool{}
	var out []plan.Link
	var unmarked, seconds []*rtnetlink.Link
	for _, v := range p.views {
		for _, index := range slices.Sorted(maps.Keys(v.links)) {
			l := v.links[index]
			_, peer, ok := l.Owner()
			switch {
			case l.Kind == plan.Loopback && l.Name == "lo":
				out = append(out, plan.Link{NS: v.ns, Name: l.Name, Kind: l.Kind, MTU: l.MTU, Up: l.Up})
			case ok && peer:
				p.owned[l] = true
				seconds = append(seconds, l)
			case ok && l.Alias == "":
				p.owned[l] = true
				unmarked = append(unmarked, l)
			case ok && v.ns == "" && p.k.shadow.isGoing(l.Name):
				p.going[l] = true
			case ok:
				p.owned[l] = true
				out = append(out, p.first(v.links, l))
			}
		}
	}
	for _, l := range unmarked {
		if !p.taken[l] {
			out = append(out, p.first(p.view(l.NS).links, l))
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
func (p *pairing) first(neighbours map[uint32]*rtnetlink.Link, l *rtnetlink.Link) plan.Link {
	scope, _, _ := l.Owner()
	out := plan.Link{
		NS: l.NS, Name: l.Name, Owner: scope, Kind: l.Kind, MAC: l.MAC, MTU: l.MTU, Up: l.Up, Port: l.Port,
		GSO: pairGSO(l), VXLAN: l.Device(), Querier: l.Querier,
	}
	if m := neighbours[l.MasterIndex]; m != nil {
		out.Master = m.Name
	}
	if name := l.Given(); name != "" {
		out.Kind, out.Given.Name = plan.Given, name
		return out
	}
	if l.Kind.OnLower() {
		out.Lower = l.Lower
		if lower := p.view("").links[l.PeerIndex]; lower != nil && (l.NS == "") == (l.NSID < 0) {
			out.Lower.Link = lower.Name
		}
	}
	if l.Kind != plan.Veth {
		return out
	}
	other := p.other(l)
	if other == nil {
		return out // its namespace is not pinned, or is going
	}
	p.taken[other], p.owned[other] = true, true
	out.Peer = plan.VethPeer{NS: other.NS, Name: other.Name, MAC: other.MAC}
	if linkname.IsLoose(other.Name) && other.NS == "" {
		return out // somebody is to take it away, or has brought it back
	}
	if s, peer, ok := other.Owner(); !ok || !peer || s != scope || other.Up != l.Up {
		out.Up = false
	}
	if other.MTU != l.MTU {
		out.MTU = 0
	}
	if pairGSO(other) != out.GSO {
		out.GSO = plan.DifferentGSO
	}
	return out
}

// pairGSO is what an end of a pair has; 0 for other links, of which it is not ours to say.
func pairGSO(l *rtnetlink.Link) int {
	if l.Kind != plan.Veth {
		return 0
	}
	return l.GSO
}

// orphan is a second end whose first end is not ours or has lost its mark: a
// link by itself, so that it is removed and made anew.
func (p *pairing) orphan(l *rtnetlink.Link) plan.Link {
	scope, _, _ := l.Owner()
	return plan.Link{NS: l.NS, Name: l.Name, Owner: scope, Kind: l.Kind, MAC: l.MAC, MTU: l.MTU, Up: l.Up}
}

// other finds the far end: the link that names l as its far end just as l
// names it. Indexes are only unique in a namespace, so there may be
// several; then the kernel's namespace IDs decide.
func (p *pairing) other(l *rtnetlink.Link) *rtnetlink.Link {
	var found []*rtnetlink.Link
	for _, v := range p.views {
		o := v.links[l.PeerIndex]
		if o == nil || o == l || o.Kind != plan.Veth || o.PeerIndex != l.Index || p.taken[o] {
			continue
		}
		if here := v.ns == l.NS; here != (l.NSID < 0) || here != (o.NSID < 0) {
			continue
		}
		found = append(found, o)
	}
	if len(found) > 1 {
		found = slices.DeleteFunc(found, func(o *rtnetlink.Link) bool { return !p.confirmed(l, o) })
	}
	if len(found) == 0 {
		return nil
	}
	return slices.MinFunc(found, func(a, b *rtnetlink.Link) int { return cmp.Compare(a.NS, b.NS) })
}

// confirmed asks whether the namespaces that two ends name are each other's.
func (p *pairing) confirmed(a, b *rtnetlink.Link) bool {
	if a.NS == "" || b.NS == "" {
		ids := p.files()
		if a.NS == "" {
			return ids[b.NS] == a.NSID
		}
		return ids[a.NS] == b.NSID
	}
	c, err := p.k.borrowNS(a.NS)
	if err != nil {
		return false
	}
	defer p.k.giveBackNS(a.NS, c)
	return p.k.netnsID(c, b.NS) == a.NSID
}

// netnsIDs asks for the IDs that pinned namespaces have in the fabric's own.
func (k *Kernel) netnsIDs(views []*view) map[plan.NetNS]int32 {
	ids := map[plan.NetNS]int32{}
	c, err := k.socket()
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
func (k *Kernel) netnsID(c *rtnetlink.Conn, ns plan.NetNS) int32 {
	id := int32(-2)
	file := k.self
	if ns != "" {
		var err error
		if file, err = k.openPin(ns); err != nil {
			return id
		}
		defer file.Close()
	}
	h := attr.After(4) // struct rtgenmsg, padded
	h.U32(netnsaFD, uint32(file.Fd()))
	_, err := c.Batch([]rtnetlink.Request{{Kind: unix.RTM_GETNSID, Data: h.B, Reply: func(b []byte) error {
		if len(b) < 4 {
			return rtnetlink.ErrShort
		}
		return attr.Each(b[4:], func(kind uint16, v []byte) error {
			if kind == netnsaNSID {
				id = int32(attr.U32(v))
			}
			return nil
		})
	}}})
	if err != nil || id < 0 {
		return -2
	}
	return id
}
