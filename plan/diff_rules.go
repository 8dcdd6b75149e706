package plan

import (
	"net/netip"
	"slices"
	"strings"
)

// compareRules compares the nftables objects. A set of another type cannot be
// changed while rules use it, so then the family's table is written anew.
func (d *diff) compareRules() {
	want, have := d.want.Rules, d.have.Rules
	fresh := map[Family]bool{}
	d.sets = compare(want.Sets, have.Sets, sameSet, nil)
	for _, c := range d.sets.modify {
		fresh[c.new.(Set).Family] = true
	}
	d.sets = compare(want.Sets, have.Sets, sameSet, func(s Set) bool { return fresh[s.Family] })
	d.chains = compare(want.Chains, have.Chains, sameChain, func(c Chain) bool { return fresh[c.Family] })
	d.elements = compare(want.Elements, have.Elements, sameElement, nil)
	for _, o := range d.elements.delete {
		d.wasDeleted(o.(Element))
	}
	for _, c := range d.elements.modify {
		d.wasMade(c.new.(Element))
	}
	for _, o := range d.elements.create {
		d.wasMade(o.(Element))
	}
	d.elements = compare(want.Elements, have.Elements, sameElement, func(e Element) bool { return fresh[e.Family] })
	d.rewrite(fresh)
	d.skipElements()
	d.splitChains()
}

// rewrite removes all there is in the families that are written anew.
func (d *diff) rewrite(fresh map[Family]bool) {
	if len(fresh) == 0 {
		return
	}
	for _, s := range d.have.Rules.Sets {
		if fresh[s.Family] {
			d.sets.delete = append(d.sets.delete, s)
		}
	}
	for _, c := range d.have.Rules.Chains {
		if fresh[c.Family] {
			d.chains.delete = append(d.chains.delete, c)
		}
	}
	byKey(d.sets.delete)
	byKey(d.chains.delete)
}

// skipElements leaves out elements that go with their set.
func (d *diff) skipElements() {
	if len(d.sets.delete) == 0 {
		return
	}
	gone := map[string]bool{}
	for _, o := range d.sets.delete {
		gone[o.Key()] = true
	}
	d.elements.delete = slices.DeleteFunc(d.elements.delete, func(o Object) bool {
		e := o.(Element)
		return gone[Set{Family: e.Family, Name: e.Set}.Key()]
	})
}

// splitChains turns the change of a chain's hook into a delete and a create.
func (d *diff) splitChains() {
	d.chains.modify = slices.DeleteFunc(d.chains.modify, func(c change) bool {
		old, now := c.old.(Chain).Base, c.new.(Chain).Base
		old.Policy, now.Policy = "", ""
		if old == now {
			return false
		}
		d.chains.delete = append(d.chains.delete, c.old)
		d.chains.create = append(d.chains.create, c.new)
		return true
	})
	byKey(d.chains.delete)
	byKey(d.chains.create)
}

// rules emits the operations on rules next to each other. Within the
// transaction an object goes before what it refers to, and comes after it. What is
// both removed and made, with another type or hook, is removed first.
func (d *diff) rules() {
	accepts := compare(d.want.Accepts, d.have.Accepts, nil, nil)
	d.add(Create, accepts.create)
	d.add(Delete, accepts.delete)
	d.add(Delete, d.elements.delete)
	again := func(o Object) bool { return contains(d.chains.create, o) || contains(d.sets.create, o) }
	d.add(Delete, keep(d.chains.delete, again, true))
	d.add(Delete, keep(d.sets.delete, again, true))
	d.add(Create, d.sets.create)
	d.add(Create, d.chains.create)
	d.addModify(d.chains.modify)
	d.addModify(d.elements.modify)
	d.add(Create, d.elements.create)
	d.add(Delete, keep(d.chains.delete, again, false))
	d.add(Delete, keep(d.sets.delete, again, false))
	d.add(Delete, compare(d.want.Leftovers, d.have.Leftovers, nil, nil).delete)
}

func contains(objects []Object, o Object) bool {
	return slices.ContainsFunc(objects, func(x Object) bool { return x.Key() == o.Key() })
}

