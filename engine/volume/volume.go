package volume

import (
	"context"
	"errors"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// Volume is a named directory.
type Volume struct {
	Name    string            `json:"name"`
	Path    string            `json:"-"` // absolute path of the data on the host
	Labels  map[string]string `json:"labels,omitempty"`
	Created time.Time         `json:"created"`
}

// Volumes are a node's volumes.
type Volumes struct {
	root  string
	store cnm.Store
}

// Open opens the volumes under a directory, which is made when missing.
func Open(root string, store cnm.Store) (*Volumes, error) {
	return &Volumes{root: root, store: store}, nil
}

// Ensure returns the volume of that name, made first when there is none;
// fresh tells which. Labels count for a new volume only.
func (v *Volumes) Ensure(ctx context.Context, name string, labels map[string]string) (vol Volume, fresh bool, err error) {
	return Volume{}, false, errors.ErrUnsupported
}

// Get returns a volume; a [NotFoundError] when there is none of that name.
func (v *Volumes) Get(ctx context.Context, name string) (Volume, error) {
	return Volume{}, errors.ErrUnsupported
}

// List returns every volume in order of name.
func (v *Volumes) List(ctx context.Context) ([]Volume, error) { return nil, nil }

// Remove removes a volume and its data. inUse names the containers that have
// a volume mounted: then it is kept, an [ErrInUse].
func (v *Volumes) Remove(ctx context.Context, name string, inUse func(name string) []string) error {
	return errors.ErrUnsupported
}

// Prune removes every volume that no container uses, and returns their names.
func (v *Volumes) Prune(ctx context.Context, inUse func(name string) []string) ([]string, error) {
	return nil, errors.ErrUnsupported
}
