package fake

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

func (k *Kernel) apply(op plan.Op) error {
	t := &k.state
	if op.Verb == plan.Delete {
		return k.remove(op.Object)
	}
	switch o := op.Object.(type) {
	case plan.Namespace:
		if t.namespaces[o.Name] {
			return ErrExists
		}
		t.namespaces[o.Name] = true
		t.loopbacks[o.Name] = loopback(o.Name)
		return nil
	case plan.Link:
		return t.link(op.Verb, o)
	case plan.Addr:
		return t.addr(o)
	case plan.Route:
		return t.route(op.Verb, o)
	case plan.PolicyRule:
		if !t.hasNS(o.NS) {
			return ErrMissing
		}
		return put(t.policies, op.Verb, o)
	case plan.Neigh, plan.FDBEntry, plan.Shaper, plan.Redirect, plan.MemberLink:
		return t.entry(op)
	case plan.Tunnel:
		return t.tunnel(op.Verb, o)
	case plan.TunnelPeer:
		return t.remote(op.Verb, o)
	case plan.NameZone, plan.NameMember, plan.NameServer:
		return t.name(op.Verb, o)
	case plan.FastCounter, plan.FastPort, plan.FastEndpoint, plan.FastPeer, plan.FastTunnel, plan.FastProgram:
		return t.fastEntry(op.Verb, o)
	case plan.Sysctl:
		if err := t.place(o.NS, o.Link()); err != nil {
			return err
		}
		t.sysctls[o.Key()] = o
		return nil
	case plan.PortReservation:
		return k.hold(o)
	case plan.Set:
		return put(t.nft.sets, op.Verb, o)
	case plan.Chain:
		return put(t.nft.chains, op.Verb, o)
	case plan.Element:
		return put(t.nft.elements, op.Verb, o)
	case plan.ForwardAccept:
		return put(t.accepts, op.Verb, o)
	case plan.ConntrackFlush:
		k.purged = append(k.purged, o)
		return nil
	}
	return fmt.Errorf("%s: no such kind of object", op.Kind())
}

// entry adds or replaces what is told apart from others on its link by its attributes alone.
func (t *tables) entry(op plan.Op) error {
	switch o := op.Object.(type) {
	case plan.Neigh:
		if l, ok := t.find(o.NS, o.Link); ok && l.Kind == plan.TUN {
			return fmt.Errorf("neighbour on %s: %w", o.Link, errKind)
		}
		return onLink(t, t.neighs, op.Verb, o)
	case plan.FDBEntry:
		return t.forward(op.Verb, o)
	case plan.Shaper:
		return onLink(t, t.shapers, op.Verb, o)
	case plan.Redirect:
		if l, ok := t.find("", o.To); !ok || l.Kind != plan.IFB {
			return fmt.Errorf("link %s: %w", o.To, ErrMissing)
		}
		return onLink(t, t.redirects, op.Verb, o)
	case plan.MemberLink:
		return onLink(t, t.joined, op.Verb, o)
	}
	return fmt.Errorf("%s: no such kind of object", op.Kind())
}

// put adds or replaces an object.
func put[T plan.Object](m map[string]T, v plan.Verb, o T) error {
	_, exists := m[o.Key()]
	switch {
	case v == plan.Create && exists:
		return ErrExists
	case v == plan.Modify && !exists:
		return ErrMissing
	}
	m[o.Key()] = o
	return nil
}

func onLink[T plan.Object](t *tables, m map[string]T, v plan.Verb, o T) error {
	if err := t.place(plan.LinkOf(o)); err != nil {
		return err
	}
	return put(m, v, o)
}

func (k *Kernel) hold(p plan.PortReservation) error {
	if !k.state.hasNS(p.NS) {
		return ErrMissing
	}
	for _, h := range k.state.ports {
		if h.Overlaps(p) {
			return fmt.Errorf("%w: %s is held for %s", plan.ErrPortTaken, h, h.Owner)
		}
	}
	for _, h := range k.taken {
		if h.Overlaps(p) {
			return fmt.Errorf("%w: %s by somebody else", plan.ErrPortTaken, h)
		}
	}
	k.state.ports[p.Key()] = p
	return nil
}

func (t *tables) hasNS(ns plan.NetNS) bool { return ns == "" || t.namespaces[ns] }

