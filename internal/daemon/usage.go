package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/rootfile"
)

// DiskUsage implements [server.System].
func (s *system) DiskUsage(ctx context.Context) (server.DiskUsage, error) {
	stored, err := s.images.DiskUsage(ctx)
	if err != nil {
		return server.DiskUsage{}, err
	}
	u := server.DiskUsage{ImagesSize: stored.Total, Leftovers: stored.Leftovers}
	for _, i := range stored.Images {
		u.Images = append(u.Images, server.ImageUsage{Image: i.Image, OnDisk: i.OnDisk, Shared: i.Shared,
			Unique: i.Unique, Containers: s.engine.ImageUsers(i.ID)})
	}
	containers, err := s.engine.List(ctx, true)
	if err != nil {
		return u, err
	}
	for _, c := range containers {
		size, err := s.engine.DiskUsage(ctx, c.ID)
		if errors.Is(err, cnm.ErrNotFound) { // it was removed meanwhile
			continue
		}
		if err != nil {
			return u, err
		}
		u.Containers = append(u.Containers, server.ContainerUsage{ID: c.ID, Name: c.Spec.Name, Image: c.Spec.Image,
			Status: string(c.Status), Created: c.Created, Size: size})
	}
	u.Volumes, err = s.volumeUsage(ctx)
	return u, err
}

func (s *system) volumeUsage(ctx context.Context) ([]server.VolumeUsage, error) {
	list, err := s.volumes.ListVolumes(ctx)
	if err != nil {
		return nil, err
	}
	var out []server.VolumeUsage
	for _, v := range list {
		size, _, err := rootfile.Measure(ctx, v.Path)
		if err != nil {
			if _, gone := s.volumes.Get(ctx, v.Name); errors.Is(gone, cnm.ErrNotFound) {
				continue
			}
			return nil, fmt.Errorf("measure volume %s: %w", v.Name, err)
		}
		out = append(out, server.VolumeUsage{VolumeView: v, Size: size})
	}
	return out, nil
}
