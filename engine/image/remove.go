package image

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// Remove takes a reference away from its image, and removes the image with
// its last reference, or when it was given by ID; an image with several references
// is removed by ID only with force. Layers go when no other image has them. inUse
// names the containers that need an image (nil: none does): then the image is
// kept, a [cnm.ErrInUse]; with force its references go, and it stays without a name.
//
// Whoever becomes a user of an image calls [Store.Confirm] after inUse names it, as the image may have gone before.
func (s *Store) Remove(ctx context.Context, ref string, force bool, inUse func(imageID string) []string) (untagged,
	deleted []string, err error) {
	var swept []string
	err = s.update(ctx, func(all map[string]*entry) (map[string]*record, error) {
		untagged, deleted, swept = nil, nil, nil
		e, short, err := find(all, ref)
		if err != nil {
			return nil, err
		}
		changed := map[string]*record{}
		if short != "" && len(e.record.References) > 1 {
			dropReference(pending(all, changed, e.id), short)
			untagged = []string{short}
			return changed, nil
		}
		users := usersOf(e.id, inUse)
		if err := mayRemove(e, force, users); err != nil {
			return nil, err
		}
		untagged = slices.Clone(e.record.References)
		if len(users) > 0 {
			pending(all, changed, e.id).References = nil
			return changed, nil
		}
		changed[e.id] = nil
		deleted = []string{e.id}
		swept, _ = lostLayers(all, changed)
		return changed, nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("remove image %s: %w", ref, err)
	}
	if len(deleted) == 0 {
		return untagged, nil, nil
	}
	deleted = append(deleted, swept...)
	if _, err := s.sweep(ctx, false); err != nil {
		return untagged, deleted, fmt.Errorf("remove image %s: %w", ref, err)
	}
	return untagged, deleted, nil
}

// Pruned are what a prune has removed.
type Pruned struct {
	Untagged []string // names, sorted
	Deleted  []string // IDs of images, and the diff IDs of layers that went with them
	Freed    int64    // bytes, as they were allocated on the disk
}

// Prune removes the images that are due (nil: all are) and that no container needs: those without a name, that were not
// asked for by digest either, or, with all, any. What no image has goes too, with what is left of pulls that broke off.
func (s *Store) Prune(ctx context.Context, all bool, due func(Image) bool, inUse func(imageID string) []string) (
	Pruned, error) {
	return s.prune(ctx, all, true, due, inUse)
}

func (s *Store) prune(ctx context.Context, all, leftovers bool, due func(Image) bool,
	inUse func(imageID string) []string) (p Pruned, err error) {
	var swept []string
	err = s.update(ctx, func(images map[string]*entry) (map[string]*record, error) {
		p = Pruned{}
		changed := map[string]*record{}
		for id, e := range images {
			if !all && (len(e.record.References) > 0 || e.record.ByDigest) || due != nil && !due(e.public()) ||
				len(usersOf(id, inUse)) > 0 {
				continue
			}
			changed[id] = nil
			p.Deleted = append(p.Deleted, id)
			p.Untagged = append(p.Untagged, e.record.References...)
		}
		swept, _ = lostLayers(images, changed)
		return changed, nil
	})
	if err != nil {
		return Pruned{}, fmt.Errorf("prune images: %w", err)
	}
	slices.Sort(p.Deleted)
	slices.Sort(p.Untagged)
	p.Deleted = append(p.Deleted, swept...)
	if p.Freed, err = s.sweep(ctx, leftovers); err != nil {
		return p, fmt.Errorf("prune images: %w", err)
	}
	return p, nil
}

func usersOf(id string, inUse func(string) []string) []string {
	if inUse == nil {
		return nil
	}
	return inUse(id)
}

func mayRemove(e *entry, force bool, users []string) error {
	switch {
	case force:
		return nil
	case len(users) > 0:
		return &cnm.Error{
			Kind:   cnm.ErrInUse,
			Reason: "it is in use by container " + strings.Join(users, ", "),
			Remedy: "remove the container first with 'net rm', or take only the image's name away with --force",
		}
	case len(e.record.References) > 1:
		return &cnm.Error{
			Kind:   cnm.ErrInUse,
			Reason: "it has several references: " + strings.Join(e.record.References, ", "),
			Remedy: "remove it by one of them, or with all of them by --force",
		}
	}
	return nil
}

// lostLayers returns the layers that only images about to go have: their diff IDs, and what they are kept under.
func lostLayers(all map[string]*entry, changed map[string]*record) (diffIDs, keys []string) {
	kept, lost := map[string]bool{}, map[string]string{}
	for id, e := range all {
		r, ok := changed[id]
		gone := ok && r == nil
		for i, layer := range e.image.Layers {
			if gone {
				lost[layer] = e.image.layerKeys[i]
			} else {
				kept[layer] = true
			}
		}
	}
	maps.DeleteFunc(lost, func(layer, _ string) bool { return kept[layer] })
	return slices.Sorted(maps.Keys(lost)), slices.Collect(maps.Values(lost))
}
