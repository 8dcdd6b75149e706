package server

import (
	"context"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
)

type sandboxesService struct {
	apiv1.UnimplementedSandboxesServer
	sandboxes Sandboxes
}

func (s *sandboxesService) Create(ctx context.Context, r *apiv1.CreateSandboxRequest) (*apiv1.Sandbox, error) {
	networks, err := decodeConnects(r.GetNetworks())
	if err != nil {
		return nil, err
	}
	ports, err := decodePorts(r.GetPorts())
	if err != nil {
		return nil, err
	}
	sb, err := s.sandboxes.CreateSandbox(ctx, cnm.SandboxRequest{ID: r.GetId(), Attach: networks, Ports: ports,
		Labels: r.GetLabels()})
	if err != nil {
		return nil, err
	}
	return encodeSandbox(sb), nil
}

func (s *sandboxesService) Remove(ctx context.Context, r *apiv1.RemoveSandboxRequest) (*apiv1.RemoveSandboxResponse,
	error) {
	if err := s.sandboxes.RemoveSandbox(ctx, r.GetId()); err != nil {
		return nil, err
	}
	return &apiv1.RemoveSandboxResponse{}, nil
}

func (s *sandboxesService) List(ctx context.Context, _ *apiv1.ListSandboxesRequest) (*apiv1.ListSandboxesResponse,
	error) {
	all, err := s.sandboxes.ListSandboxes(ctx)
	if err != nil {
		return nil, err
	}
	return &apiv1.ListSandboxesResponse{Sandboxes: list(all, encodeSandbox)}, nil
}
