package kern

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"

	"github.com/vethloom/vethloom/internal/plan"
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
	}
	ns, name := plan.LinkOf(op.Object)
	index, err := s.lookup(ns, name)
	if op.Verb == plan.Delete && errors.Is(err, os.ErrNotExist) {
		return nil // it went with its link
	}
	if err != nil {
		return err
	}
	r, err := onLink(op, index)
	if err != nil {
		return err
	}
	return s.send(ns, r)
}

// onLink is the request for an address, neighbour or forwarding entry.
func onLink(op plan.Op, index uint32) (request, error) {
	switch o := op.Object.(type) {
	case plan.Addr:
		switch op.Verb {
		case plan.Create:
			return newAddr(o.Prefix, index), nil
		case plan.Delete:
			return delAddr(o.Prefix, index), nil
		}
	case plan.Neigh:
		switch op.Verb {
		case plan.Create, plan.Modify:
			return newNeigh(o, index), nil
		case plan.Delete:
			return delNeigh(o, index), nil
		}
	case plan.FDBEntry:
		switch op.Verb {
		case plan.Create, plan.Modify:
			return newFDB(o, index), nil
		case plan.Delete:
			return delFDB(o, index), nil
		}
	}
	return request{}, badVerb(op)
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
	var req request
	var err error
	switch op.Verb {
	case plan.Create, plan.Modify:
		req, err = newRoute(r, index, op.Verb == plan.Modify)
	case plan.Delete:
		req, err = delRoute(r, index)
	default:
		err = badVerb(op)
	}
	if err != nil {
		return err
	}
	return s.send(r.NS, req)
}

// createLink makes a link in one message, and marks it and brings it up in the
// next. That one is only sent when the first succeeded: it would
// otherwise mark a stranger's link of that name as ours.
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
	if l.Kind == plan.TUN {
		return s.createTUN(l)
	}
	var master uint32
	if l.Master != "" {
		var err error
		if master, err = s.lookup(l.NS, l.Master); err != nil {
			return err
		}
	}
	peerNS := -1
	if l.Kind == plan.Veth && l.Peer.NS != l.NS {
		var err error
		if peerNS, err = s.fd(l.Peer.NS); err != nil {
			return err
		}
	}
	if err := s.send(l.NS, newLink(l, master, peerNS)); err != nil {
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
	return s.send(l.Peer.NS, s.farEnd(l, plan.MAC{})...)
}

// firstEnd marks a link that was just made and brings it up. One that has a carrier
// from the start takes two steps, as the kernel would make link-local addresses if it came up first.
func (s *session) firstEnd(l plan.Link) []request {
	mark := func(a *builder) {
		s.k.markLink(a, l.Scope, "", l.MTU)
		switch l.Kind {
		case plan.Bridge:
			a.u32(unix.IFLA_MTU, uint32(bridgeMTU(l)))
		case plan.TUN:
			identity(a, plan.MAC{}, l.MTU)
		}
		if l.Master != "" {
			portFlags(a, l.Port)
		}
	}
	if !hasCarrier(l.Kind) {
		return []request{changeLink(l.Name, upFlag(l.Up), unix.IFF_UP, mark)}
	}
	return []request{changeLink(l.Name, 0, 0, mark), changeLink(l.Name, upFlag(l.Up), unix.IFF_UP, nil)}
}

func hasCarrier(k plan.LinkKind) bool { return k == plan.VXLAN || k == plan.TUN }

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
	var drop []request
	ask := s.confirm(name, &drop)
	if _, err := c.batch([]request{ask}); err != nil {
		return err
	}
	_, err = c.batch(drop)
	return err
}