// find is the link with an end of the given name.
func (t *tables) find(ns plan.NetNS, name string) (plan.Link, bool) {
	if lo, ok := t.loopbacks[ns]; ok && name == lo.Name {
		return lo, true
	}
	for _, l := range t.links {
		if l.NS == ns && l.Name == name || l.Kind == plan.Veth && l.Peer.NS == ns && l.Peer.Name == name {
			return l, true
		}
	}
	return plan.Link{}, false
}

func (t *tables) hasLink(ns plan.NetNS, name string) bool {
	_, ok := t.find(ns, name)
	return ok
}

// place checks that there is such a namespace and link; no link is one too.
func (t *tables) place(ns plan.NetNS, link string) error {
	if !t.hasNS(ns) {
		return fmt.Errorf("namespace %s: %w", ns, ErrMissing)
	}
	if link != "" && !t.hasLink(ns, link) {
		return fmt.Errorf("link %s: %w", link, ErrMissing)
	}
	return nil
}

func (t *tables) link(v plan.Verb, l plan.Link) error {
	if !t.hasNS(l.NS) || l.Kind == plan.Veth && !t.hasNS(l.Peer.NS) {
		return fmt.Errorf("namespace: %w", ErrMissing)
	}
	if l.Kind == plan.Loopback {
		return t.loopback(v, l)
	}
	if l.Master != "" {
		if m, ok := t.links[(plan.Link{NS: l.NS, Name: l.Master}).Key()]; !ok || m.Kind != plan.Bridge {
			return fmt.Errorf("master %s: %w", l.Master, ErrMissing)
		}
	}
	if v == plan.Create && t.hasLink(l.NS, l.Name) {
		return ErrExists
	}
	if err := t.device(v, l); err != nil {
		return err
	}
	if v == plan.Create && l.Kind == plan.Veth && (t.hasLink(l.Peer.NS, l.Peer.Name) || l.Peer.NS == l.NS &&
		l.Peer.Name == l.Name) {
		return fmt.Errorf("peer: %w", ErrExists)
	}
	old := t.links[l.Key()]
	if l.MTU == 0 {
		l.MTU = max(old.MTU, 1500)
	}
	if l.MAC == (plan.MAC{}) {
		l.MAC = old.MAC
	}
	if l.Kind == plan.Veth && l.Peer.MAC == (plan.MAC{}) {
		l.Peer.MAC = old.Peer.MAC
	}
	if v == plan.Modify && old.Up && !l.Up {
		t.down(l.NS, l.Name)
		if l.Kind == plan.Veth {
			t.down(l.Peer.NS, l.Peer.Name)
		}
	}
	if v == plan.Modify {
		t.rejoin(old, l)
		t.readdress(l.NS, l.Name, old.MAC, l.MAC)
		t.readdress(l.Peer.NS, l.Peer.Name, old.Peer.MAC, l.Peer.MAC)
	}
	return put(t.links, v, l)
}

// rejoin removes what a bridge knows of a port that becomes another one's.
func (t *tables) rejoin(old, l plan.Link) {
	if old.Master != l.Master {
		t.leave(l.NS, l.Name)
	}
}

// leave removes what a bridge knows of a port that leaves it.
func (t *tables) leave(ns plan.NetNS, name string) {
	drop(t.fdb, func(f plan.FDBEntry) bool { return f.NS == ns && f.Link == name && !f.Dst.IsValid() })
}

// readdress removes what a link loses that changes its hardware address.
func (t *tables) readdress(ns plan.NetNS, name string, old, mac plan.MAC) {
	if old != mac {
		drop(t.neighs, func(n plan.Neigh) bool { return n.NS == ns && n.Link == name })
	}
}

func (t *tables) loopback(v plan.Verb, l plan.Link) error {
	if v != plan.Modify {
		return ErrExists
	}
	if l.MTU == 0 {
		l.MTU = t.loopbacks[l.NS].MTU
	}
	l.Owner = ""
	t.loopbacks[l.NS] = l
	return nil
}

// down removes what a link that goes down loses: routes, and IPv6 addresses.
func (t *tables) down(ns plan.NetNS, name string) {
	drop(t.routes, func(r plan.Route) bool { return r.NS == ns && r.Link == name })
	drop(t.addrs, func(a plan.Addr) bool { return a.NS == ns && a.Link == name && a.Prefix.Addr().Is6() })
}

func drop[T any](m map[string]T, which func(T) bool) {
	for key, o := range m {
		if which(o) {
			delete(m, key)
		}
	}
}

