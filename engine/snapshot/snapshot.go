package snapshot

import (
	"context"
	"errors"
	"fmt"
)

// Snapshots are the writable layers of a node's containers, one directory each.
type Snapshots struct {
	root string
}

// Mount is one mount(2) to perform. Sources and options may hold paths
// relative to Dir, so that the options of many layers fit into the page the
// kernel has for them: perform it with [Mount.Do], or with Dir as working directory.
type Mount struct {
	Type    string   `json:"type"` // overlay or bind
	Source  string   `json:"source"`
	Target  string   `json:"target"` // absolute; the directory exists
	Options []string `json:"options,omitempty"`
	Dir     string   `json:"dir,omitempty"` // absolute
}

// Usage is the space a container's writable layer takes.
type Usage struct {
	Bytes  int64 // allocated on disk
	Inodes int64
}

// Open opens the snapshots under a directory, which is made when missing.
func Open(root string) (*Snapshots, error) { return &Snapshots{root: root}, nil }

// Prepare makes the writable layer of a container, unless it is there already,
// and returns the mounts that assemble its root filesystem at the last mount's
// Target. lower is bottom first, as image.Store.LayerDirs returns it.
func (s *Snapshots) Prepare(ctx context.Context, id string, lower []string) ([]Mount, error) {
	return nil, errors.ErrUnsupported
}

// View is Prepare without a writable layer: a root filesystem that cannot be
// changed. (A container with a read-only root needs Prepare: its mount points are
// made before the root is turned read-only.)
func (s *Snapshots) View(ctx context.Context, id string, lower []string) ([]Mount, error) {
	return nil, errors.ErrUnsupported
}

// Remove removes a container's writable layer with all it holds; one that
// does not exist is no error.
func (s *Snapshots) Remove(ctx context.Context, id string) error { return errors.ErrUnsupported }

// Usage measures a container's writable layer.
func (s *Snapshots) Usage(ctx context.Context, id string) (Usage, error) {
	return Usage{}, errors.ErrUnsupported
}

// Do performs the mount in the caller's mount namespace. The calling thread's
// working directory is left alone.
func (m Mount) Do() error { return fmt.Errorf("mount %s: %w", m.Target, errors.ErrUnsupported) }
