package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// candidate is an image found in an archive.
type candidate struct {
	name   string   // what to call it in errors
	refs   []string // short form
	config []byte
	layers []func() (io.ReadCloser, error) // bottom first, compressed or not
	parsed *v1.ConfigFile
}

// Load brings in every image of an archive as 'docker save' writes it, or of
// an OCI image layout in a tar; either may be compressed. Of an image for several
// platforms it takes this host's. All configurations are checked first; then images come in one by one: those before a
// bad one stay, and are returned with the error. Each has the names that the archive gives it, and not those that it
// has besides.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) {
	images, err := s.load(ctx, r)
	if err != nil {
		return images, fmt.Errorf("load images: %w", err)
	}
	return images, nil
}

func (s *Store) load(ctx context.Context, r io.Reader) (images []Image, err error) {
	a, err := s.layers.spool(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	found, err := candidates(a)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if err := found[i].check(); err != nil {
			return nil, fmt.Errorf("image %s: %w", found[i].name, err)
		}
	}
	space := s.layers.space()
	for _, c := range found {
		img, err := s.take(ctx, c, space)
		if err != nil {
			return images, fmt.Errorf("image %s: %w", c.name, err)
		}
		img.References = slices.Sorted(slices.Values(c.refs))
		i := slices.IndexFunc(images, func(have Image) bool { return have.ID == img.ID })
		if i < 0 {
			images = append(images, img)
			continue
		}
		all := append(images[i].References, img.References...)
		slices.Sort(all)
		images[i].References = slices.Compact(all)
	}
	return images, nil
}

func candidates(a *archive) ([]candidate, error) {
	switch {
	case a.has("manifest.json"):
		return dockerImages(a)
	case a.has("index.json"):
		return layoutImages(a)
	default:
		return nil, &unpack.FormatError{
			Reason: "is not an image archive: it has neither manifest.json (docker save) nor index.json (OCI " +
				"image layout)",
			Remedy: "if it is a root filesystem, bring it in with 'net import'",
		}
	}
}

// check reads the configuration. It is done for every image before the first is brought in.
func (c *candidate) check() error {
	config, err := v1.ParseConfigFile(bytes.NewReader(c.config))
	if err != nil {
		return &unpack.FormatError{Reason: fmt.Sprintf("has a configuration that cannot be parsed: %v", err)}
	}
	c.parsed = config
	if err := checkConfig(config, len(c.layers)); err != nil {
		return err
	}
	return checkAmounts(config, c.config)
}

// take unpacks the layers that are missing and adds the image.
func (s *Store) take(ctx context.Context, c candidate, space *space) (img Image, err error) {
	config := c.parsed
	var releases []func()
	defer func() {
		for _, release := range releases {
			release()
		}
		if err != nil {
			err = errors.Join(err, s.sweep(ctx))
		}
	}()
	var size int64
	for i, diffID := range config.RootFS.DiffIDs {
		pin, release := s.layers.hold(diffID)
		releases = append(releases, release)
		info, err := s.layers.ensure(ctx, pin, diffID, c.layers[i], space)
		if err != nil {
			return Image{}, fmt.Errorf("layer %d of %d: %w", i+1, len(c.layers), err)
		}
		if !slices.Contains(config.RootFS.DiffIDs[:i], diffID) {
			size += info.Size
		}
	}
	return s.add(ctx, c.config, c.refs, size)
}

func checkConfig(c *v1.ConfigFile, layers int) error {
	if c.OS != "" && c.OS != "linux" {
		return &unpack.FormatError{Reason: fmt.Sprintf("is for %s, and containers here run Linux", c.OS)}
	}
	if len(c.RootFS.DiffIDs) != layers {
		return &unpack.FormatError{
			Reason: fmt.Sprintf("is inconsistent: its configuration has %d layers and its manifest %d",
				len(c.RootFS.DiffIDs), layers),
			Remedy: "make the archive again",
		}
	}
	for _, d := range c.RootFS.DiffIDs {
		if d.Algorithm != "sha256" {
			return &unpack.FormatError{Reason: fmt.Sprintf("has a layer with a %s digest, and only sha256 is known",
				d.Algorithm)}
		}
	}
	return nil
}
