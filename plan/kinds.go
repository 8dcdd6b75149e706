package plan

import "iter"

// kind is how the objects of one type take part in a [State]. To add a type of object, give it a file with the type,
// its methods and its kind, a field of State, and a line in kinds.
type kind struct {
	name  string // as in about
	each  func(s *State, yield func(Object) bool) bool
	unite func(u *State, states []State)
	// compare finds what is to be done about objects that sit on links and are told apart by their attributes
	// alone; absent tells which of those seen do not count. Nil: [Diff] has a part of its own for them.
	compare func(want, have *State, absent func(Object) bool) delta
}

// kinds are all of them, in the order of [State.Objects]. Those with compare are made in this order, after addresses
// and before routes, and removed in the opposite one.
func kinds() [28]kind {
	return [...]kind{
		kindOf("namespace", func(s *State) *[]Namespace { return &s.Namespaces }),
		kindOf("link", func(s *State) *[]Link { return &s.Links }),
		kindOf("addr", func(s *State) *[]Addr { return &s.Addrs }),
		kindOf("route", func(s *State) *[]Route { return &s.Routes }),
		memberKind(),
		policyKind(),
		fdbKind(),
		neighKind(),
		tunnelKind(),
		tunnelPeerKind(),
		shaperKind(),
		redirectKind(),
		nameZoneKind(),
		nameMemberKind(),
		nameServerKind(),
		// Programs come last, when all that they look up is there, and go first.
		tabled("fast-counter", func(s *State) *[]FastCounter { return &s.Fast.Counters }),
		tabled("fast-port", func(s *State) *[]FastPort { return &s.Fast.Ports }),
		tabled("fast-endpoint", func(s *State) *[]FastEndpoint { return &s.Fast.Endpoints }),
		tabled("fast-peer", func(s *State) *[]FastPeer { return &s.Fast.Peers }),
		tabled("fast-tunnel", func(s *State) *[]FastTunnel { return &s.Fast.Tunnels }),
		tabled("fast-program", func(s *State) *[]FastProgram { return &s.Fast.Programs }),
		kindOf("set", func(s *State) *[]Set { return &s.Rules.Sets }),
		kindOf("chain", func(s *State) *[]Chain { return &s.Rules.Chains }),
		kindOf("element", func(s *State) *[]Element { return &s.Rules.Elements }),
		kindOf("sysctl", func(s *State) *[]Sysctl { return &s.Sysctls }),
		kindOf("port", func(s *State) *[]PortReservation { return &s.Ports }),
		kindOf("accept", func(s *State) *[]ForwardAccept { return &s.Accepts }),
		kindOf("leftover", func(s *State) *[]Leftover { return &s.Leftovers }),
	}
}

func kindOf[T Object](name string, field func(*State) *[]T) kind {
	return kind{
		name: name,
		each: func(s *State, yield func(Object) bool) bool {
			for _, o := range *field(s) {
				if !yield(o) {
					return false
				}
			}
			return true
		},
		unite: func(u *State, states []State) {
			*field(u) = union(states, func(s *State) []T { return *field(s) })
		},
	}
}

// plain is a kind of objects whose difference is theirs alone.
func plain[T Object](name string, field func(*State) *[]T, same func(want, have T) bool) kind {
	k := kindOf(name, field)
	k.compare = func(want, have *State, absent func(Object) bool) delta {
		return compare(*field(want), *field(have), same, func(o T) bool { return absent(o) })
	}
	return k
}

// Objects yields every object of the state, type by type.
func (s State) Objects() iter.Seq[Object] {
	return func(yield func(Object) bool) {
		for _, k := range kinds() {
			if !k.each(&s, yield) {
				return
			}
		}
	}
}

// Empty reports whether the state has no objects.
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
	for _, k := range kinds() {
		k.unite(&u, states)
	}
	return u
}

// Merge is the union of s and other, where s counts.
func (s State) Merge(other State) State { return Union(s, other) }

func union[T Object](states []State, part func(*State) []T) []T {
	n := 0
	for i := range states {
		n += len(part(&states[i]))
	}
	if n == 0 {
		return nil
	}
	out := make([]T, 0, n)
	seen := make(map[string]bool, n)
	for i := range states {
		for _, o := range part(&states[i]) {
			if k := o.Key(); !seen[k] {
				seen[k] = true
				out = append(out, o)
			}
		}
	}
	return out
}