func (t *tables) addr(a plan.Addr) error {
	if err := t.place(a.NS, a.Link); err != nil {
		return err
	}
	if a.Prefix.Addr().Is6() {
		for _, b := range t.addrs {
			if b.NS == a.NS && b.Link == a.Link && b.Prefix.Addr() == a.Prefix.Addr() {
				return ErrExists
			}
		}
	}
	return put(t.addrs, plan.Create, a)
}

func (t *tables) route(v plan.Verb, r plan.Route) error {
	if err := t.place(r.NS, r.Link); err != nil {
		return err
	}
	if l, ok := t.find(r.NS, r.Link); ok && !l.Up && r.Type != plan.Blackhole {
		return ErrDown
	}
	if r.Via.IsValid() && !r.OnLink && !t.reaches(r) {
		return ErrUnreachable
	}
	if r.Src.IsValid() && !t.isLocal(r.NS, r.Src) {
		return fmt.Errorf("source %s: %w", r.Src, ErrMissing)
	}
	return put(t.routes, v, r)
}

func (t *tables) hasIPv4(ns plan.NetNS, link string) bool {
	for _, a := range t.addrs {
		if a.NS == ns && a.Link == link && a.Prefix.Addr().Is4() {
			return true
		}
	}
	return false
}

// forgetSource is what IPv6 does with the routes that prefer an address that goes.
func (t *tables) forgetSource(a plan.Addr) {
	for key, r := range t.routes {
		if r.NS == a.NS && r.Src == a.Prefix.Addr() {
			r.Src = netip.Addr{}
			t.routes[key] = r
		}
	}
}

// reaches reports whether the next hop is on the link, by an address or a route.
func (t *tables) reaches(r plan.Route) bool {
	for _, a := range t.addrs {
		if a.NS == r.NS && a.Link == r.Link && a.Prefix.Masked().Contains(r.Via) {
			return true
		}
	}
	for _, x := range t.routes {
		if x.NS == r.NS && x.Link == r.Link && !x.Via.IsValid() && x.Dst.Contains(r.Via) {
			return true
		}
	}
	return false
}

func (t *tables) isLocal(ns plan.NetNS, ip netip.Addr) bool {
	for _, a := range t.addrs {
		if a.NS == ns && a.Prefix.Addr() == ip {
			return true
		}
	}
	return false
}

// remove takes an object away with all that goes with it.
func (k *Kernel) remove(o plan.Object) error {
	t := &k.state
	missing := false
	switch o := o.(type) {
	case plan.Namespace:
		missing = !t.namespaces[o.Name]
		t.removeNS(o.Name)
	case plan.Link:
		l, ok := t.links[o.Key()]
		missing = !ok
		if ok {
			t.removeLink(l)
		}
	case plan.Addr:
		missing = !take(t.addrs, o)
		if o.Prefix.Addr().Is4() {
			last := !t.hasIPv4(o.NS, o.Link)
			drop(t.routes, func(r plan.Route) bool {
				return r.NS == o.NS && (r.Src == o.Prefix.Addr() || last && r.Link == o.Link && r.Dst.Addr().Is4())
			})
			drop(t.neighs, func(n plan.Neigh) bool { return last && n.NS == o.NS && n.Link == o.Link && n.IP.Is4() })
		} else {
			t.forgetSource(o)
		}
	case plan.Route:
		missing = !take(t.routes, o)
	case plan.PolicyRule:
		missing = !take(t.policies, o)
	case plan.Neigh:
		missing = !take(t.neighs, o)
	case plan.FDBEntry:
		missing = !take(t.fdb, o)
	case plan.Shaper:
		missing = !take(t.shapers, o)
	case plan.Redirect:
		missing = !take(t.redirects, o)
	case plan.MemberLink:
		missing = !take(t.joined, o)
	case plan.Tunnel:
		missing = !take(t.tunnels, o)
		drop(t.remotes, func(r plan.TunnelPeer) bool { return r.Link == o.Link })
	case plan.TunnelPeer:
		missing = !take(t.remotes, o)
	case plan.NameZone, plan.NameMember, plan.NameServer:
		missing = !t.forgetName(o)
	case plan.FastCounter, plan.FastPort, plan.FastEndpoint, plan.FastPeer, plan.FastTunnel, plan.FastProgram:
		missing = !t.forgetFast(o)
	case plan.PortReservation:
		missing = !take(t.ports, o)
	case plan.Set:
		missing = !take(t.nft.sets, o)
		drop(t.nft.elements, func(e plan.Element) bool { return e.Family == o.Family && e.Set == o.Name })
	case plan.Chain:
		missing = !take(t.nft.chains, o)
	case plan.Element:
		missing = !take(t.nft.elements, o)
	case plan.ForwardAccept:
		missing = !take(t.accepts, o)
	case plan.Sysctl:
	}
	if missing && k.Strict {
		return ErrMissing
	}
	return nil
}

