package kern

import (
	"fmt"
	"maps"
	"net/netip"

	"github.com/mdlayher/netlink"
	"github.com/vethloom/vethloom/internal/kern/rtnetlink"
	"github.com/vethloom/vethloom/plan"
	"golang.org/x/sys/unix"
)

// entries are the neighbours, forwarding entries, queues and redirections of the fabric's links: part of the shadow.
type entries struct {
	neighs map[string]map[netip.Addr]plan.MAC // by link
	fdb    map[string]map[hop]netip.Addr      // by link; the value is the destination
	// queues and redirections, by link and kind; the value is what they do
	traffic map[string]map[string]plan.Object
}

// hop tells forwarding entries of a link apart: by the hardware address and by whose they are, and a device's own of
// the zero address by the destination.
type hop struct {
	mac    plan.MAC
	dst    netip.Addr
	master bool // the bridge's
}

func hopOf(mac plan.MAC, dst netip.Addr) hop {
	h := hop{mac: mac, dst: dst, master: !dst.IsValid()}
	if mac != (plan.MAC{}) {
		h.dst = netip.Addr{}
	}
	return h
}

func (e *entries) reset() {
	e.neighs, e.fdb = map[string]map[netip.Addr]plan.MAC{}, map[string]map[hop]netip.Addr{}
	e.traffic = map[string]map[string]plan.Object{}
}

func (e *entries) put(o plan.Object) {
	switch o := o.(type) {
	case plan.Neigh:
		set(e.neighs, o.Link, o.IP, o.MAC)
	case plan.FDBEntry:
		set(e.fdb, o.Link, hopOf(o.MAC, o.Dst), o.Dst)
	case plan.Shaper:
		o.Burst = 0 // as the kernel counts it, it is not quite what was asked for
		set[string, plan.Object](e.traffic, o.Link, "shaper", o)
	case plan.Redirect:
		set[string, plan.Object](e.traffic, o.Link, "redirect", o)
	}
}

func set[K comparable, V any](all map[string]map[K]V, link string, k K, v V) {
	m := all[link]
	if m == nil {
		m = map[K]V{}
		all[link] = m
	}
	m[k] = v
}

func (e *entries) remove(o plan.Object) {
	switch o := o.(type) {
	case plan.Neigh:
		delete(e.neighs[o.Link], o.IP)
	case plan.FDBEntry:
		delete(e.fdb[o.Link], hopOf(o.MAC, o.Dst))
	case plan.Shaper:
		delete(e.traffic[o.Link], "shaper")
	case plan.Redirect:
		delete(e.traffic[o.Link], "redirect")
	}
}

func (e *entries) removeLink(name string) {
	delete(e.neighs, name)
	delete(e.fdb, name)
	delete(e.traffic, name)
}

// equal reports whether two sets are the same, whatever empty parts they have.
func (e *entries) equal(o *entries) bool {
	return same(e.neighs, o.neighs) && same(e.fdb, o.fdb) && same(e.traffic, o.traffic)
}

func same[K, V comparable](a, b map[string]map[K]V) bool {
	for link := range b {
		if len(a[link]) == 0 && len(b[link]) > 0 {
			return false
		}
	}
	for link, m := range a {
		if !maps.Equal(m, b[link]) {
			return false
		}
	}
	return true
}

// entryEvent is the last word about a neighbour or forwarding entry.
type entryEvent struct {
	rtnetlink.Neighbour
	bridge bool // a forwarding entry
	gone   bool
}

// entryKey tells events about the same entry.
type entryKey struct {
	index  uint32
	bridge bool
	ip     netip.Addr // of a neighbour
	hop    hop        // of a forwarding entry
}

func (e entryEvent) key() entryKey {
	if e.bridge {
		return entryKey{index: e.Index, bridge: true, hop: hopOf(e.MAC, e.IP)}
	}
	return entryKey{index: e.Index, ip: e.IP}
}

