package engine

import (
	"context"
	"errors"
	"io/fs"
	"time"
)

// Rename gives a container another name.
func (e *Engine) Rename(context.Context, string, string) error { return errors.ErrUnsupported }

// Update changes limits and restart policy of a container.
func (e *Engine) Update(context.Context, string, Update) ([]string, error) {
	return nil, errors.ErrUnsupported
}

// PruneContainers removes those that do not run and are due, and returns how many bytes that gave back.
func (e *Engine) PruneContainers(context.Context, func(Container) bool) (ids []string, reclaimed int64, err error) {
	return nil, 0, errors.ErrUnsupported
}

// PathStat describes a file of a container.
type PathStat struct {
	Name       string
	Size       int64
	Mode       fs.FileMode
	Modified   time.Time
	LinkTarget string
}

// CopyInOptions say how to unpack into a container.
type CopyInOptions struct {
	// NoOverwriteDir refuses to have a directory and another kind of file take each other's place.
	NoOverwriteDir bool
	// KeepOwners leaves files the owners that the tar gives them; else root owns them.
	KeepOwners bool
}
