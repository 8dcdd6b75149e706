package fake

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/plan"
)

// What operations fail with, as the kernel's errors of the same meaning.
var (
	ErrExists      = errors.New("it exists already")
	ErrMissing     = errors.New("no such object")
	ErrUnreachable = errors.New("the gateway is unreachable")
	ErrDown        = errors.New("the link is down")
)

// Kernel is network state in memory. The zero value is not usable; see [New].
// The exported fields are set before use.
type Kernel struct {
	MTU      int              // what EgressMTU answers
	Way      host.Uplink      // what Uplink answers
	Prefixes []netip.Prefix   // what HostPrefixes answers
	Dynamic  []kern.PortRange // what DynamicPorts answers
	// Strict makes the removal of what is not there an error. The real kernel
	// lets it pass; a good plan does without.
	Strict bool

	mu      sync.Mutex
	state   tables
	taken   []plan.PortReservation // by others
	applied []plan.Op
	purged  []plan.ConntrackFlush
	failOn  func(plan.Op) error
	drift   chan struct{}
	changed chan struct{}
}

// tables hold the objects by their keys.
type tables struct {
	namespaces map[plan.NetNS]bool
	loopbacks  map[plan.NetNS]plan.Link
	links      map[string]plan.Link
	addrs      map[string]plan.Addr
	routes     map[string]plan.Route
	policies   map[string]plan.PolicyRule
	neighs     map[string]plan.Neigh
	fdb        map[string]plan.FDBEntry
	shapers    map[string]plan.Shaper
	redirects  map[string]plan.Redirect
	joined     map[string]plan.MemberLink // the links are taken to be there
	tunnels    map[string]plan.Tunnel
	remotes    map[string]plan.TunnelPeer
	zones      map[string]plan.NameZone
	members    map[string]plan.NameMember
	servers    map[string]plan.NameServer
	sysctls    map[string]plan.Sysctl
	ports      map[string]plan.PortReservation
	accepts    map[string]plan.ForwardAccept
	nft        nft
	fast       map[string]plan.Object // by kind and key
}

// nft is what one transaction changes.
type nft struct {
	sets     map[string]plan.Set
	chains   map[string]plan.Chain
	elements map[string]plan.Element
}

func (n nft) clone() nft {
	return nft{sets: maps.Clone(n.sets), chains: maps.Clone(n.chains), elements: maps.Clone(n.elements)}
}

// New makes an empty kernel: the fabric's namespace with its loopback.
func New() *Kernel {
	return &Kernel{
		MTU:     1500,
		Dynamic: []kern.PortRange{{From: 61000, To: 65535}},
		state: tables{
			namespaces: map[plan.NetNS]bool{},
			loopbacks:  map[plan.NetNS]plan.Link{"": loopback("")},
			links:      map[string]plan.Link{},
			addrs:      map[string]plan.Addr{},
			routes:     map[string]plan.Route{},
			policies:   map[string]plan.PolicyRule{},
			neighs:     map[string]plan.Neigh{},
			fdb:        map[string]plan.FDBEntry{},
			shapers:    map[string]plan.Shaper{},
			redirects:  map[string]plan.Redirect{},
			joined:     map[string]plan.MemberLink{},
			tunnels:    map[string]plan.Tunnel{},
			remotes:    map[string]plan.TunnelPeer{},
			zones:      map[string]plan.NameZone{},
			members:    map[string]plan.NameMember{},
			servers:    map[string]plan.NameServer{},
			sysctls:    map[string]plan.Sysctl{},
			ports:      map[string]plan.PortReservation{},
			accepts:    map[string]plan.ForwardAccept{},
			fast:       map[string]plan.Object{},
			nft: nft{sets: map[string]plan.Set{}, chains: map[string]plan.Chain{},
				elements: map[string]plan.Element{}},
		},
		drift:   make(chan struct{}, 1),
		changed: make(chan struct{}, 1),
	}
}

func loopback(ns plan.NetNS) plan.Link {
	return plan.Link{NS: ns, Name: "lo", Kind: plan.Loopback, MTU: 65536, Up: true}
}

// Observe returns all there is, sorted. Sysctls that were never set are 0.
func (k *Kernel) Observe(ctx context.Context, sysctls []plan.Sysctl) (plan.State, error) {
	if err := ctx.Err(); err != nil {
		return plan.State{}, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.snapshot()
	s.Sysctls = nil
	for _, want := range sysctls {
		if !k.state.hasNS(want.NS) || want.Link() != "" && !k.state.hasLink(want.NS, want.Link()) {
			continue
		}
		if have, ok := k.state.sysctls[want.Key()]; ok {
			want.Value = have.Value
		} else {
			want.Value = "0"
		}
		s.Sysctls = append(s.Sysctls, want)
	}
	return s, nil
}

func (k *Kernel) snapshot() plan.State {
	t := &k.state
	var s plan.State
	for _, ns := range slices.Sorted(maps.Keys(t.namespaces)) {
		s.Namespaces = append(s.Namespaces, plan.Namespace{Name: ns})
	}
	for _, ns := range slices.Sorted(maps.Keys(t.loopbacks)) {
		s.Links = append(s.Links, t.loopbacks[ns])
	}
	s.Links = append(s.Links, sorted(t.links)...)
	s.Addrs, s.Routes, s.Neighs, s.FDB = sorted(t.addrs), sorted(t.routes), sorted(t.neighs), sorted(t.fdb)
	s.Policies, s.Shapers, s.Redirects = sorted(t.policies), sorted(t.shapers), sorted(t.redirects)
	s.Members = sorted(t.joined)
	s.Tunnels, s.TunnelPeers = sorted(t.tunnels), sorted(t.remotes)
	s.NameZones, s.NameMembers, s.NameServers = sorted(t.zones), sorted(t.members), sorted(t.servers)
	s.Sysctls, s.Ports, s.Accepts = sorted(t.sysctls), sorted(t.ports), sorted(t.accepts)
	s.Fast = t.fastPath()
	s.Rules = plan.Ruleset{Sets: sorted(t.nft.sets), Chains: sorted(t.nft.chains), Elements: sorted(t.nft.elements)}
	return s
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[key])
	}
	return out
}

