package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/vethloom/vethloom/engine/image/unpack"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

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
	a, err := s.content.spool(ctx, r)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, a.close()) }()
	found, err := candidates(ctx, a)
	if err != nil {
		return nil, err
	}
	for i := range found {
		if err := found[i].check(); err != nil {
			return nil, fmt.Errorf("image %s: %w", found[i].name, err)
		}
	}
	for _, c := range found {
		img, err := s.take(ctx, c, nil)
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

func candidates(ctx context.Context, a *archive) ([]arrival, error) {
	switch {
	case a.has("manifest.json") && a.has(ocispec.ImageLayoutFile) && a.has("index.json"):
		return bothImages(ctx, a)
	case a.has("manifest.json"):
		return dockerImages(a)
	case a.has("index.json"):
		return layoutImages(ctx, a)
	default:
		return nil, &unpack.FormatError{
			Reason: "is not an image archive: it has neither manifest.json (docker save) nor index.json (OCI " +
				"image layout)",
			Remedy: "if it is a root filesystem, bring it in with 'net import'",
		}
	}
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
