package plan

import "iter"

// Objects yields every object of the state, type by type.
func (s State) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		_ = each(s.Namespaces, yield) && each(s.Links, yield) && each(s.Addrs, yield) &&
			each(s.Routes, yield) && each(s.Neighs, yield) && each(s.FDB, yield) &&
			each(s.Tunnels, yield) && each(s.Remotes, yield) &&
			each(s.Rules.Sets, yield) && each(s.Rules.Chains, yield) && each(s.Rules.Elements, yield) &&
			each(s.Sysctls, yield) && each(s.Ports, yield) && each(s.Accepts, yield)
	}
}

func each[T Object](objects []T, yield func(Object) bool) bool {
	for _, o := range objects {
		if !yield(o) {
			return false
		}
	}
	return true
}

// Empty tells whether the state has no objects.
func (s State) Empty() bool {
	for range s.Objects() {
		return false
	}
	return true
}

// Union is the state with the objects of all states. Of objects with the same
// type and key the first one counts. It shares no slice with the states.
func Union(states ...State) State {
	var u State
	u.Namespaces = union(states, func(s State) []Namespace { return s.Namespaces })
	u.Links = union(states, func(s State) []Link { return s.Links })
	u.Addrs = union(states, func(s State) []Addr { return s.Addrs })
	u.Routes = union(states, func(s State) []Route { return s.Routes })
	u.Neighs = union(states, func(s State) []Neigh { return s.Neighs })
	u.FDB = union(states, func(s State) []FDBEntry { return s.FDB })
	u.Tunnels = union(states, func(s State) []Tunnel { return s.Tunnels })
	u.Remotes = union(states, func(s State) []Remote { return s.Remotes })
	u.Rules.Chains = union(states, func(s State) []Chain { return s.Rules.Chains })
	u.Rules.Sets = union(states, func(s State) []Set { return s.Rules.Sets })
	u.Rules.Elements = union(states, func(s State) []Element { return s.Rules.Elements })
	u.Sysctls = union(states, func(s State) []Sysctl { return s.Sysctls })
	u.Ports = union(states, func(s State) []PortHold { return s.Ports })
	u.Accepts = union(states, func(s State) []ForeignAccept { return s.Accepts })
	return u
}

// Merge is the union of s and other, where s counts.
func (s State) Merge(other State) State { return Union(s, other) }

func union[T Object](states []State, part func(State) []T) []T {
	n := 0
	for _, s := range states {
		n += len(part(s))
	}
	if n == 0 {
		return nil
	}
	out := make([]T, 0, n)
	seen := make(map[string]bool, n)
	for _, s := range states {
		for _, o := range part(s) {
			if k := o.Key(); !seen[k] {
				seen[k] = true
				out = append(out, o)
			}
		}
	}
	return out
}
