package clustertest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/plan"
	"github.com/vethloom/vethloom/internal/reconcile"
)

// source renders networks, endpoints and peers of a store as netd does.
type source struct {
	store   cnm.Store
	drivers map[string]cnm.Driver
	host    cnm.Host
	decoded cnm.Network // the last one, as netd keeps it
}

// fabricScope owns what all networks share.
const fabricScope plan.Scope = "fabric"

func fabric() plan.State { return bridge.Fabric(bridge.FabricConfig{NoIPv6: true}) }

// All implements [reconcile.Source].
func (s *source) All(ctx context.Context) (map[plan.Scope]reconcile.Want, error) {
	networks, err := cnm.ListNetworks(ctx, s.store)
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
	out := make(map[plan.Scope]reconcile.Want, 1+len(networks)+len(endpoints)+len(peers))
	out[fabricScope] = reconcile.Want{State: fabric()}
	byID := map[string]cnm.Network{}
	for _, n := range networks {
		byID[n.ID] = n
		st, err := s.drivers[n.Driver].RenderNetwork(n, s.host)
		out[cnm.NetworkScope(n.ID)] = reconcile.Want{State: st, Err: err}
	}
	for _, e := range endpoints {
		st, err := s.endpoint(byID[e.Network], e)
		out[cnm.EndpointScope(e.ID)] = reconcile.Want{State: st, Err: err}
	}
	for _, p := range peers {
		if n, ok := byID[p.Network]; ok {
			st, err := s.peer(n, p)
			out[cnm.PeerScope(p.ID)] = reconcile.Want{State: st, Err: err}
		}
	}
	return out, nil
}

// Render implements [reconcile.Source].
func (s *source) Render(ctx context.Context, scope plan.Scope) (plan.State, error) {
	if id, ok := strings.CutPrefix(string(scope), string(cnm.PeerScope(""))); ok {
		r, err := s.store.Get(ctx, cnm.Key{Kind: cnm.KindPeer, ID: id})
		if err != nil {
			return plan.State{}, absent(err)
		}
		p, err := cnm.PeerOf(r)
		if err != nil {
			return plan.State{}, err
		}
		n, err := s.network(ctx, p.Network)
		if err != nil {
			return plan.State{}, absent(err)
		}
		return s.peer(n, p)
	}
	if scope == fabricScope {
		return fabric(), nil
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
		if err != nil || n.Phase == cnm.Deleting {
			return plan.State{}, err
		}
		return s.drivers[n.Driver].RenderNetwork(n, s.host)
	case cnm.KindEndpoint:
		e, err := cnm.EndpointOf(records[0])
		if err != nil || e.Phase == cnm.Deleting {
			return plan.State{}, err
		}
		n, err := s.network(ctx, e.Network)
		if err != nil {
			return plan.State{}, err
		}
		return s.endpoint(n, e)
	}
	return plan.State{}, nil
}

func (s *source) network(ctx context.Context, id string) (cnm.Network, error) {
	r, err := s.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: id})
	if err != nil {
		return cnm.Network{}, err
	}
	if s.decoded.ID == id && s.decoded.Revision == r.Revision {
		return s.decoded, nil
	}
	n, err := cnm.NetworkOf(r)
	if err == nil {
		s.decoded = n
	}
	return n, err
}

func (s *source) peer(n cnm.Network, p cnm.Peer) (plan.State, error) {
	d, ok := s.drivers[n.Driver].(cnm.PeerDriver)
	if !ok || n.Phase == cnm.Deleting || n.Cluster == nil || n.Cluster.Gone {
		return plan.State{}, nil
	}
	return d.RenderPeer(n, p, s.host)
}

func (s *source) endpoint(n cnm.Network, e cnm.Endpoint) (plan.State, error) {
	d, ok := s.drivers[n.Driver]
	if !ok || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	return d.RenderEndpoint(n, e, s.host)
}

// absent makes nothing of a record that is not there.
func absent(err error) error {
	if errors.Is(err, cnm.ErrNotFound) {
		return nil
	}
	return err
}
