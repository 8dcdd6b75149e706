package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/plan"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// fabricScope owns what all networks share.
const fabricScope plan.Scope = "fabric"

// source renders the records of a store. It holds nothing of them but the network
// decoded last, and the facts about the host that renders depend on.
type source struct {
	store   cnm.Store
	drivers map[string]cnm.Driver
	facts   atomic.Pointer[facts]
	decoded atomic.Pointer[cnm.Network] // the last network of a peer
	learn   func(context.Context) error // renews the facts
	log     *slog.Logger
}

// facts is what renders depend on besides the records.
type facts struct {
	host   cnm.Host
	fabric plan.State
}

// All renders every record, with what the host is like now.
func (s *source) All(ctx context.Context) (map[plan.Scope]reconcile.Want, error) {
	if err := s.learn(ctx); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "could not look at the host; going by what was known", "err", err)
	}
	networks, err := cnm.ListNetworks(ctx, s.store)
	if err != nil {
		return nil, err
	}
	sandboxes, err := cnm.ListSandboxes(ctx, s.store)
	if err != nil {
		return nil, err
	}
	endpoints, err := cnm.ListEndpoints(ctx, s.store)
	if err != nil {
		return nil, err
	}
	peers, err := cnm.ListPeers(ctx, s.store)
	if err != nil {
		return nil, err
	}
	out := map[plan.Scope]reconcile.Want{}
	outer := outerPorts{}
	add := func(scope plan.Scope, st plan.State, err error) {
		out[scope] = reconcile.Want{State: st, Err: err}
	}
	byID := make(map[string]cnm.Network, len(networks))
	for _, n := range networks {
		byID[n.ID] = n
		st, err := s.network(n)
		outer.of(st)
		add(cnm.NetworkScope(n.ID), st, err)
	}
	add(fabricScope, s.fabric(outer), nil)
	for _, b := range sandboxes {
		add(cnm.SandboxScope(b.ID), sandboxState(b), nil)
	}
	for _, e := range endpoints {
		n, ok := byID[e.Network]
		if !ok && e.Phase != cnm.Deleting {
			add(cnm.EndpointScope(e.ID), plan.State{}, fmt.Errorf("endpoint %s: no network %s", cnm.Short(e.ID), cnm.Short(e.Network)))
			continue
		}
		st, err := s.endpoint(n, e)
		add(cnm.EndpointScope(e.ID), st, err)
	}
	for _, p := range peers {
		if n, ok := byID[p.Network]; ok {
			st, err := s.peer(n, p)
			add(cnm.PeerScope(p.ID), st, err)
		}
	}
	return out, nil
}

// Render renders one record.
func (s *source) Render(ctx context.Context, scope plan.Scope) (plan.State, error) {
	if scope == fabricScope {
		return s.renderFabric(ctx)
	}
	if id, ok := strings.CutPrefix(string(scope), string(cnm.PeerScope(""))); ok {
		return s.peerByID(ctx, id)
	}
	kind, short, ok := cnm.ParseScope(scope)
	if !ok {
		return plan.State{}, fmt.Errorf("scope %q belongs to no kind of record", scope)
	}
	records, err := s.store.Find(ctx, kind, short)
	if err != nil || len(records) == 0 {
		return plan.State{}, err
	}
	switch kind {
	case cnm.KindNetwork:
		n, err := cnm.NetworkOf(records[0])
		if err != nil {
			return plan.State{}, err
		}
		return s.network(n)
	case cnm.KindSandbox:
		b, err := cnm.SandboxOf(records[0])
		return sandboxState(b), err
	default:
		e, err := cnm.EndpointOf(records[0])
		if err != nil {
			return plan.State{}, err
		}
		return s.endpointByID(ctx, e)
	}
}

// renderFabric renders what networks share, and that is the ports of their tunnels too.
func (s *source) renderFabric(ctx context.Context) (plan.State, error) {
	networks, err := cnm.ListNetworks(ctx, s.store)
	if err != nil {
		return plan.State{}, err
	}
	outer := outerPorts{}
	for _, n := range networks {
		if n.Cluster == nil {
			continue // without other nodes it has no tunnel
		}
		if st, err := s.network(n); err == nil { // its own scope says why not
			outer.of(st)
		}
	}
	return s.fabric(outer), nil
}