func take[T plan.Object](m map[string]T, o T) bool {
	_, ok := m[o.Key()]
	delete(m, o.Key())
	return ok
}

func (t *tables) removeNS(ns plan.NetNS) {
	for _, l := range t.links {
		if l.NS == ns || l.Kind == plan.Veth && l.Peer.NS == ns {
			t.removeLink(l)
		}
	}
	delete(t.namespaces, ns)
	delete(t.loopbacks, ns)
	drop(t.addrs, func(a plan.Addr) bool { return a.NS == ns })
	drop(t.routes, func(r plan.Route) bool { return r.NS == ns })
	drop(t.policies, func(r plan.PolicyRule) bool { return r.NS == ns })
	drop(t.neighs, func(n plan.Neigh) bool { return n.NS == ns })
	drop(t.sysctls, func(s plan.Sysctl) bool { return s.NS == ns })
}

func (t *tables) removeLink(l plan.Link) {
	delete(t.links, l.Key())
	if l.Kind == plan.TUN && l.NS == "" {
		delete(t.tunnels, l.Name)
		drop(t.remotes, func(r plan.TunnelPeer) bool { return r.Link == l.Name })
	}
	t.orphanFast(l)
	t.removeEnd(l.NS, l.Name)
	if l.Kind == plan.Veth {
		t.removeEnd(l.Peer.NS, l.Peer.Name)
	}
	for key, p := range t.links {
		if p.NS == l.NS && p.Master == l.Name {
			p.Master, p.Port = "", plan.BridgePort{}
			t.links[key] = p
			t.leave(p.NS, p.Name)
		}
	}
}

func (t *tables) removeEnd(ns plan.NetNS, name string) {
	drop(t.addrs, func(a plan.Addr) bool { return a.NS == ns && a.Link == name })
	drop(t.routes, func(r plan.Route) bool { return r.NS == ns && r.Link == name })
	drop(t.neighs, func(n plan.Neigh) bool { return n.NS == ns && n.Link == name })
	drop(t.fdb, func(f plan.FDBEntry) bool { return f.NS == ns && f.Link == name })
	drop(t.shapers, func(s plan.Shaper) bool { return ns == "" && s.Link == name })
	drop(t.redirects, func(r plan.Redirect) bool { return ns == "" && r.Link == name })
	drop(t.joined, func(m plan.MemberLink) bool { return ns == "" && m.Bridge == name })
	drop(t.sysctls, func(s plan.Sysctl) bool { return s.NS == ns && s.Link() == name })
}

// check finds what a transaction has left without what it refers to.
func (n nft) check() error {
	for _, e := range n.elements {
		if _, ok := n.sets[(plan.Set{Family: e.Family, Name: e.Set}).Key()]; !ok {
			return fmt.Errorf("set %s: %w", e.Set, ErrMissing)
		}
	}
	for _, c := range n.chains {
		for _, r := range c.Rules {
			if err := n.refers(c.Family, r); err != nil {
				return fmt.Errorf("chain %s: %w", c.Name, err)
			}
		}
	}
	return nil
}

func (n nft) refers(f plan.Family, r plan.Rule) error {
	var sets []string
	for _, m := range r.Match {
		if m.Set != "" {
			sets = append(sets, m.Set)
		}
	}
	switch r.Verdict {
	case plan.VMap, plan.DNAT, plan.SNAT:
		sets = append(sets, r.Target)
	case plan.Jump:
		if _, ok := n.chains[(plan.Chain{Family: f, Name: r.Target}).Key()]; !ok {
			return fmt.Errorf("chain %s: %w", r.Target, ErrMissing)
		}
	}
	for _, s := range sets {
		if _, ok := n.sets[(plan.Set{Family: f, Name: s}).Key()]; !ok {
			return fmt.Errorf("set %s: %w", s, ErrMissing)
		}
	}
	return nil
}
