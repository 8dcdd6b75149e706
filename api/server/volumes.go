package server

import (
	"context"
	"slices"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/engine/volume"
)

type volumesService struct {
	apiv1.UnimplementedVolumesServer
	volumes Volumes
}

func (s *volumesService) Create(ctx context.Context, r *apiv1.CreateVolumeRequest) (*apiv1.Volume, error) {
	v, err := s.volumes.CreateVolume(ctx, volume.Request{Name: r.GetName(), Driver: r.GetDriver(),
		Options: r.GetOptions(), Labels: r.GetLabels()})
	if err != nil {
		return nil, err
	}
	return encodeVolume(v), nil
}

func (s *volumesService) List(ctx context.Context, r *apiv1.ListVolumesRequest) (*apiv1.ListVolumesResponse, error) {
	wanted, err := MatchVolumes(r.GetFilters())
	if err != nil {
		return nil, err
	}
	all, err := s.volumes.ListVolumes(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(v VolumeView) bool { return !wanted(v) })
	return &apiv1.ListVolumesResponse{Volumes: list(all, encodeVolume)}, nil
}

func (s *volumesService) Inspect(ctx context.Context, r *apiv1.InspectVolumeRequest) (*apiv1.Volume, error) {
	v, err := s.volumes.InspectVolume(ctx, r.GetName())
	if err != nil {
		return nil, err
	}
	return encodeVolume(v), nil
}

func (s *volumesService) Remove(ctx context.Context, r *apiv1.RemoveVolumeRequest) (*apiv1.RemoveVolumeResponse,
	error) {
	if err := s.volumes.RemoveVolume(ctx, r.GetName()); err != nil {
		return nil, err
	}
	return &apiv1.RemoveVolumeResponse{}, nil
}

func (s *volumesService) Prune(ctx context.Context, r *apiv1.PruneVolumesRequest) (*apiv1.PruneVolumesResponse, error) {
	names, _, err := s.volumes.PruneVolumes(ctx, r.GetAll(), func(volume.Volume) bool { return true })
	if err != nil {
		return nil, err
	}
	return &apiv1.PruneVolumesResponse{Names: names}, nil
}
