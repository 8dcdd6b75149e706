package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// Diff computes the operations that lead from have to want, in the order in
// which a kernel accepts them. It is pure and deterministic, and empty when have is what
// is wanted. Both may be parts of a whole, such as one scope: what neither of them
// names is taken to be there and is not touched.
//
// The phases, and why they come in this order:
//
//  1. ports are bound, because a conflict must fail before anything has changed;
//  2. namespaces are made;
//  3. sysctls of what exists are set, those of links first (accept_ra must be 2
//     before forwarding is switched on, or learned routes go);
//  4. what rules will translate leaves the fast path; then rules, sets and elements, all adjacent: they are one
//     transaction;
//  5. connection tracking entries that the old rules decided are forgotten;
//  6. what must go goes, from the leaves to the root;
//  7. links are made and changed, bridges before their ports;
//  8. sysctls of links that are new or have another MTU (disable_ipv6 decides about
//     their addresses), then addresses;
//  9. forwarding entries and neighbours, tunnels and then their remotes, before the
//     routes that lead packets to them;
//  10. routes, connected ones before those through a gateway;
//  11. namespaces go, with everything in them, or are let go where somebody else made them;
//  12. ports are let go, when nothing leads to them any more.
func Diff(want, have State) []Op {
	d := newDiff(want, have)
	d.bindPorts()
	d.add(Create, d.namespaces.create)
	d.earlySysctls()
	d.publishing()
	d.rules()
	d.flows()
	d.deletes()
	d.links()
	d.lateSysctls()
	d.add(Create, d.addrs.create)
	for _, x := range d.plain {
		d.changes(x)
	}
	d.changes(d.routes)
	d.add(Delete, d.namespaces.delete)
	d.add(Delete, d.ports.delete)
	return d.ops
}

// change is a pair of objects with the same key and other attributes.
type change struct{ old, new Object }

// delta is what is to be done about one type of object, each part sorted.
type delta struct {
	create []Object
	modify []change
	delete []Object
}

// diff is the state of one run of [Diff].
type diff struct {
	want, have State
	ops        []Op

	namespaces, linkDelta, addrs, routes, sysctls, ports delta
	sets, chains, elements                               delta
	plain                                                []delta // of the kinds with compare, in their order
	purge                                                []ConntrackFlush
	kept                                                 map[netip.Addr]bool // made when first asked for

	ends    ends
	newNS   map[NetNS]bool  // made in this run
	goneNS  map[NetNS]bool  // removed in this run
	newEnds map[string]bool // keys of link ends made in this run
	lost    map[string]bool // keys of link ends removed in this run, and maybe made anew
	late    map[string]bool // those of them that go with a namespace

	rejoined    map[string]bool // keys of links that become ports of another bridge, or of none
	readdressed map[string]bool // keys of link ends that get another hardware address
	resized     map[string]bool // keys of link ends that get another MTU
	sources     map[string]bool // addresses that go, with their namespaces
	emptied     map[string]bool // keys of link ends that lose their last IPv4 address
}

func newDiff(want, have State) *diff {
	d := &diff{
		want: want, have: have,
		newNS: map[NetNS]bool{}, goneNS: map[NetNS]bool{},
		newEnds: map[string]bool{}, lost: map[string]bool{}, late: map[string]bool{}, readdressed: map[string]bool{},
		resized: map[string]bool{},
	}
	d.namespaces = compare(want.Namespaces, have.Namespaces, nil, nil)
	for _, o := range d.namespaces.create {
		d.newNS[o.(Namespace).Name] = true
	}
	for _, o := range d.namespaces.delete {
		if ns := o.(Namespace).Name; !ns.Adopted() {
			d.goneNS[ns] = true
		}
	}
	d.compareLinks()
	d.compareOnLinks()
	d.ports = compare(want.Ports, have.Ports, samePort, func(p PortReservation) bool { return d.newNS[p.NS] })
	d.compareRules()
	return d
}

func samePort(a, b PortReservation) bool { return true } // the key says it all