// confirm asks for a link and adds its removal to drop when it is ours.
func (s *session) confirm(name string, drop *[]request) request {
	op := s.next
	ask := getLink(name, func(b []byte) error {
		found, err := parseLink(b)
		if err != nil {
			return err
		}
		if _, _, ours := found.owner(); ours {
			*drop = append(*drop, request{kind: unix.RTM_DELLINK, op: op,
				data: linkMsg(found.index, 0, 0).b, settled: []unix.Errno{unix.ENODEV}})
		}
		return nil
	})
	ask.op, ask.settled = op, []unix.Errno{unix.ENODEV}
	return ask
}

// farEnd marks the second end of a veth pair and brings it up, in two steps: the kernel
// would make link-local addresses if it came up first.
func (s *session) farEnd(l plan.Link, mac plan.MAC) []request {
	return []request{
		changeLink(l.Peer.Name, 0, 0, func(a *builder) {
			s.k.markLink(a, l.Scope, peerMark, l.MTU)
			identity(a, mac, l.MTU)
		}),
		changeLink(l.Peer.Name, upFlag(l.Up), unix.IFF_UP, nil),
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
	if err := checkLinkName(l.Name); err != nil {
		return err
	}
	switch l.Kind {
	case plan.Bridge:
		return nil
	case plan.Veth:
		return checkLinkName(l.Peer.Name)
	case plan.VXLAN:
		return checkVXLAN(l.VXLAN)
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
		return s.send(l.NS, changeLink(l.Name, upFlag(l.Up), unix.IFF_UP, func(a *builder) {
			if l.MTU != 0 {
				a.u32(unix.IFLA_MTU, uint32(l.MTU))
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
	near := []request{changeLink(l.Name, 0, 0, func(a *builder) {
		s.k.markLink(a, l.Scope, "", l.MTU)
		identity(a, changed(l.MAC, old.MAC), l.MTU)
		if l.Master != old.Master || l.Master != "" {
			a.u32(unix.IFLA_MASTER, master)
		}
	}), changeLink(l.Name, upFlag(l.Up), unix.IFF_UP, nil)}
	if l.Master != "" {
		// The flags are those of a port, so it has to be one first.
		near = append(near, changeLink(l.Name, 0, 0, func(a *builder) { portFlags(a, l.Port) }))
	}
	if err := s.send(l.NS, near...); err != nil {
		return err
	}
	if l.Kind != plan.Veth {
		return nil
	}
	return s.send(l.Peer.NS, s.farEnd(l, changed(l.Peer.MAC, old.Peer.MAC))...)
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
	var ask, drop []request
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
		ask = append(ask, s.confirm(l.Name, &drop))
	}
	c, err := s.conn(ns)
	if errors.Is(err, os.ErrNotExist) {
		return nil // they went with their namespace
	}
	if err != nil {
		return s.fail(first, err)
	}
	if i, err := c.batch(ask); err != nil {
		return s.fail(ask[i].op, err)
	}
	if len(drop) > 1 {
		drop = grouped(drop, dropGroup+s.k.drops.Add(1)%0xffff)
	}
	if i, err := c.batch(drop); err != nil {
		return s.fail(drop[i].op, err)
	}
	return nil
}

// dropGroup is the first of the groups that links are put in to be removed together.
const dropGroup = ownedGroup + 1

// grouped turns removals into one of a group that the links are put in.
func grouped(drop []request, group uint32) []request {
	out := make([]request, 0, len(drop)+1)
	for _, d := range drop {
		a := builder{b: d.data}
		a.u32(unix.IFLA_GROUP, group)
		out = append(out, request{kind: unix.RTM_NEWLINK, op: d.op, data: a.b, settled: d.settled})
	}
	a := linkMsg(0, 0, 0)
	a.u32(unix.IFLA_GROUP, group)
	return append(out, request{kind: unix.RTM_DELLINK, op: drop[0].op, data: a.b, settled: []unix.Errno{unix.ENODEV}})
}

// forget drops the indexes of a link that goes.
func (s *session) forget(l plan.Link) {
	delete(s.index, end{l.NS, l.Name})
	delete(s.index, end{l.Peer.NS, l.Peer.Name})
}
