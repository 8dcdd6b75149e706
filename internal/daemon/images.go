package daemon

import (
	"context"
	"io"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/engine/image"
)

// This file has what the API offers to do with images beyond what [images] does.

// ImageHistory implements [server.ImageViews].
func (i images) ImageHistory(ctx context.Context, ref string) ([]image.History, error) {
	return i.History(ctx, ref)
}

// SaveImages implements [server.ImageChanges].
func (i images) SaveImages(ctx context.Context, w io.Writer, refs []string, o image.SaveOptions) error {
	return i.Save(ctx, w, refs, o)
}

// PruneImages implements [server.ImageChanges].
func (i images) PruneImages(ctx context.Context, all bool, due func(image.Image) bool) (server.PrunedImages, error) {
	p, err := i.Prune(ctx, all, due, i.daemon.engine.ImageUsers)
	for _, id := range p.Deleted {
		i.daemon.events.emit(server.Event{Type: "image", Action: "remove", ID: id})
	}
	return server.PrunedImages{Untagged: p.Untagged, Deleted: p.Deleted, Reclaimed: p.Freed}, err
}

// CheckImages implements [server.ImageChanges].
func (i images) CheckImages(ctx context.Context, repair bool, report func(image.Progress),
	found func(image.Damage) error) (image.Checked, error) {
	return i.Check(ctx, image.CheckOptions{Repair: repair, Report: report, Running: i.daemon.engine.ImageRunners,
		Found: found})
}