func (s *source) fabric(outer outerPorts) plan.State {
	st := s.facts.Load().fabric
	st.Rules.Elements = bridge.OuterPorts(fabricScope, slices.Sorted(maps.Keys(outer)))
	return st
}

// outerPorts are the UDP ports that tunnels receive on.
type outerPorts map[uint16]bool

// of adds those of a network.
func (o outerPorts) of(network plan.State) {
	for _, l := range network.Links {
		if l.Kind == plan.VXLAN {
			o[l.VXLAN.Port] = true
		}
	}
	for _, t := range network.Tunnels {
		o[t.Port] = true
	}
}

func (s *source) endpointByID(ctx context.Context, e cnm.Endpoint) (plan.State, error) {
	if e.Phase == cnm.Deleting {
		return plan.State{}, nil // its network may be gone
	}
	r, err := s.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: e.Network})
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, fmt.Errorf("endpoint %s: no network %s", cnm.Short(e.ID), cnm.Short(e.Network))
	}
	if err != nil {
		return plan.State{}, err
	}
	n, err := cnm.NetworkOf(r)
	if err != nil {
		return plan.State{}, err
	}
	return s.endpoint(n, e)
}

// peerByID renders the way to a peer: none without its record or its network's.
func (s *source) peerByID(ctx context.Context, id string) (plan.State, error) {
	r, err := s.store.Get(ctx, cnm.Key{Kind: cnm.KindPeer, ID: id})
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, nil
	}
	if err != nil {
		return plan.State{}, err
	}
	p, err := cnm.PeerOf(r)
	if err != nil {
		return plan.State{}, err
	}
	n, err := s.networkOfPeers(ctx, p.Network)
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, nil
	}
	if err != nil {
		return plan.State{}, err
	}
	return s.peer(n, p)
}

// networkOfPeers reads a network. As thousands of peers may be of one, it is decoded once for each of its revisions.
func (s *source) networkOfPeers(ctx context.Context, id string) (cnm.Network, error) {
	r, err := s.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: id})
	if err != nil {
		return cnm.Network{}, err
	}
	if last := s.decoded.Load(); last != nil && last.ID == id && last.Revision == r.Revision {
		return *last, nil
	}
	n, err := cnm.NetworkOf(r)
	if err == nil {
		s.decoded.Store(&n)
	}
	return n, err
}

func (s *source) peer(n cnm.Network, p cnm.Peer) (plan.State, error) {
	d, err := s.driver(n)
	if err != nil || n.Phase == cnm.Deleting || n.Cluster == nil || n.Cluster.Gone {
		return plan.State{}, err
	}
	pd, ok := d.(cnm.PeerDriver)
	if !ok {
		return plan.State{}, nil
	}
	return pd.RenderPeer(n, p, s.facts.Load().host)
}

func (s *source) network(n cnm.Network) (plan.State, error) {
	d, err := s.driver(n)
	if err != nil || n.Phase == cnm.Deleting {
		return plan.State{}, err
	}
	return d.RenderNetwork(n, s.facts.Load().host)
}

func (s *source) endpoint(n cnm.Network, e cnm.Endpoint) (plan.State, error) {
	if e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	d, err := s.driver(n)
	if err != nil {
		return plan.State{}, err
	}
	return d.RenderEndpoint(n, e, s.facts.Load().host)
}

func (s *source) driver(n cnm.Network) (cnm.Driver, error) {
	d, ok := s.drivers[n.Driver]
	if !ok {
		return nil, fmt.Errorf("network %s: this netd has no driver %q", n.Name, n.Driver)
	}
	return d, nil
}

// sandboxState is the namespace of a sandbox that has one of its own.
func sandboxState(b cnm.Sandbox) plan.State {
	if b.Host || b.Phase == cnm.Deleting {
		return plan.State{}
	}
	return plan.State{Namespaces: []plan.Namespace{{Name: b.NetNS}}}
}
