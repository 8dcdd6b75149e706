package fake

import (
	"maps"
	"slices"

	"github.com/vethloom/vethloom/plan"
)

func fastKey(o plan.Object) string { return plan.KindOf(o) + " " + o.Key() }

// fastEntry adds or replaces what the fast path has. What names a link needs it.
func (t *tables) fastEntry(v plan.Verb, o plan.Object) error {
	if _, link := plan.LinkOf(o); link != "" && !t.hasLink("", link) {
		return ErrMissing
	}
	if _, ok := t.fast[fastKey(o)]; ok && v == plan.Create {
		return ErrExists
	}
	t.fast[fastKey(o)] = o
	return nil
}

func (t *tables) forgetFast(o plan.Object) bool {
	_, ok := t.fast[fastKey(o)]
	delete(t.fast, fastKey(o))
	return ok
}

// orphanFast has entries stay when their link goes.
func (t *tables) orphanFast(l plan.Link) {
	for key, o := range t.fast {
		switch o := o.(type) {
		case plan.FastEndpoint:
			if o.Link == l.Name && l.NS == "" {
				o.Link = "#" + l.Name
				t.fast[key] = o
			}
		case plan.FastProgram:
			if o.Link == l.Name && l.NS == "" {
				delete(t.fast, key)
				o.Link, o.Stale = "#"+l.Name, true
				t.fast[fastKey(o)] = o
			}
		}
	}
}

func (t *tables) fastPath() (f plan.Fast) {
	for _, key := range slices.Sorted(maps.Keys(t.fast)) {
		switch o := t.fast[key].(type) {
		case plan.FastCounter:
			f.Counters = append(f.Counters, o)
		case plan.FastPort:
			f.Ports = append(f.Ports, o)
		case plan.FastEndpoint:
			f.Endpoints = append(f.Endpoints, o)
		case plan.FastPeer:
			f.Peers = append(f.Peers, o)
		case plan.FastTunnel:
			f.Tunnels = append(f.Tunnels, o)
		case plan.FastProgram:
			f.Programs = append(f.Programs, o)
		}
	}
	return f
}
