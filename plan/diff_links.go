package plan

import (
	"cmp"
	"slices"
)

// ends are the keys of all link ends a state names: those of links and of veth peers.
type ends map[string]bool

func endsOf(links []Link) ends {
	e := make(ends, 2*len(links))
	for _, l := range links {
		for _, k := range l.ends() {
			e[k] = true
		}
	}
	return e
}

// ends are the keys of the link's ends: two for a veth pair.
func (l Link) ends() []string {
	if l.Kind == Veth && l.Peer.Name != "" {
		return []string{l.Key(), l.peerKey()}
	}
	return []string{l.Key()}
}

// compareLinks decides which links are made, changed, removed, and made anew.
func (d *diff) compareLinks() {
	have := make(map[string]Link, len(d.have.Links))
	for _, l := range d.have.Links {
		have[l.Key()] = l
	}
	d.ends = endsOf(d.want.Links)
	wanted := make(map[string]bool, len(d.want.Links))
	var modify []change
	for _, w := range d.want.Links {
		k := w.Key()
		if wanted[k] {
			continue
		}
		wanted[k] = true
		h, ok := have[k]
		switch {
		case w.Kind == Loopback:
			if !ok || d.newNS[w.NS] {
				h = Link{NS: w.NS, Name: w.Name, Kind: Loopback}
			}
			if !sameLink(w, h) {
				modify = append(modify, change{old: h, new: w})
			}
		case !ok:
			d.makeLink(w)
		case d.goesAlong(h) || !sameDevice(w, h):
			d.dropLink(h)
			d.makeLink(w)
		default:
			modify = append(modify, change{old: h, new: w})
		}
	}
	for _, h := range d.have.Links {
		if h.Kind != Loopback && !wanted[h.Key()] {
			d.dropLink(h)
		} else if d.goesAlong(h) {
			d.markLost(h)
		}
	}
	d.linkDelta.modify = d.changedLinks(modify)
	d.sortLinks()
}

// sameDevice reports whether have can be turned into want: a device of the same kind, made
// with the same attributes that the kernel changes no more.
func sameDevice(want, have Link) bool {
	switch {
	case want.Kind != have.Kind:
		return false
	case want.Kind == Veth:
		return want.Peer.Loose || want.Peer.NS == have.Peer.NS && want.Peer.Name == have.Peer.Name
	case want.Kind == VXLAN:
		return want.VXLAN == have.VXLAN
	case want.Kind.OnLower():
		return want.Lower == have.Lower
	case want.Kind == Given:
		return want.Given.Name == have.Given.Name
	}
	return true
}

// changedLinks keeps the changes that change something. A port whose bridge is
// made anew has to join it again, whatever its attributes.
func (d *diff) changedLinks(all []change) []change {
	var out []change
	for _, c := range all {
		w := c.new.(Link)
		rejoin := w.Master != "" && d.lost[in(w.NS, w.Master)]
		if rejoin {
			old := c.old.(Link)
			old.Master, old.Port = "", BridgePort{}
			c.old = old
		}
		if rejoin || !sameLink(w, c.old.(Link)) {
			out = append(out, c)
			d.noteAddress(w, c.old.(Link))
			d.noteMTU(w, c.old.(Link))
		}
	}
	return out
}

// noteAddress notes which ends get another hardware address.
func (d *diff) noteAddress(want, have Link) {
	if !sameMAC(want.MAC, have.MAC) {
		d.readdressed[want.Key()] = true
	}
	if want.Kind == Veth && !want.Peer.Loose && !sameMAC(want.Peer.MAC, have.Peer.MAC) {
		d.readdressed[want.peerKey()] = true
	}
}

// noteMTU notes which ends get another MTU. That of a veth pair is one for both.
func (d *diff) noteMTU(want, have Link) {
	if want.MTU == 0 || want.MTU == have.MTU {
		return
	}
	for _, k := range want.ends() {
		d.resized[k] = true
	}
}

func (d *diff) makeLink(l Link) {
	d.linkDelta.create = append(d.linkDelta.create, l)
	for _, k := range l.ends() {
		d.newEnds[k] = true
	}
}

// dropLink removes a link, by an operation of its own unless it goes with a
// namespace. One whose name is wanted again has to go at once.
func (d *diff) dropLink(h Link) {
	d.markLost(h)
	if d.newNS[h.NS] || h.Kind == Veth && d.newNS[h.Peer.NS] {
		return
	}
	if !d.goesAlong(h) || slices.ContainsFunc(h.ends(), func(k string) bool { return d.ends[k] }) {
		d.linkDelta.delete = append(d.linkDelta.delete, h)
		return
	}
	for _, k := range h.ends() {
		d.late[k] = true
	}
}

func (d *diff) markLost(h Link) {
	for _, k := range h.ends() {
		d.lost[k] = true
	}
}

// goesAlong reports whether a link goes with the namespace of one of its ends, or
// was in one that is made in this run and so cannot have existed.
func (d *diff) goesAlong(h Link) bool {
	gone := d.goneNS[h.NS] || d.newNS[h.NS]
	return gone || h.Kind == Veth && h.Peer.Name != "" && (d.goneNS[h.Peer.NS] || d.newNS[h.Peer.NS])
}

// sameLink reports whether have has all the attributes want asks for.
func sameLink(want, have Link) bool {
	if want.Up != have.Up || want.MTU != 0 && want.MTU != have.MTU {
		return false
	}
	if want.Kind == Loopback {
		return true // it has no owner and no choice of address
	}
	if want.Owner != have.Owner || want.Master != have.Master || want.Master != "" && want.Port != have.Port {
		return false
	}
	return want.Querier == have.Querier && sameGSO(want.GSO, have.GSO) && sameMAC(want.MAC, have.MAC) &&
		(want.Kind != Veth || want.Peer.Loose || sameMAC(want.Peer.MAC, have.Peer.MAC))
}

func sameMAC(want, have MAC) bool { return want == MAC{} || want == have }

// carries reports whether other links sit on links of that kind.
func (k LinkKind) carries() bool { return k == Bridge || k == VLAN }

// sortLinks puts bridges before ports for creation and ports before bridges for
// removal, and so with VLANs and what sits on them.
func (d *diff) sortLinks() {
	port := func(o Object) int {
		if o.(Link).Kind.carries() {
			return 0
		}
		return 1
	}
	slices.SortFunc(d.linkDelta.create, func(a, b Object) int {
		return cmp.Or(cmp.Compare(port(a), port(b)), cmp.Compare(a.Key(), b.Key()))
	})
	slices.SortFunc(d.linkDelta.delete, func(a, b Object) int {
		return cmp.Or(cmp.Compare(port(b), port(a)), cmp.Compare(a.Key(), b.Key()))
	})
	slices.SortFunc(d.linkDelta.modify, func(a, b change) int {
		return cmp.Or(cmp.Compare(port(a.new), port(b.new)), cmp.Compare(a.new.Key(), b.new.Key()))
	})
}

// links makes bridges, then changes links, then makes the others: a changed
// port may join a new bridge, and a new port a changed one.
func (d *diff) links() {
	n := slices.IndexFunc(d.linkDelta.create, func(o Object) bool { return !o.(Link).Kind.carries() })
	if n < 0 {
		n = len(d.linkDelta.create)
	}
	d.add(Create, d.linkDelta.create[:n])
	d.addModify(d.linkDelta.modify)
	d.add(Create, d.linkDelta.create[n:])
}
