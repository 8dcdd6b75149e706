package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vethloom/vethloom/engine/rootfile"
)

// leftoverAge is how long what a broken pull left stays for the next one.
const leftoverAge = 24 * time.Hour

// needs is what records name: nothing of it is collected.
type needs struct {
	blobs, layers map[string]bool // by hexadecimal digits
}

func needsOf(all map[string]*entry) needs {
	n := needs{blobs: map[string]bool{}, layers: map[string]bool{}}
	for _, e := range all {
		for _, key := range e.image.layerKeys {
			n.layers[key] = true
		}
		for _, m := range e.record.Manifests {
			for _, b := range m.Blobs {
				n.blobs[b] = true
			}
		}
	}
	return n
}

// sweep removes what no image has. It is not cut short by the caller going away: what was removed from the records
// should free its space. What broken pulls left stays for a day, unless leftovers are wanted too. It returns the bytes
// that were freed, as they were allocated on the disk.
func (s *Store) sweep(ctx context.Context, leftovers bool) (freed int64, err error) {
	ctx = context.WithoutCancel(ctx)
	trash, err := s.bury(ctx, leftovers)
	for _, dir := range trash {
		n, _, merr := rootfile.Measure(ctx, dir)
		rerr := s.content.removeTree(dir)
		if rerr == nil {
			freed += n
		}
		err = errors.Join(err, ignoreMissing(merr), rerr)
	}
	if err != nil {
		return freed, fmt.Errorf("remove what no image has: %w", err)
	}
	return freed, nil
}

// bury moves what is to be removed into the temporary directory. Meanwhile nothing appears and nothing is pinned.
func (s *Store) bury(ctx context.Context, leftovers bool) (trash []string, err error) {
	c := s.content
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	keep := needsOf(all)
	for _, place := range []struct {
		dir, kind string
		needed    map[string]bool
		young     bool // what is young stays
	}{
		{c.layersDir(), pinLayer, keep.layers, false},
		{c.blobsDir(), pinBlob, keep.blobs, false},
		{c.ingestDir(), pinBlob, nil, !leftovers},
	} {
		entries, err := os.ReadDir(place.dir)
		if err != nil {
			return trash, err
		}
		for _, e := range entries {
			if place.needed[e.Name()] || c.pins[pinKey(place.kind, e.Name())] != nil {
				continue
			}
			info, err := e.Info()
			if err != nil {
				return trash, err
			}
			if place.young && time.Since(info.ModTime()) < leftoverAge {
				continue
			}
			grave, err := c.moveAway(filepath.Join(place.dir, e.Name()))
			if err != nil {
				return trash, err
			}
			trash = append(trash, grave)
			c.measured.Delete(filepath.Join(place.dir, e.Name()))
		}
	}
	return trash, nil
}