// compareOnLinks compares what sits on links. What sat on a link that goes in
// this run has gone with it, so it counts as absent.
func (d *diff) compareOnLinks() {
	d.rejoined = map[string]bool{}
	for _, c := range d.linkDelta.modify {
		if old, l := c.old.(Link), c.new.(Link); old.Master != l.Master {
			d.rejoined[l.Key()] = true
		}
	}
	d.addrs = compare(d.want.Addrs, d.have.Addrs, nil, func(a Addr) bool { return d.isLost(a.NS, a.Link) })
	d.routes = compare(d.want.Routes, d.have.Routes, sameRoute, func(r Route) bool {
		return d.isLost(r.NS, r.Link) && !d.lingers(r.NS, r.Link)
	})
	d.routes.delete = slices.DeleteFunc(d.routes.delete, func(o Object) bool { return d.lingers(LinkOf(o)) })
	d.routes.create = slices.DeleteFunc(d.routes.create, d.removed())
	d.leaving()
	for _, k := range kinds() {
		if k.compare != nil {
			x := k.compare(&d.want, &d.have, func(o Object) bool { return d.isLost(LinkOf(o)) || d.leftBehind(o) })
			if k.name == "neigh" {
				d.renewNeighs(&x)
			}
			d.programs(&x)
			d.plain = append(d.plain, x)
		}
	}
	d.sysctls = compare(d.want.Sysctls, d.have.Sysctls,
		func(a, b Sysctl) bool { return a.normal() == b.normal() },
		func(s Sysctl) bool { return d.isLost(s.NS, s.Link()) || d.isLate(s) })
	d.renewRoutes()
	slices.SortStableFunc(d.routes.create, byGateway)
	slices.SortStableFunc(d.routes.delete, func(a, b Object) int { return byGateway(b, a) })
}

// isLost reports whether a link, and all that sits on it, goes in this run, or is
// made in it, so that what was seen there was on another one of that name.
func (d *diff) isLost(ns NetNS, link string) bool {
	if d.newNS[ns] || d.goneNS[ns] {
		return true
	}
	end := in(ns, link)
	return link != "" && (d.lost[end] || d.newEnds[end])
}

// leftBehind reports whether an object is an entry of a bridge that its port leaves in this run: the kernel forgets it.
func (d *diff) leftBehind(o Object) bool {
	f, ok := o.(FDBEntry)
	return ok && !f.Dst.IsValid() && d.rejoined[in(f.NS, f.Link)]
}

// lingers reports whether a link goes only at the end, with the namespace of its
// other end. Until then its routes are in the way of others with their key.
func (d *diff) lingers(ns NetNS, link string) bool {
	return d.late[in(ns, link)] && !d.goneNS[ns] && !d.newNS[ns]
}

// removed tells which objects are routes that were made once and that somebody has removed since.
func (d *diff) removed() func(Object) bool {
	there := map[string]bool{}
	return func(o Object) bool {
		r := o.(Route)
		if r.Once == 0 {
			return false
		}
		if len(there) == 0 {
			for _, h := range d.have.Routes {
				there[h.Key()] = !d.isLost(h.NS, h.Link)
			}
		}
		r.Table = r.Once
		return there[r.Key()]
	}
}

func sameRoute(a, b Route) bool { return a.Normal() == b.Normal() }

// leaving finds which addresses go, and which links lose their last IPv4 address, if only to get another one.
func (d *diff) leaving() {
	d.sources, d.emptied = map[string]bool{}, map[string]bool{}
	going := map[string]bool{}
	for _, o := range d.addrs.delete {
		a := o.(Addr)
		going[a.Key()] = true
		d.sources[in(a.NS, a.Prefix.Addr().String())] = true
		if a.Prefix.Addr().Is4() {
			d.emptied[in(a.NS, a.Link)] = true
		}
	}
	for _, a := range d.have.Addrs {
		if a.Prefix.Addr().Is4() && !going[a.Key()] {
			delete(d.emptied, in(a.NS, a.Link))
		}
	}
}

// renewRoutes makes routes go and come again that the kernel drops on the way: those whose preferred source goes,
// and the IPv4 routes of a link that loses its last IPv4 address.
func (d *diff) renewRoutes() {
	renew(&d.routes, d.want.Routes, d.have.Routes, func(r Route) bool {
		if d.isLost(r.NS, r.Link) {
			return false
		}
		on := in(r.NS, r.Link)
		return r.Src.IsValid() && d.sources[in(r.NS, r.Src.String())] ||
			r.Dst.Addr().Is4() && r.Link != "" && d.emptied[on]
	})
}

// renewNeighs does the same for neighbours: those of IPv4 on a link that loses its last IPv4 address, and those on
// links that change their hardware address.
func (d *diff) renewNeighs(x *delta) {
	renew(x, d.want.Neighs, d.have.Neighs, func(n Neigh) bool {
		on := in(n.NS, n.Link)
		return (n.IP.Is4() && d.emptied[on] || d.readdressed[on]) && !d.isLost(n.NS, n.Link)
	})
}

// renew turns what is kept or changed of have, if which holds, into a delete and a create.
func renew[T Object](d *delta, want, have []T, which func(T) bool) {
	old := map[string]T{}
	for _, h := range have {
		if which(h) {
			old[h.Key()] = h
		}
	}
	if len(old) == 0 {
		return
	}
	for _, w := range want {
		k := w.Key()
		if h, ok := old[k]; ok {
			delete(old, k) // once, however often it is wanted
			d.delete = append(d.delete, h)
			d.create = append(d.create, w)
		}
	}
	d.modify = slices.DeleteFunc(d.modify, func(c change) bool { return contains(d.create, c.new) })
	d.sort()
}

