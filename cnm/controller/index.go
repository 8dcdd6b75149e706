package controller

import (
	"cmp"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// entry is a record in the index. A pending one is about to be committed: it
// holds names, ports and addresses against others but is not shown to callers.
type entry[T any] struct {
	v        T
	pending  bool
	settling chan struct{} // not nil while the record's removal is being committed; closed after
	owned    bool          // a call is deleting it and will settle it itself
	// a network that is being removed from the cluster: Deleting here, but still as it was in the store
	closing bool
	was     cnm.Phase // while closing: what it is in the store
	silent  bool      // its making was never announced, nor is its removal
}

// leaving reports whether a record in that phase can be removed: by the call
// that deletes it, or by any call when there is no such one.
func (e *entry[T]) leaving(own bool, p cnm.Phase) bool {
	return p == cnm.Deleting && !e.pending && (own || !e.owned)
}

type macKey struct {
	network string
	mac     plan.MAC
}

// index finds records by what callers know of them.
type index struct {
	networks  map[string]*entry[cnm.Network]
	sandboxes map[string]*entry[cnm.Sandbox]
	endpoints map[string]*entry[cnm.Endpoint]
	names     map[string]string                          // network name to ID
	ofSandbox map[string]map[string]*entry[cnm.Endpoint] // by sandbox, then endpoint ID
	ofNetwork map[string]map[string]*entry[cnm.Endpoint] // by network, then endpoint ID
	macs      map[macKey]string                          // to endpoint ID
	short     map[cnm.Key]string                         // kind and short form to ID
	ports     ports
	removed   map[string]bool // cluster networks that this node removed; [Controller.Abandon] ends it
}

func newIndex(dynamic func() (from, to uint16, reserved func(uint16) bool)) *index {
	return &index{
		networks: map[string]*entry[cnm.Network]{}, sandboxes: map[string]*entry[cnm.Sandbox]{},
		endpoints: map[string]*entry[cnm.Endpoint]{},
		names:     map[string]string{}, ofSandbox: map[string]map[string]*entry[cnm.Endpoint]{},
		ofNetwork: map[string]map[string]*entry[cnm.Endpoint]{},
		macs:      map[macKey]string{}, short: map[cnm.Key]string{},
		ports: ports{used: map[portKey][]portUse{}, dynamic: dynamic}, removed: map[string]bool{},
	}
}

// shortKey is the part of an ID that must be unique: what link names hold, or
// for sandboxes, which have no link, the namespace's name.
func shortKey(kind cnm.Kind, id string) cnm.Key {
	n := cnm.LinkLen
	if kind == cnm.KindSandbox {
		n = cnm.ShortLen
	}
	return cnm.Key{Kind: kind, ID: id[:min(n, len(id))]}
}

func (x *index) shortTaken(kind cnm.Kind, id string) bool {
	_, taken := x.short[shortKey(kind, id)]
	return taken
}

func (x *index) putNetwork(n cnm.Network, pending bool) {
	x.networks[n.ID] = &entry[cnm.Network]{v: n, pending: pending}
	x.names[n.Name] = n.ID
	x.short[shortKey(cnm.KindNetwork, n.ID)] = n.ID
}

func (x *index) dropNetwork(id string) {
	if e := x.networks[id]; e != nil {
		delete(x.names, e.v.Name)
		delete(x.networks, id)
		delete(x.short, shortKey(cnm.KindNetwork, id))
	}
}

func (x *index) putSandbox(s cnm.Sandbox, pending bool) {
	x.sandboxes[s.ID] = &entry[cnm.Sandbox]{v: s, pending: pending}
	x.short[shortKey(cnm.KindSandbox, s.ID)] = s.ID
}

func (x *index) dropSandbox(id string) {
	delete(x.sandboxes, id)
	delete(x.short, shortKey(cnm.KindSandbox, id))
}

func (x *index) putEndpoint(e cnm.Endpoint, pending bool) {
	x.dropEndpoint(e.ID)
	ent := &entry[cnm.Endpoint]{v: e, pending: pending}
	x.endpoints[e.ID] = ent
	if e.Attached() {
		putUnder(x.ofSandbox, e.Sandbox, ent)
	}
	putUnder(x.ofNetwork, e.Network, ent)
	x.short[shortKey(cnm.KindEndpoint, e.ID)] = e.ID
	if e.MAC != (plan.MAC{}) {
		x.macs[macKey{e.Network, e.MAC}] = e.ID
	}
	x.ports.add(e.ID, e.Ports...)
}

func (x *index) dropEndpoint(id string) {
	ent := x.endpoints[id]
	if ent == nil {
		return
	}
	e := ent.v
	delete(x.endpoints, id)
	dropUnder(x.ofSandbox, e.Sandbox, id)
	dropUnder(x.ofNetwork, e.Network, id)
	delete(x.short, shortKey(cnm.KindEndpoint, id))
	delete(x.macs, macKey{e.Network, e.MAC})
	x.ports.remove(e.ID, e.Ports...)
}

func putUnder(m map[string]map[string]*entry[cnm.Endpoint], key string, e *entry[cnm.Endpoint]) {
	if m[key] == nil {
		m[key] = map[string]*entry[cnm.Endpoint]{}
	}
	m[key][e.v.ID] = e
}

func dropUnder(m map[string]map[string]*entry[cnm.Endpoint], key, id string) {
	delete(m[key], id)
	if len(m[key]) == 0 {
		delete(m, key)
	}
}

// demote has an endpoint provide its sandbox's default route no more; nil for none.
func (x *index) demote(e *cnm.Endpoint) {
	if e == nil {
		return
	}
	if ent := x.endpoints[e.ID]; ent != nil {
		ent.v.Plain = false
	}
}

// endpointsOf are the endpoints of a sandbox, pending ones too, by index.
func (x *index) endpointsOf(sandbox string) []cnm.Endpoint {
	var out []cnm.Endpoint
	for _, e := range x.ofSandbox[sandbox] {
		out = append(out, e.v)
	}
	slices.SortFunc(out, byIndex)
	return out
}

// endpointsOn are the endpoints on a network, pending ones too.
func (x *index) endpointsOn(network string) []cnm.Endpoint {
	var out []cnm.Endpoint
	for _, e := range x.ofNetwork[network] {
		out = append(out, e.v)
	}
	slices.SortFunc(out, func(a, b cnm.Endpoint) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// title names an endpoint for people: its name, its container or its sandbox.
func (x *index) title(e cnm.Endpoint) string {
	if e.Name != "" {
		return e.Name
	}
	if !e.Attached() {
		return "endpoint " + cnm.Short(e.ID)
	}
	if s := x.sandboxes[e.Sandbox]; s != nil && s.v.Container != "" {
		return "container " + cnm.Short(s.v.Container)
	}
	return "sandbox " + cnm.Short(e.Sandbox)
}

func byIndex(a, b cnm.Endpoint) int { return cmp.Compare(a.Index, b.Index) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// The copies that callers get share nothing with the index.

func copyNetwork(n cnm.Network) cnm.Network {
	n.Pools = slices.Clone(n.Pools)
	for i := range n.Pools {
		n.Pools[i].Aux = maps.Clone(n.Pools[i].Aux)
		n.Pools[i].Blocks = slices.Clone(n.Pools[i].Blocks)
	}
	n.Config = slices.Clone(n.Config)
	for i := range n.Config {
		n.Config[i].Aux = maps.Clone(n.Config[i].Aux)
	}
	if n.Cluster != nil {
		c := *n.Cluster
		c.Subnets = slices.Clone(c.Subnets)
		n.Cluster = &c
	}
	if n.IPAM != nil {
		n.IPAM = &cnm.NetworkIPAM{Driver: n.IPAM.Driver, Options: maps.Clone(n.IPAM.Options)}
	}
	n.Options, n.Labels = maps.Clone(n.Options), maps.Clone(n.Labels)
	n.Revision = 0
	return n
}

func copySandbox(s cnm.Sandbox) cnm.Sandbox {
	s.Labels, s.DNS = maps.Clone(s.Labels), slices.Clone(s.DNS)
	if s.Adopted != nil {
		a := *s.Adopted
		s.Adopted = &a
	}
	s.Revision = 0
	return s
}

func copyEndpoint(e cnm.Endpoint) cnm.Endpoint {
	e.Aliases, e.Addrs, e.Ports = slices.Clone(e.Aliases), slices.Clone(e.Addrs), slices.Clone(e.Ports)
	e.Sysctls = maps.Clone(e.Sysctls)
	e.Outbound, e.Holds = slices.Clone(e.Outbound), slices.Clone(e.Holds)
	e.Serves = slices.Clone(e.Serves)
	e.Revision = 0
	return e
}