// parseEntry reports whether a notification may be about an entry of ours. Most are not:
// they are about what the host's links have learned.
func parseEntry(m netlink.Message) (entryEvent, bool) {
	kind := uint16(m.Header.Type)
	if kind != unix.RTM_NEWNEIGH && kind != unix.RTM_DELNEIGH || len(m.Data) < unix.SizeofNdMsg {
		return entryEvent{}, false
	}
	bridge := m.Data[0] == unix.AF_BRIDGE
	n, err := rtnetlink.ParseNeigh(m.Data)
	if err != nil || !bridge && (!n.IP.IsValid() || n.Proto != plan.Protocol) {
		return entryEvent{}, false
	}
	if bridge && m.Data[10]&unix.NTF_SELF == 0 {
		n.IP = netip.Addr{} // it is the bridge's, whatever it says
	} else if bridge && !n.IP.IsValid() {
		return entryEvent{}, false
	}
	return entryEvent{Neighbour: n, bridge: bridge, gone: kind == unix.RTM_DELNEIGH}, true
}

// entryDrifted compares the last word about an entry with the shadow.
func (s *shadow) entryDrifted(e entryEvent, link string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.bridge {
		dst, known := s.entries.fdb[link][hopOf(e.MAC, e.IP)]
		stays := e.Static || e.Permanent && e.IP.IsValid()
		if !known {
			l, ours := s.links[link]
			return !e.gone && stays && ours && (e.Static || l.Kind == plan.VXLAN)
		}
		return e.gone || !stays || dst != e.IP
	}
	mac, known := s.entries.neighs[link][e.IP]
	if !known {
		return !e.gone && e.Permanent && link != "" // a link that we do not know of yet tells itself
	}
	return e.gone || !e.Permanent || mac != e.MAC
}

// maxEntryEvents bounds the entries noted one by one. After more of them, or when some were lost,
// a look at all of them costs less.
const maxEntryEvents = 2048

func (w *watcher) addEntry(e entryEvent) {
	w.mu.Lock()
	if !w.recount {
		w.entries[e.key()] = e
		w.recount = len(w.entries) > maxEntryEvents
	}
	w.mu.Unlock()
	w.nudge()
}

// lostEntries is told of notifications about entries that nobody read in time. They
// are no sign of drift: our own changes are many at a time.
func (w *watcher) lostEntries() {
	w.mu.Lock()
	w.recount = true
	w.mu.Unlock()
	w.nudge()
}

// entriesDrifted judges the entries that came in, or all there are.
func (w *watcher) entriesDrifted(events map[entryKey]entryEvent, recount bool) bool {
	if recount {
		return w.compareEntries()
	}
	for _, e := range events {
		if w.k.shadow.entryDrifted(e, w.links[e.Index].Name) {
			return true
		}
	}
	return false
}

// compareEntries reads all entries and compares them with the shadow. When something was
// applied meanwhile it is done again later.
func (w *watcher) compareEntries() bool {
	epoch := w.k.shadow.look()
	have, err := w.readEntries()
	if err != nil {
		w.k.log.Warn("neighbours and forwarding entries could not be read after many have changed", "error", err)
		return true
	}
	s := &w.k.shadow
	s.mu.Lock()
	again := s.active > 0 || s.epoch != epoch
	equal := s.entries.equal(have)
	s.mu.Unlock()
	if again {
		w.lostEntries()
		return false
	}
	return !equal
}

func (w *watcher) readEntries() (*entries, error) {
	v, err := w.k.observeNS("")
	if err != nil {
		return nil, fmt.Errorf("read the entries: %w", err)
	}
	owned := map[*rtnetlink.Link]bool{}
	for _, l := range v.links {
		_, _, owned[l] = l.Owner()
	}
	var s plan.State
	v.addrs, v.routes = nil, nil
	v.collect(&s, owned, nil)
	have := &entries{}
	have.reset()
	for o := range s.Objects() {
		have.put(o)
	}
	return have, nil
}

// listenEntries has room for many notifications: entries come by the ten thousand.
func (k *Kernel) listenEntries() (*netlink.Conn, error) {
	return listen(k.fd(), unix.NETLINK_ROUTE, 4*k.buffer, unix.RTNLGRP_NEIGH, unix.RTNLGRP_TC)
}
