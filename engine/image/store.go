package image

import (
	"context"
	"errors"
	"io"
	"log/slog"

	"github.com/vethloom/vethloom/cnm"
)

// Store is a node's images. Its methods can be called at the same time.
type Store struct {
	root    string
	records cnm.Store
	log     *slog.Logger
}

// Open opens the images under a directory, and clears away what a killed
// import left in its temporary directory.
func Open(ctx context.Context, c Config) (*Store, error) {
	return &Store{root: c.Root, records: c.Store, log: c.Log}, nil
}

// Import makes an image with one layer of a root filesystem tar, which may be
// compressed. A reference that another image had moves to the new one.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (Image, error) {
	return Image{}, errors.ErrUnsupported
}

// Load brings in every image of an archive as 'docker save' writes it, or of
// an OCI image layout in a tar; either may be compressed.
func (s *Store) Load(ctx context.Context, r io.Reader) ([]Image, error) {
	return nil, errors.ErrUnsupported
}

// Resolve finds an image by name[:tag], ID, or a prefix of an ID that fits no
// other; a [NotFoundError] otherwise.
func (s *Store) Resolve(ctx context.Context, ref string) (Image, error) {
	return Image{}, &NotFoundError{Ref: ref}
}

// List returns every image, newest first.
func (s *Store) List(ctx context.Context) ([]Image, error) { return nil, nil }

// Tag gives the image src the reference dst as well, taking it away from
// whichever image had it.
func (s *Store) Tag(ctx context.Context, src, dst string) error { return errors.ErrUnsupported }

// Remove takes a reference away from its image, and removes the image with
// its last reference, or when it was given by ID; an image with several references
// is removed by ID only with force. Layers go when no other image has them. inUse
// names the containers that need an image: then the image is kept, an
// [ErrInUse]; with force its references go, and it stays without a name.
func (s *Store) Remove(ctx context.Context, ref string, force bool, inUse func(imageID string) []string) (untagged, deleted []string, err error) {
	return nil, nil, errors.ErrUnsupported
}

// LayerDirs returns the directories of an image's layers, bottom first, to be
// used as overlayfs lowerdirs. They must never be written to.
func (s *Store) LayerDirs(img Image) []string { return nil }
