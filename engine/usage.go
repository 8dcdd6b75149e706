package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// DiskUsage returns how many bytes a container has on the disk: its writable layer, its log, and what it is run by.
// Its image and its volumes are not among them.
func (e *viewer) DiskUsage(ctx context.Context, ref string) (int64, error) {
	c, _, err := e.glance(ctx, ref)
	if err != nil {
		return 0, err
	}
	layer, err := e.c.Snapshots.Usage(ctx, c.id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // it has not been started yet
		return 0, err
	}
	files, _, err := rootfile.Measure(ctx, c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("measure the files of container %s: %w", ref, err)
	}
	return layer.Bytes + files, nil
}
