package kern

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vethloom/vethloom/internal/kern/attr"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// enqueue queues one operation on a link or on what sits on one.
func (s *session) enqueue(op plan.Op) error {
	switch o := op.Object.(type) {
	case plan.Link:
		switch op.Verb {
		case plan.Create:
			return s.createLink(o)
		case plan.Modify:
			old, _ := op.Old.(plan.Link)
			return s.modifyLink(o, old)
		}
		return badVerb(op)
	case plan.Route:
		return s.route(op, o)
	case plan.PolicyRule:
		return s.policy(op, o)
	}
	ns, name := plan.LinkOf(op.Object)
	index, err := s.lookup(ns, name)
	if op.Verb == plan.Delete && errors.Is(err, os.ErrNotExist) {
		return nil // it went with its link
	}
	if err != nil {
		return err
	}
	if o, ok := op.Object.(plan.Redirect); ok {
		return s.redirect(op, o, index)
	}
	if o, ok := op.Object.(plan.MemberLink); ok {
		return member(s, op, o, index)
	}
	r, err := onLink(op, index)
	if err != nil {
		return err
	}
	if err := s.send(ns, r); err != nil {
		return err
	}
	if a, ok := op.Object.(plan.Addr); ok && op.Verb == plan.Create && ns == "" && !a.Prefix.IsSingleIP() {
		return s.send(ns, rtnetlink.NewDirect(a.Prefix, index))
	}
	return nil
}

// onLink is the request for an address, neighbour, forwarding entry or queue.
func onLink(op plan.Op, index uint32) (rtnetlink.Request, error) {
	switch o := op.Object.(type) {
	case plan.Addr:
		switch op.Verb {
		case plan.Create:
			return rtnetlink.NewAddr(o.Prefix, index), nil
		case plan.Delete:
			return rtnetlink.DelAddr(o.Prefix, index), nil
		}
	case plan.Neigh:
		switch op.Verb {
		case plan.Create, plan.Modify:
			return rtnetlink.NewNeigh(o, index), nil
		case plan.Delete:
			return rtnetlink.DelNeigh(o, index), nil
		}
	case plan.FDBEntry:
		switch op.Verb {
		case plan.Create, plan.Modify:
			return rtnetlink.NewFDB(o, index), nil
		case plan.Delete:
			return rtnetlink.DelFDB(o, index), nil
		}
	case plan.Shaper:
		switch op.Verb {
		case plan.Create, plan.Modify:
			return rtnetlink.NewShaper(o, index), nil
		case plan.Delete:
			return rtnetlink.DelShaper(index), nil
		}
	}
	return rtnetlink.Request{}, badVerb(op)
}

