package daemon

import (
	"context"
	"io"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/image"
)

// This file has what the API offers to do with images beyond what [images] does.

// notBuilt refuses what nothing is behind yet.
func notBuilt(what string) error {
	return &cnm.Error{Kind: cnm.ErrForbidden, Reason: what + " is not built yet",
		Remedy: "bring images in with 'net load' or 'net import'"}
}

// ImageHistory implements [server.ImageViews].
func (i images) ImageHistory(context.Context, string) ([]image.History, error) {
	return nil, notBuilt("the history of images")
}

// SaveImages implements [server.ImageChanges].
func (i images) SaveImages(ctx context.Context, w io.Writer, refs []string, o image.SaveOptions) error {
	return i.Save(ctx, w, refs, o)
}

// PruneImages implements [server.ImageChanges].
func (i images) PruneImages(context.Context, bool, func(image.Image) bool) (server.PrunedImages, error) {
	return server.PrunedImages{}, notBuilt("pruning images")
}

// CheckImages implements [server.ImageChanges].
func (i images) CheckImages(context.Context, bool, func(image.Progress), func(server.ImageDamage) error) (
	server.CheckedImages, error) {
	return server.CheckedImages{}, notBuilt("checking images")
}

// DiskUsage implements [server.System].
func (s *system) DiskUsage(context.Context) (server.DiskUsage, error) {
	return server.DiskUsage{}, notBuilt("telling what is on the disk")
}