func keep(objects []Object, f func(Object) bool, want bool) []Object {
	var out []Object
	for _, o := range objects {
		if f(o) == want {
			out = append(out, o)
		}
	}
	return out
}

func sameSet(a, b Set) bool {
	return a.Interval == b.Interval && slices.Equal(a.KeyTypes, b.KeyTypes) && slices.Equal(a.Data, b.Data)
}

// sameChain compares the texts: two chains with the same one are the same.
func sameChain(a, b Chain) bool { return a.String() == b.String() }

func sameElement(a, b Element) bool {
	return a.Owner == b.Owner && (slices.Equal(a.Data, b.Data) || joinParts(a.Data) == joinParts(b.Data))
}

// flows emits the connection tracking entries to forget.
func (d *diff) flows() {
	// What is led by another element than before is spared where that leads it to the same place.
	decided := map[ConntrackFlush]bool{}
	for _, f := range d.purge {
		if f.Keep != "" {
			f.Keep = ""
			decided[f] = true
		}
	}
	d.purge = slices.DeleteFunc(d.purge, func(f ConntrackFlush) bool { return f.Keep == "" && decided[f] })
	all := compare(d.purge, nil, nil, nil)
	d.add(Purge, all.create)
}

// isPortMap reports whether a set's elements decide where published ports lead.
func isPortMap(e Element) bool {
	if e.Family != Inet {
		return false
	}
	switch e.Set {
	case "any4", "any6", "ingress4", "ingress6": // on every address
		return len(e.Keys) == 2
	case "ports4", "ports6", "range4", "range6":
		return len(e.Keys) == 3
	case "from4", "from6", "fromrange4", "fromrange6": // the source is first
		return len(e.Keys) == 4
	}
	return false
}

// wasMade forgets the flows a new or changed port map element decides otherwise.
func (d *diff) wasMade(e Element) {
	if !isPortMap(e) {
		return
	}
	f := portFlow(e)
	switch len(e.Data) {
	case 1:
		f.Keep = e.Data[0]
	case 2:
		f.Keep = hostPorts(e.Data[0], e.Data[1])
	}
	d.purge = append(d.purge, f)
}

// wasDeleted forgets the flows of a published port that is no more, and those of an
// endpoint's address when the element that lets it send has gone, unless it keeps the address: then nobody looks at
// what it sends any more.
func (d *diff) wasDeleted(e Element) {
	if isPortMap(e) {
		d.purge = append(d.purge, portFlow(e))
		return
	}
	if e.Family != BridgeTable || e.Set != "source4" && e.Set != "source6" {
		return
	}
	for _, part := range e.Keys {
		if p, err := netip.ParsePrefix(part); err == nil && p.IsSingleIP() {
			part = p.Addr().String()
		}
		if a, err := netip.ParseAddr(part); err == nil && !a.IsLinkLocalUnicast() && !a.IsMulticast() &&
			!a.IsUnspecified() && !d.keeps(a) {
			d.purge = append(d.purge, ConntrackFlush{Addr: a.String()})
		}
	}
}

// keeps reports whether a link that has the address keeps it.
func (d *diff) keeps(a netip.Addr) bool {
	if d.kept == nil {
		d.kept = map[netip.Addr]bool{}
		have := make(map[Addr]bool, len(d.have.Addrs))
		for _, h := range d.have.Addrs {
			have[h] = true
		}
		for _, w := range d.want.Addrs {
			if have[w] && !d.isLost(w.NS, w.Link) {
				d.kept[w.Prefix.Addr()] = true
			}
		}
	}
	return d.kept[a]
}

func portFlow(e Element) ConntrackFlush {
	keys, from := e.Keys, ""
	switch {
	case len(keys) == 4:
		keys, from = keys[1:], CanonicalPart(keys[0])
	case e.Set == "any4", e.Set == "ingress4":
		keys = append([]string{"0.0.0.0/0"}, keys...)
	case e.Set == "any6", e.Set == "ingress6":
		keys = append([]string{"::/0"}, keys...)
	}
	return ConntrackFlush{Proto: L4(strings.ToLower(keys[1])), From: from,
		Dst: hostPorts(CanonicalPart(keys[0]), CanonicalPart(keys[2]))}
}