func (s *session) route(op plan.Op, r plan.Route) error {
	var index uint32
	if r.Link != "" && r.Type != plan.Blackhole {
		var err error
		index, err = s.lookup(r.NS, r.Link)
		if op.Verb == plan.Delete && errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	if err := s.clearWay(op, r); err != nil {
		return err
	}
	var req rtnetlink.Request
	var err error
	switch op.Verb {
	case plan.Create, plan.Modify:
		req, err = rtnetlink.NewRoute(r, index, op.Verb == plan.Modify)
	case plan.Delete:
		req, err = rtnetlink.DelRoute(r, index)
	default:
		err = badVerb(op)
	}
	if err != nil {
		return err
	}
	return s.send(r.NS, req)
}

func (s *session) policy(op plan.Op, r plan.PolicyRule) error {
	switch op.Verb {
	case plan.Create:
		return s.send(r.NS, rtnetlink.NewPolicy(r))
	case plan.Delete:
		return s.send(r.NS, rtnetlink.DelPolicy(r))
	}
	return badVerb(op)
}

// clearWay removes a route whose next hop is to be another one, where it cannot be replaced: the kernel looks an IPv6
// next hop up by the routes there are, and finds the old one.
func (s *session) clearWay(op plan.Op, r plan.Route) error {
	old, ok := op.Old.(plan.Route)
	if !ok || op.Verb != plan.Modify || r.Dst.Addr().Is4() || old.Link == r.Link && old.Via == r.Via {
		return nil
	}
	var index uint32
	if old.Link != "" && old.Type != plan.Blackhole {
		var err error
		switch index, err = s.lookup(old.NS, old.Link); {
		case errors.Is(err, os.ErrNotExist):
			return nil // it went with its link
		case err != nil:
			return err
		}
	}
	req, err := rtnetlink.DelRoute(old, index)
	if err != nil {
		return err
	}
	return s.send(old.NS, req)
}

// createLink makes a link in one message, and marks it and brings it up in the
// next. That one is only sent when the first succeeded: it would
// otherwise mark somebody else's link of that name as ours.
func (s *session) createLink(l plan.Link) error {
	if err := checkLink(l); err != nil {
		return err
	}
	if l.NS == "" && s.k.shadow.claim(l.Name) {
		if err := s.evict(l.Name); err != nil {
			return err
		}
	}
	if l.Kind == plan.Bridge && l.MAC == (plan.MAC{}) {
		// A bridge takes its lowest port's address until it is given one, so
		// it would change, and lose its neighbours, with every port.
		l.MAC = randomMAC()
	}
	switch l.Kind {
	case plan.TUN:
		return s.createTUN(l)
	case plan.Given:
		return s.takeLink(l)
	}
	var master uint32
	if l.Master != "" {
		var err error
		if master, err = s.lookup(l.NS, l.Master); err != nil {
			return err
		}
	}
	lower, err := s.lower(l)
	if err != nil {
		return err
	}
	from, ns := l.NS, -1
	switch {
	case l.Kind == plan.Veth && l.Peer.NS != l.NS:
		ns, err = s.fd(l.Peer.NS)
	case lower != 0 && l.NS != "": // asked for where the lower link is
		from = ""
		ns, err = s.fd(l.NS)
	}
	if err != nil {
		return err
	}
	if err := s.send(from, rtnetlink.NewLink(l, master, lower, ns)); err != nil {
		return err
	}
	if err := s.flush(); err != nil {
		return err
	}
	if err := s.send(l.NS, s.firstEnd(l)...); err != nil {
		return err
	}
	if l.Kind != plan.Veth {
		return s.send(l.NS, s.learn(end{l.NS, l.Name}))
	}
	if err := s.send(l.Peer.NS, s.farEnd(l, plan.MAC{})...); err != nil {
		return err
	}
	return segments(s, l, l.GSO != 0)
}

// segments sets how much TCP hands to both ends of a pair at once, where it is not what they have.
func segments(s *session, l plan.Link, differs bool) error {
	if !differs {
		return nil
	}
	err := s.send(l.NS, rtnetlink.SetGSO(l.Name, l.GSO))
	if err == nil && !l.Peer.Loose {
		err = s.send(l.Peer.NS, rtnetlink.SetGSO(l.Peer.Name, l.GSO))
	}
	return err
}

// lower is the index of the link that another one sits on, 0 for none.
func (s *session) lower(l plan.Link) (uint32, error) {
	if !l.Kind.OnLower() {
		return 0, nil
	}
	index, err := s.lookup("", l.Lower.Link)
	if errors.Is(err, os.ErrNotExist) {
		return 0, &plan.NoLinkError{Link: l.Lower.Link, Err: err}
	}
	return index, err
}

// firstEnd marks a link that was just made and brings it up. One that has a carrier
// from the start takes two steps, as the kernel would make link-local addresses if it came up first.
func (s *session) firstEnd(l plan.Link) []rtnetlink.Request {
	mark := func(a *attr.Builder) {
		rtnetlink.MarkLink(a, l.Owner, "", s.ipv6(l))
		switch l.Kind {
		case plan.Bridge:
			a.U32(unix.IFLA_MTU, uint32(rtnetlink.BridgeMTU(l)))
		case plan.TUN:
			rtnetlink.Identity(a, plan.MAC{}, l.MTU)
		}
		if l.Master != "" {
			rtnetlink.PortFlags(a, l.Port)
		}
	}
	if !hasCarrier(l.Kind) {
		return []rtnetlink.Request{rtnetlink.ChangeLink(l.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP, mark)}
	}
	return []rtnetlink.Request{rtnetlink.ChangeLink(l.Name, 0, 0, mark),
		rtnetlink.ChangeLink(l.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP, nil)}
}

func hasCarrier(k plan.LinkKind) bool {
	return k == plan.VXLAN || k == plan.TUN || k == plan.IFB || k.OnLower()
}

// evict removes a link of ours in the fabric's namespace that would go by itself
// soon, with the namespace of its far end, but whose name is wanted now.
func (s *session) evict(name string) error {
	if err := s.flush(); err != nil {
		return err
	}
	c, err := s.conn("")
	if err != nil {
		return err
	}
	var drop []rtnetlink.Request
	ask := s.confirm(name, &drop)
	if _, err := c.Batch([]rtnetlink.Request{ask}); err != nil {
		return err
	}
	_, err = c.Batch(drop)
	return err
}

// confirm asks for a link and adds its removal to drop when it is ours.
func (s *session) confirm(name string, drop *[]rtnetlink.Request) rtnetlink.Request {
	op := s.next
	ask := rtnetlink.GetLink(name, func(b []byte) error {
		found, err := rtnetlink.ParseLink(b)
		if err != nil {
			return err
		}
		if _, _, ours := found.Owner(); ours {
			*drop = append(*drop, rtnetlink.Request{Kind: unix.RTM_DELLINK, Op: op,
				Data: rtnetlink.LinkMsg(found.Index, 0, 0).B, Settled: []unix.Errno{unix.ENODEV}})
		}
		return nil
	})
	ask.Op, ask.Settled = op, []unix.Errno{unix.ENODEV}
	return ask
}

// farEnd marks the second end of a veth pair and brings it up, in two steps: the kernel
// would make link-local addresses if it came up first.
func (s *session) farEnd(l plan.Link, mac plan.MAC) []rtnetlink.Request {
	return []rtnetlink.Request{
		rtnetlink.ChangeLink(l.Peer.Name, 0, 0, func(a *attr.Builder) {
			rtnetlink.MarkLink(a, l.Owner, rtnetlink.PeerMark, s.ipv6(l))
			rtnetlink.Identity(a, mac, l.MTU)
		}),
		rtnetlink.ChangeLink(l.Peer.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP, nil),
		s.learn(end{l.Peer.NS, l.Peer.Name}),
	}
}

// randomMAC is a locally administered unicast address.
func randomMAC() plan.MAC {
	var m plan.MAC
	rand.Read(m[:]) // never fails
	m[0] = m[0]&^1 | 2
	return m
}

func checkLink(l plan.Link) error {
	if err := rtnetlink.CheckLinkName(l.Name); err != nil {
		return err
	}
	switch l.Kind {
	case plan.Bridge, plan.IFB:
		return nil
	case plan.Veth:
		return rtnetlink.CheckLinkName(l.Peer.Name)
	case plan.VXLAN:
		return rtnetlink.CheckVXLAN(l.VXLAN)
	case plan.VLAN, plan.Macvlan, plan.IPvlan:
		return rtnetlink.CheckLower(l)
	case plan.Given:
		return checkGiven(l)
	case plan.TUN:
		if l.Master != "" || l.MAC != (plan.MAC{}) {
			return errors.New("a TUN link carries no frames: it has no hardware address and is no port of a bridge")
		}
		return nil
	}
	return fmt.Errorf("link kind %q: %w", l.Kind, plan.ErrUnsupported)
}

// modifyLink sets what differs. The far end of a pair gets all it should
// have, since an observation does not say which part of it is amiss.
func (s *session) modifyLink(l, old plan.Link) error {
	if l.Kind == plan.Loopback {
		return s.send(l.NS, rtnetlink.ChangeLink(l.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP,
			func(a *attr.Builder) {
				if l.MTU != 0 {
					a.U32(unix.IFLA_MTU, uint32(l.MTU))
				}
			}))
	}
	var master uint32
	if l.Master != "" {
		var err error
		if master, err = s.lookup(l.NS, l.Master); err != nil {
			return err
		}
	}
	near := append(s.resize(l.Name, l, old), rtnetlink.ChangeLink(l.Name, 0, 0, func(a *attr.Builder) {
		// The MTU of a link that somebody else has made is not ours to say.
		rtnetlink.MarkLink(a, l.Owner, givenMark(l), s.ipv6(l) && (l.Kind != plan.Given || s.ipv6(old)))
		rtnetlink.Identity(a, changed(l.MAC, old.MAC), l.MTU)
		if l.Master != old.Master || l.Master != "" {
			a.U32(unix.IFLA_MASTER, master)
		}
	}), rtnetlink.ChangeLink(l.Name, rtnetlink.UpFlag(l.Up), unix.IFF_UP, nil))
	if err := s.send(l.NS, append(near, bridging(l, old)...)...); err != nil {
		return err
	}
	if l.Kind != plan.Veth {
		return nil
	}
	if err := segments(s, l, old.GSO != 0 && old.GSO != max(l.GSO, plan.PlainGSO)); err != nil || l.Peer.Loose {
		return err
	}
	far := append(s.resize(l.Peer.Name, l, old), s.farEnd(l, changed(l.Peer.MAC, old.Peer.MAC))...)
	return s.send(l.Peer.NS, far...)
}

// bridging sets what a link is as a bridge, or as a port: one it has to be before it gets a port's flags.
func bridging(l, old plan.Link) (out []rtnetlink.Request) {
	if l.Kind == plan.Bridge && l.Querier != old.Querier {
		out = append(out, rtnetlink.ChangeBridge(l))
	}
	if l.Master != "" {
		out = append(out, rtnetlink.ChangeLink(l.Name, 0, 0,
			func(a *attr.Builder) { rtnetlink.PortFlags(a, l.Port) }))
	}
	return out
}

// resize is the MTU before anything else, where it may have been too small for IPv6: the kernel takes no attributes of
// a family that a link does not have (EAFNOSUPPORT).
func (s *session) resize(name string, l, old plan.Link) []rtnetlink.Request {
	if l.MTU == 0 || l.MTU == old.MTU || !s.ipv6(l) {
		return nil
	}
	return []rtnetlink.Request{
		rtnetlink.ChangeLink(name, 0, 0, func(a *attr.Builder) { a.U32(unix.IFLA_MTU, uint32(l.MTU)) }),
	}
}

// changed is the address to set; setting the one that is there would still flush neighbours.
func changed(mac, old plan.MAC) plan.MAC {
	if mac == old {
		return plan.MAC{}
	}
	return mac
}

// deleteLinks removes the links of consecutive operations in one namespace.
// Each removal waits for a grace period, so several go by one message, as
// a group. Links that have no mark, or no more, are left alone.
func (s *session) deleteLinks() error {
	if err := s.flush(); err != nil {
		return err
	}
	first := s.next
	ns := s.ops[first].NS()
	var ask, drop []rtnetlink.Request
	var names []string
	for ; s.next < len(s.ops); s.next++ {
		op := s.ops[s.next]
		l, ok := op.Object.(plan.Link)
		if !ok || op.Verb != plan.Delete || l.NS != ns {
			break
		}
		s.forget(l)
		if err := s.closeTunnel(l); err != nil {
			return s.fail(s.next, err)
		}
		ask, names = append(ask, s.confirm(l.Name, &drop)), append(names, l.Name)
	}
	c, err := s.conn(ns)
	if errors.Is(err, os.ErrNotExist) {
		return nil // they went with their namespace
	}
	if err != nil {
		return s.fail(first, err)
	}
	if i, err := c.Batch(ask); err != nil {
		return s.fail(ask[i].Op, err)
	}
	if len(drop) > 1 {
		drop = grouped(drop, dropGroup+s.k.drops.Add(1)%0xffff)
	}
	if i, err := s.k.remove(ns, c, drop, names); err != nil {
		return s.fail(drop[i].Op, err)
	}
	return nil
}

// remove removes links and returns once nobody sees them any more. The kernel answers later: it waits until nobody can
// hold a reference, for some 15 ms.
func (k *Kernel) remove(ns plan.NetNS, c *rtnetlink.Conn, drop []rtnetlink.Request, names []string) (int, error) {
	if len(drop) == 0 {
		return 0, nil
	}
	own, err := k.borrowNS(ns)
	if err != nil {
		return 0, err
	}
	type answer struct {
		at  int
		err error
	}
	answered := make(chan answer, 1)
	k.tasks.Go(func() {
		at, err := own.Batch(drop)
		k.giveBackNS(ns, own)
		answered <- answer{at, err}
	})
	look := time.NewTicker(dropLook)
	defer look.Stop()
	for {
		select {
		case a := <-answered:
			return a.at, a.err
		case <-look.C:
		}
		if gone(c, names) {
			return 0, nil
		}
	}
}

// dropLook is how often is looked whether links are gone.
const dropLook = 300 * time.Microsecond

// gone reports whether there is no link of these names. While a link is being taken away the kernel does not answer.
func gone(c *rtnetlink.Conn, names []string) bool {
	left := false
	var ask []rtnetlink.Request
	for _, name := range names {
		r := rtnetlink.GetLink(name, func([]byte) error { left = true; return nil })
		r.Settled = []unix.Errno{unix.ENODEV}
		ask = append(ask, r)
	}
	_, err := c.Batch(ask)
	return err == nil && !left
}

// dropGroup is the first of the groups that links are put in to be removed together.
const dropGroup = rtnetlink.OwnedGroup + 1

// grouped turns removals into one of a group that the links are put in.
func grouped(drop []rtnetlink.Request, group uint32) []rtnetlink.Request {
	out := make([]rtnetlink.Request, 0, len(drop)+1)
	for _, d := range drop {
		a := attr.Builder{B: d.Data}
		a.U32(unix.IFLA_GROUP, group)
		out = append(out, rtnetlink.Request{Kind: unix.RTM_NEWLINK, Op: d.Op, Data: a.B, Settled: d.Settled})
	}
	a := rtnetlink.LinkMsg(0, 0, 0)
	a.U32(unix.IFLA_GROUP, group)
	return append(out, rtnetlink.Request{Kind: unix.RTM_DELLINK, Op: drop[0].Op, Data: a.B,
		Settled: []unix.Errno{unix.ENODEV}})
}

// forget drops the indexes of a link that goes.
func (s *session) forget(l plan.Link) {
	delete(s.index, end{l.NS, l.Name})
	delete(s.index, end{l.Peer.NS, l.Peer.Name})
}

// ipv6 reports whether the kernel gives a link IPv6 at all.
func (s *session) ipv6(l plan.Link) bool {
	return s.k.ipv6 && (l.MTU == 0 || l.MTU >= rtnetlink.MinIPv6MTU)
}
