package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// DiskUsage is what images have on the disk, in bytes that are allocated there.
type DiskUsage struct {
	Images    []ImageUsage // newest first
	Total     int64        // of all images, what several have once
	Leftovers int64        // of pulls that ended early, and of what no image has
}

// ImageUsage is what an image has on the disk, in bytes: its layers unpacked and all its blobs.
type ImageUsage struct {
	Image
	OnDisk int64
	Shared int64 // of OnDisk, what other images have too
	Unique int64 // the rest of it, which removing the image frees
}

// DiskUsage measures what images have on the disk. A layer is measured once: it never changes.
func (s *Store) DiskUsage(ctx context.Context) (DiskUsage, error) {
	u, err := s.diskUsage(ctx)
	if err != nil {
		return u, fmt.Errorf("measure images: %w", err)
	}
	return u, nil
}

func (s *Store) diskUsage(ctx context.Context) (DiskUsage, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return DiskUsage{}, err
	}
	users := map[string]int{} // of paths
	for _, e := range all {
		for _, path := range s.content.pathsOf(e) {
			users[path]++
		}
	}
	var u DiskUsage
	sizes := map[string]int64{}
	for path := range users {
		if sizes[path], err = s.content.measure(ctx, path); err != nil {
			return u, err
		}
		u.Total += sizes[path]
	}
	for _, e := range all {
		i := ImageUsage{Image: e.public()}
		for _, path := range s.content.pathsOf(e) {
			i.OnDisk += sizes[path]
			if users[path] > 1 {
				i.Shared += sizes[path]
			} else {
				i.Unique += sizes[path]
			}
		}
		u.Images = append(u.Images, i)
	}
	slices.SortFunc(u.Images, func(a, b ImageUsage) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID))
	})
	u.Leftovers, err = s.content.leftovers(ctx, users)
	return u, err
}

// pathsOf lists where an image's layers and blobs are, each once.
func (c *content) pathsOf(e *entry) []string {
	var out []string
	for _, key := range e.image.layerKeys {
		out = append(out, c.layer(key))
	}
	for _, m := range e.record.Manifests {
		for _, b := range m.Blobs {
			out = append(out, filepath.Join(c.blobsDir(), b))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// measure returns the bytes of a blob or a layer; 0 for what is not there.
func (c *content) measure(ctx context.Context, path string) (int64, error) {
	if n, ok := c.measured.Load(path); ok {
		return n.(int64), nil
	}
	n, _, err := rootfile.Measure(ctx, path)
	if err = ignoreMissing(err); err != nil {
		return 0, err
	}
	if n > 0 && filepath.Dir(path) == c.layersDir() {
		c.measured.Store(path, n)
	}
	return n, nil
}

// leftovers sums up what no image has, and nothing brings in at the time.
func (c *content) leftovers(ctx context.Context, known map[string]int) (sum int64, err error) {
	for dir, kind := range map[string]string{c.layersDir(): pinLayer, c.blobsDir(): pinBlob, c.ingestDir(): pinBlob} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return sum, err
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if known[path] > 0 || c.pinned(kind, e.Name()) {
				continue
			}
			n, _, err := rootfile.Measure(ctx, path)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return sum, err
			}
			sum += n
		}
	}
	return sum, nil
}

func (c *content) pinned(kind, hex string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pins[pinKey(kind, hex)] != nil
}