// Apply carries out the operations in their order, those on nftables objects that
// follow each other as one transaction, and stops at the first that fails with a
// *[plan.OpError].
func (k *Kernel) Apply(ctx context.Context, ops []plan.Op) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := 0; i < len(ops); {
		if err := ctx.Err(); err != nil {
			return &plan.OpError{Op: ops[i], Err: err}
		}
		n := 1
		if isRule(ops[i]) {
			for i+n < len(ops) && isRule(ops[i+n]) {
				n++
			}
		}
		if err := k.transact(ops[i : i+n]); err != nil {
			return err
		}
		k.applied = append(k.applied, ops[i:i+n]...)
		i += n
	}
	return nil
}

func isRule(op plan.Op) bool {
	switch op.Object.(type) {
	case plan.Set, plan.Chain, plan.Element:
		return true
	}
	return false
}

// transact carries out all of ops or none.
func (k *Kernel) transact(ops []plan.Op) error {
	var before nft
	if isRule(ops[0]) {
		before = k.state.nft.clone()
	}
	for _, op := range ops {
		err := error(nil)
		if k.failOn != nil {
			err = k.failOn(op)
		}
		if err == nil {
			err = k.apply(op)
		}
		if err != nil {
			if isRule(op) {
				k.state.nft = before
			}
			return &plan.OpError{Op: op, Err: err}
		}
	}
	if isRule(ops[0]) {
		if err := k.state.nft.check(); err != nil {
			k.state.nft = before
			return &plan.OpError{Op: ops[len(ops)-1], Err: err}
		}
	}
	return nil
}

// FailOn asks f before every operation and fails it with the error f returns;
// nil f ends it.
func (k *Kernel) FailOn(f func(plan.Op) error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failOn = f
}

// FailAt fails the nth operation from now, counted from 0, with err, and no other.
func (k *Kernel) FailAt(n int, err error) {
	k.FailOn(func(plan.Op) error {
		n--
		if n == -1 {
			return err
		}
		return nil
	})
}

// TakePort binds a port for somebody else, so that a hold of it fails. It returns
// how to release it.
func (k *Kernel) TakePort(p plan.PortReservation) (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.taken = append(k.taken, p)
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if i := slices.Index(k.taken, p); i >= 0 {
			k.taken = slices.Delete(k.taken, i, i+1)
		}
	}
}

// Restart does what the end of the process does: held ports are released, and
// tunnels end. The rest stays.
func (k *Kernel) Restart() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.state.ports)
	clear(k.state.tunnels)
	clear(k.state.remotes)
}

// Ops returns every operation carried out so far.
func (k *Kernel) Ops() []plan.Op {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.applied)
}

// Purged returns every selection of flows forgotten so far.
func (k *Kernel) Purged() []plan.ConntrackFlush {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.purged)
}

// Dump is the whole state, one object a line, in the order of [plan.State.Objects].
// Loopback links are left out.
func (k *Kernel) Dump() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var b strings.Builder
	for o := range k.snapshot().Objects() {
		if l, ok := o.(plan.Link); ok && l.Kind == plan.Loopback {
			continue
		}
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// Drift returns the channel that [Kernel.Wake] wakes.
func (k *Kernel) Drift(context.Context) (<-chan struct{}, error) { return k.drift, nil }

// HostChanged returns the channel that [Kernel.WakeHost] wakes.
func (k *Kernel) HostChanged(context.Context) (<-chan struct{}, error) { return k.changed, nil }

// Wake reports drift.
func (k *Kernel) Wake() { wake(k.drift) }

// WakeHost reports a change of the host's routes.
func (k *Kernel) WakeHost() { wake(k.changed) }

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// EgressMTU answers with the field MTU.
func (k *Kernel) EgressMTU(context.Context) (int, error) { return k.MTU, nil }

// Uplink answers with the field Way, whatever is asked for.
func (k *Kernel) Uplink(context.Context, host.UplinkConfig) (host.Uplink, error) { return k.Way, nil }

// HostPrefixes answers with the field Prefixes.
func (k *Kernel) HostPrefixes(context.Context) ([]netip.Prefix, error) { return k.Prefixes, nil }

// DynamicPorts answers with the field Dynamic.
func (k *Kernel) DynamicPorts() ([]kern.PortRange, error) { return k.Dynamic, nil }

// NetNSPath is a path that nothing is at.
func (k *Kernel) NetNSPath(ns plan.NetNS) string { return "/fake/netns/" + string(ns) }

// Close does nothing.
func (k *Kernel) Close() error { return nil }