// byGateway puts routes through a gateway after those that make gateways reachable, and those of other tables last:
// the main table's may be made once, and theirs tell that they were.
func byGateway(a, b Object) int {
	rank := func(o Object) int {
		r := o.(Route)
		n := 0
		if r.Via.IsValid() && !r.OnLink {
			n++
		}
		if r.Normal().Table != mainTable {
			n += 2
		}
		return n
	}
	return cmp.Compare(rank(a), rank(b))
}

// compare finds what to do about one type of object. Objects of have for which
// absent holds do not count. A nil same means that the key is all there is.
func compare[T Object](want, have []T, same func(want, have T) bool, absent func(T) bool) delta {
	var d delta
	old := make(map[string]T, len(have))
	for _, h := range have {
		if absent == nil || !absent(h) {
			old[h.Key()] = h
		}
	}
	seen := make(map[string]bool, len(want))
	for _, w := range want {
		k := w.Key()
		if seen[k] {
			continue
		}
		seen[k] = true
		h, ok := old[k]
		switch {
		case !ok:
			d.create = append(d.create, w)
		case same != nil && !same(w, h):
			d.modify = append(d.modify, change{old: h, new: w})
		}
	}
	for k, h := range old {
		if !seen[k] {
			d.delete = append(d.delete, h)
		}
	}
	d.sort()
	return d
}

func (d *delta) sort() {
	byKey(d.create)
	byKey(d.delete)
	slices.SortFunc(d.modify, func(a, b change) int { return cmp.Compare(a.new.Key(), b.new.Key()) })
}

// byKey sorts objects. Their keys are made once, as there may be ten thousands.
func byKey(objects []Object) {
	if len(objects) < 2 {
		return
	}
	type keyed struct {
		key string
		o   Object
	}
	all := make([]keyed, len(objects))
	for i, o := range objects {
		all[i] = keyed{o.Key(), o}
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	for i, k := range all {
		objects[i] = k.o
	}
}

func (d *diff) add(v Verb, objects []Object) {
	for _, o := range objects {
		d.ops = append(d.ops, Op{Verb: v, Object: o})
	}
}

func (d *diff) addModify(changes []change) {
	for _, c := range changes {
		d.ops = append(d.ops, Op{Verb: Modify, Object: c.new, Old: c.old})
	}
}

func (d *diff) changes(x delta) {
	d.addModify(x.modify)
	d.add(Create, x.create)
}

// bindPorts binds ports, after those of ours that are in the way were let go.
func (d *diff) bindPorts() {
	var first, last []Object
	for _, o := range d.ports.delete {
		if slices.ContainsFunc(d.ports.create,
			func(c Object) bool { return c.(PortReservation).Overlaps(o.(PortReservation)) }) {
			first = append(first, o)
		} else {
			last = append(last, o)
		}
	}
	d.ports.delete = last
	d.add(Delete, first)
	d.add(Create, d.ports.create)
}

// earlySysctls sets those of links that are there already, and then those of
// no link.
func (d *diff) earlySysctls() {
	for _, tied := range []bool{true, false} {
		for _, o := range d.sysctls.create {
			if s := o.(Sysctl); !d.isLate(s) && (s.Link() != "") == tied {
				d.add(Create, []Object{o})
			}
		}
		for _, c := range d.sysctls.modify {
			if s := c.new.(Sysctl); !d.isLate(s) && (s.Link() != "") == tied {
				d.addModify([]change{c})
			}
		}
	}
}

func (d *diff) lateSysctls() {
	for _, o := range d.sysctls.create {
		if d.isLate(o.(Sysctl)) {
			d.add(Create, []Object{o})
		}
	}
}

// isLate reports whether a value's link is made in this run, or changes its MTU: below 1280 bytes the kernel has no
// IPv6 values of a link, and beyond it has new ones.
func (d *diff) isLate(s Sysctl) bool {
	end := in(s.NS, s.Link())
	return s.Link() != "" && (d.newEnds[end] || d.resized[end] && strings.HasPrefix(s.Path, "ipv6/"))
}

// deletes removes what must go, except links with their namespace.
func (d *diff) deletes() {
	d.add(Delete, d.routes.delete)
	for _, x := range slices.Backward(d.plain) {
		d.add(Delete, x.delete)
	}
	d.add(Delete, d.addrs.delete)
	d.add(Delete, d.linkDelta.delete)
}
