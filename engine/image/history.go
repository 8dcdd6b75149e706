package image

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// History returns how an image was made, newest step first. A layer that no step tells of is a step of its own.
func (s *Store) History(ctx context.Context, ref string) ([]History, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	e, _, err := find(all, ref)
	if err != nil {
		return nil, err
	}
	steps, err := e.steps()
	if err != nil {
		return nil, err
	}
	out := make([]History, 0, len(steps))
	layers := 0
	for n, step := range steps {
		h := History{History: step}
		if !step.EmptyLayer {
			h.Layer = e.image.Layers[layers]
			if info, err := s.content.info(e.image.layerKeys[layers]); ignoreMissing(err) != nil {
				return nil, err
			} else if err == nil {
				h.Size = info.Size
			}
			layers++
		}
		for _, other := range all {
			if other.endsWith(e, n+1, layers) {
				h.Image, h.References = other.id, slices.Clone(other.record.References)
			}
		}
		out = append(out, h)
	}
	slices.Reverse(out)
	return out, nil
}

// steps returns the steps of an image's configuration, oldest first, with as many layers as it has.
func (e *entry) steps() ([]v1.History, error) {
	var c struct {
		History []v1.History `json:"history"`
	}
	if err := json.Unmarshal(e.record.Config, &c); err != nil {
		return nil, fmt.Errorf("read the history of image %s: %w", e.id, err)
	}
	layers := 0
	var out []v1.History
	for _, h := range c.History {
		if !h.EmptyLayer {
			if layers == len(e.image.Layers) {
				h.EmptyLayer = true // it tells of a layer that the image has not
			} else {
				layers++
			}
		}
		out = append(out, h)
	}
	for range len(e.image.Layers) - layers {
		out = append(out, v1.History{})
	}
	return out, nil
}

// endsWith reports whether an image is what another one was after so many steps and layers.
func (e *entry) endsWith(of *entry, steps, layers int) bool {
	if e == of {
		all, err := e.steps()
		return err == nil && len(all) == steps
	}
	if len(e.image.Layers) != layers || !slices.Equal(e.image.Layers, of.image.Layers[:layers]) {
		return false
	}
	own, err := e.steps()
	return err == nil && len(own) == steps
}
