package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
)

// lease keeps the blobs of stored images until release, whatever becomes of the images meanwhile.
type lease struct {
	s        *Store
	images   []leased // in the order in which they were asked for, each once
	all      map[string]*entry
	releases []func()
}

// leased is an image under a lease, with its newest manifest.
type leased struct {
	*entry
	ref      string   // the first by which it was asked for
	names    []string // short form: those that it was asked for by, in this order, each once
	manifest manifest
}

// lease finds images and keeps their blobs. One that came in with an earlier version, without blobs, is a
// [cnm.ErrForbidden].
func (s *Store) lease(ctx context.Context, refs ...string) (*lease, error) {
	for {
		all, err := s.entries(ctx)
		if err != nil {
			return nil, err
		}
		l := &lease{s: s, all: all}
		if err := l.find(refs); err != nil {
			return nil, err
		}
		for _, img := range l.images {
			for _, b := range img.manifest.Blobs {
				_, release := s.content.hold(pinBlob, b)
				l.releases = append(l.releases, release)
			}
		}
		kept, err := l.kept(ctx)
		if kept {
			return l, nil
		}
		if err = errors.Join(err, l.release(ctx)); err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

func (l *lease) find(refs []string) error {
	at := map[string]int{}
	for _, ref := range refs {
		e, short, err := find(l.all, ref)
		if err != nil {
			return err
		}
		if len(e.record.Manifests) == 0 {
			return noBlobs(ref)
		}
		n, ok := at[e.id]
		if !ok {
			n = len(l.images)
			at[e.id] = n
			l.images = append(l.images, leased{entry: e, ref: ref, manifest: e.record.Manifests[0]})
		}
		img := &l.images[n]
		if short != "" && !slices.Contains(img.names, short) {
			img.names = append(img.names, short)
		}
	}
	return nil
}

// kept reports whether the records still have all that was found: what is held from now on was not collected before.
func (l *lease) kept(ctx context.Context) (bool, error) {
	all, err := l.s.entries(ctx)
	if err != nil {
		return false, err
	}
	for _, img := range l.images {
		if e := all[img.id]; e == nil || !e.hasManifest(img.manifest.Digest.Hex) {
			return false, nil
		}
	}
	return true, nil
}

// release lets go of the images. What was removed meanwhile is collected now.
func (l *lease) release(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	for _, release := range l.releases {
		release()
	}
	kept, err := l.kept(ctx)
	if err == nil && !kept {
		_, err = l.s.sweep(ctx, false)
	}
	if err != nil {
		return fmt.Errorf("let go of images: %w", err)
	}
	return nil
}
