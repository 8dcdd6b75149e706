package dns

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/plan"
)

// Names is what is known of names. Its methods may be called concurrently.
type Names struct {
	mu      sync.RWMutex
	zones   map[string]plan.NameZone
	members map[string]plan.NameMember
	byName  map[place][]string // keys of members, by zone and name
	byAddr  map[at][]string
	inNS    map[plan.NetNS][]string // keys of members that ask from there
	views   map[plan.NetNS][]string // zones that a sandbox is on, the first one first
	owned   map[string]int          // how many members of whichever zone have a name without a dot
	lately  *recent
}

type place struct{ zone, name string }

type at struct {
	zone string
	addr netip.Addr
}

// NewNames knows nothing yet.
func NewNames() *Names {
	return &Names{zones: map[string]plan.NameZone{}, members: map[string]plan.NameMember{},
		byName: map[place][]string{}, byAddr: map[at][]string{}, views: map[plan.NetNS][]string{},
		inNS:  map[plan.NetNS][]string{},
		owned: map[string]int{}, lately: newRecent(maxLately)}
}

// Apply adds or replaces zones and members and takes others away, by their keys, all at once.
func (n *Names) Apply(put, gone []plan.Object) {
	n.mu.Lock()
	defer n.mu.Unlock()
	moved := map[plan.NetNS]bool{}
	for _, o := range gone {
		switch o := o.(type) {
		case plan.NameZone:
			delete(n.zones, o.Key())
		case plan.NameMember:
			n.forget(o.Key(), moved)
		}
	}
	for _, o := range put {
		switch o := o.(type) {
		case plan.NameZone:
			n.zones[o.Key()] = o
		case plan.NameMember:
			n.forget(o.Key(), moved)
			n.add(o, moved)
		}
	}
	for ns := range moved {
		n.lookAround(ns)
	}
}

func (n *Names) add(m plan.NameMember, moved map[plan.NetNS]bool) {
	key := m.Key()
	n.members[key] = m
	for _, name := range m.Names {
		p := place{m.Zone, name}
		n.byName[p] = append(n.byName[p], key)
		n.owned[name]++
	}
	for _, a := range m.Addrs {
		p := at{m.Zone, a}
		n.byAddr[p] = append(n.byAddr[p], key)
	}
	if m.NS != "" {
		n.inNS[m.NS] = append(n.inNS[m.NS], key)
		moved[m.NS] = true
	}
}

func (n *Names) forget(key string, moved map[plan.NetNS]bool) {
	m, ok := n.members[key]
	if !ok {
		return
	}
	delete(n.members, key)
	for _, name := range m.Names {
		without(n.byName, place{m.Zone, name}, key)
		if n.owned[name]--; n.owned[name] <= 0 {
			delete(n.owned, name)
			n.lately.add(name)
		}
	}
	for _, a := range m.Addrs {
		without(n.byAddr, at{m.Zone, a}, key)
	}
	if m.NS != "" {
		without(n.inNS, m.NS, key)
		moved[m.NS] = true
	}
}

func without[K comparable](all map[K][]string, k K, key string) {
	rest := slices.DeleteFunc(slices.Clone(all[k]), func(s string) bool { return s == key })
	if all[k] = rest; len(rest) == 0 {
		delete(all, k)
	}
}

// lookAround finds which zones a sandbox is on.
func (n *Names) lookAround(ns plan.NetNS) {
	var on []plan.NameMember
	for _, key := range n.inNS[ns] {
		on = append(on, n.members[key])
	}
	if len(on) == 0 {
		delete(n.views, ns)
		return
	}
	slices.SortFunc(on, func(a, b plan.NameMember) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.Key(), b.Key()))
	})
	var zones []string
	for _, m := range on {
		if !slices.Contains(zones, m.Zone) {
			zones = append(zones, m.Zone)
		}
	}
	n.views[ns] = zones
}

// List returns all there is.
func (n *Names) List() ([]plan.NameZone, []plan.NameMember) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	zones := make([]plan.NameZone, 0, len(n.zones))
	for _, z := range n.zones {
		zones = append(zones, z)
	}
	members := make([]plan.NameMember, 0, len(n.members))
	for _, m := range n.members {
		members = append(members, m)
	}
	return zones, members
}

// maxLately bounds how many names that have gone are remembered.
const maxLately = 1 << 14

// recent remembers the last names that were added.
type recent struct {
	when map[string]int
	ring []string
	next int
}

func newRecent(n int) *recent { return &recent{when: map[string]int{}, ring: make([]string, n)} }

func (r *recent) add(name string) {
	i := r.next % len(r.ring)
	if old := r.ring[i]; r.when[old] == r.next-len(r.ring) {
		delete(r.when, old)
	}
	r.ring[i] = strings.Clone(name)
	r.when[r.ring[i]] = r.next
	r.next++
}

func (r *recent) has(name string) bool {
	_, ok := r.when[name]
	return ok
}
