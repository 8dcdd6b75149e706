package server

import (
	"context"
	"slices"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
)

type networksService struct {
	apiv1.UnimplementedNetworksServer
	networks Networks
}

func (s *networksService) Create(ctx context.Context, r *apiv1.CreateNetworkRequest) (*apiv1.Network, error) {
	req, err := decodeNetworkRequest(r)
	if err != nil {
		return nil, err
	}
	n, err := s.networks.CreateNetwork(ctx, req)
	if err != nil {
		return nil, err
	}
	return encodeNetwork(n), nil
}

func (s *networksService) List(ctx context.Context, r *apiv1.ListNetworksRequest) (*apiv1.ListNetworksResponse, error) {
	wanted, err := MatchNetworks(r.GetFilters())
	if err != nil {
		return nil, err
	}
	all, err := s.networks.ListNetworks(ctx)
	if err != nil {
		return nil, err
	}
	out := &apiv1.ListNetworksResponse{}
	for _, n := range all {
		if wanted(n) {
			out.Networks = append(out.Networks, encodeNetwork(n))
		}
	}
	return out, nil
}

func (s *networksService) Inspect(ctx context.Context, r *apiv1.InspectNetworkRequest) (*apiv1.Network, error) {
	n, err := s.networks.InspectNetwork(ctx, r.GetNetwork())
	if err != nil {
		return nil, err
	}
	return encodeNetwork(n), nil
}

func (s *networksService) Update(ctx context.Context, r *apiv1.UpdateNetworkRequest) (*apiv1.Network, error) {
	n, err := s.networks.UpdateNetwork(ctx, r.GetNetwork(), cnm.NetworkChange{
		Options: r.GetOptions(), RemoveOptions: r.GetRemoveOptions(), Labels: r.GetLabels(),
		RemoveLabels: r.GetRemoveLabels(), Internal: r.Internal,
	})
	if err != nil {
		return nil, err
	}
	return encodeNetwork(n), nil
}

func (s *networksService) Remove(ctx context.Context, r *apiv1.RemoveNetworkRequest) (*apiv1.RemoveNetworkResponse,
	error) {
	id, err := s.networks.RemoveNetwork(ctx, r.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &apiv1.RemoveNetworkResponse{Id: id}, nil
}

func (s *networksService) Leave(ctx context.Context, r *apiv1.LeaveNetworkRequest) (*apiv1.LeaveNetworkResponse,
	error) {
	id, err := s.networks.LeaveNetwork(ctx, r.GetNetwork(), r.GetForce())
	if err != nil {
		return nil, err
	}
	return &apiv1.LeaveNetworkResponse{Id: id}, nil
}

func (s *networksService) Join(ctx context.Context, r *apiv1.JoinNetworkRequest) (*apiv1.JoinNetworkResponse, error) {
	id, err := s.networks.JoinNetwork(ctx, r.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &apiv1.JoinNetworkResponse{Id: id}, nil
}

// Prune removes the networks nobody is on. One that somebody joins meanwhile,
// or that goes meanwhile, is no error.
func (s *networksService) Prune(ctx context.Context, r *apiv1.PruneNetworksRequest) (*apiv1.PruneNetworksResponse,
	error) {
	due, err := MatchPruned(r.GetFilters())
	if err != nil {
		return nil, err
	}
	names, err := s.networks.PruneNetworks(ctx, func(n cnm.Network) bool { return due(n.Created, n.Labels) })
	slices.Sort(names)
	return &apiv1.PruneNetworksResponse{Names: names}, err
}

func (s *networksService) Connect(ctx context.Context, r *apiv1.ConnectRequest) (*apiv1.Endpoint, error) {
	req, err := decodeConnect(r)
	if err != nil {
		return nil, err
	}
	e, err := s.networks.Connect(ctx, r.GetContainer(), req)
	if err != nil {
		return nil, err
	}
	return encodeEndpoint(e), nil
}

func (s *networksService) Disconnect(ctx context.Context, r *apiv1.DisconnectRequest) (*apiv1.DisconnectResponse,
	error) {
	if err := s.networks.Disconnect(ctx, r.GetNetwork(), r.GetContainer(), r.GetForce()); err != nil {
		return nil, err
	}
	return &apiv1.DisconnectResponse{}, nil
}

func (s *networksService) Endpoints(ctx context.Context, r *apiv1.ListEndpointsRequest) (*apiv1.ListEndpointsResponse,
	error) {
	all, err := s.networks.ListEndpoints(ctx, r.GetNetwork())
	if err != nil {
		return nil, err
	}
	return &apiv1.ListEndpointsResponse{Endpoints: list(all, encodeEndpoint)}, nil
}
