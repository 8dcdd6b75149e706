package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CommitOptions describe the image that is made of a container.
type CommitOptions struct {
	Reference       string // name[:tag]; "" leaves the image untagged
	Author, Message string
	Config          v1.Config // what the container runs with
	Changes         []string  // Dockerfile instructions, as ImportOptions has them
	Command         []string  // what the container ran, for the history
}

// Commit makes an image of another one and a layer's tar on top of it, which is read to its end.
func (s *Store) Commit(ctx context.Context, base Image, r io.Reader, o CommitOptions) (img Image, err error) {
	if img, err = s.commitLayer(ctx, base, r, o); err != nil {
		return Image{}, fmt.Errorf("commit: %w", err)
	}
	return img, nil
}

func (s *Store) commitLayer(ctx context.Context, base Image, r io.Reader, o CommitOptions) (img Image, err error) {
	a, err := commitConfig(base, o, time.Now().UTC())
	if err != nil {
		return Image{}, err
	}
	in := s.content.intake()
	defer func() { err = s.settle(ctx, in, arrival{}, err) }()
	layers, err := s.layersOf(ctx, in, base)
	if err != nil {
		return Image{}, err
	}
	u, d, err := in.compress(ctx, r, unpack.Options{Layer: true})
	if err != nil {
		return Image{}, err
	}
	config := a.parsed
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, u.diffID)
	chains := chainIDs(config.RootFS.DiffIDs)
	top, err := in.adopt(ctx, u, chains[len(chains)-1], d)
	if err != nil {
		return Image{}, err
	}
	layers = append(layers, top)
	if err := in.complete(ctx, layers, chains); err != nil {
		return Image{}, err
	}
	if a.config, err = json.Marshal(config); err != nil {
		return Image{}, fmt.Errorf("write configuration: %w", err)
	}
	if err := checkAmounts(config, a.config); err != nil {
		return Image{}, fmt.Errorf("the configuration %w", err)
	}
	return s.finish(ctx, in, a, layers)
}

// commitConfig makes the configuration of a commit without its layer, before anything is read.
func commitConfig(base Image, o CommitOptions, now time.Time) (arrival, error) {
	var a arrival
	if o.Reference != "" {
		short, err := ParseReference(o.Reference)
		if err != nil {
			return a, err
		}
		a.refs = []string{short}
	}
	a.parsed = &v1.ConfigFile{}
	if err := json.Unmarshal(base.Raw, a.parsed); err != nil {
		return a, fmt.Errorf("read the configuration of image %s: %w", base.ID, err)
	}
	c := a.parsed
	health := c.Config.Healthcheck
	c.Config = o.Config
	c.Config.Healthcheck = health
	c.Author, c.Created, c.Container = o.Author, v1.Time{Time: now}, ""
	c.History = append(c.History, v1.History{Created: v1.Time{Time: now}, Author: o.Author, Comment: o.Message,
		CreatedBy: strings.Join(o.Command, " ")})
	return a, ApplyChanges(&c.Config, o.Changes)
}

// layersOf takes an image's layers, which are there, into an intake.
func (s *Store) layersOf(ctx context.Context, in *intake, img Image) ([]*placed, error) {
	all, err := s.entries(ctx)
	if err != nil {
		return nil, err
	}
	e := all[img.ID]
	if e == nil {
		return nil, &NotFoundError{Ref: img.ID}
	}
	if len(e.record.Manifests) == 0 {
		return nil, noBlobs(img.ID)
	}
	for _, b := range e.record.Manifests[0].Blobs {
		in.hold(pinBlob, b)
	}
	for _, key := range img.layerKeys {
		in.hold(pinLayer, key)
	}
	// What was removed until it was held may be gone.
	if all, err = s.entries(ctx); err != nil {
		return nil, err
	}
	if now := all[img.ID]; now == nil || !now.hasManifest(e.record.Manifests[0].Digest.Hex) {
		return nil, &NotFoundError{Ref: img.ID}
	}
	raw, err := s.content.readBlob(e.record.Manifests[0].Digest)
	if err != nil {
		return nil, err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("read the manifest of image %s: %w", img.ID, err)
	}
	if len(m.Layers) != len(img.layerKeys) {
		return nil, errors.New("the manifest of image " + img.ID + " has not the layers of its configuration")
	}
	var out []*placed
	for n, key := range img.layerKeys {
		info, err := s.content.info(key)
		if err != nil {
			return nil, fmt.Errorf("layer %s of image %s: %w", key, img.ID, err)
		}
		out = append(out, &placed{key: key, info: info, blob: m.Layers[n]})
	}
	return out, nil
}
