package engine

import (
	"context"
	"fmt"

	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/shim"
)

// Files are what there is to know of a container's files.
type Files struct {
	ID, Name string
	Spec     Spec // with what the image says
	Image    image.Image
	IDMap    *shim.IDMap // of its user namespace; nil for none
	Running  bool
}

// Files returns what there is to know of a container's files; a container whose image is gone is an error.
func (e *viewer) Files(ctx context.Context, ref string) (Files, error) {
	c, rec, err := e.glance(ctx, ref)
	if err != nil {
		return Files{}, err
	}
	img, err := e.c.Images.Resolve(ctx, rec.ImageID)
	if err != nil {
		return Files{}, fmt.Errorf("image of container %s: %w", rec.Spec.Name, err)
	}
	return Files{ID: c.id, Name: rec.Spec.Name, Spec: withImage(rec.Spec, img), Image: img, IDMap: rec.IDMap,
		Running: isLive(rec.Status)}, nil
}

// Hold freezes a running container until release is called, so that nothing of it changes its files. One that does not
// run, or that a user has paused, is left as it is. When netd ends meanwhile, the next one thaws it.
func (e *stopper) Hold(ctx context.Context, ref string) (release func() error, err error) {
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return nil, err
	}
	unlock, err := e.lock(ctx, c)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec := e.snapshot(c)
	if rec.Status != Running {
		return func() error { return nil }, nil
	}
	e.change(c, func(r *record) { r.Held = true })
	if err := e.save(ctx, c); err != nil { // before it is frozen: a netd that is killed is to be found out about
		return nil, err
	}
	if err := c.client().Pause(ctx); err != nil {
		e.change(c, func(r *record) { r.Held = false })
		return nil, commandError(rec.Spec.Name, err)
	}
	e.change(c, func(r *record) {
		if isLive(r.Status) {
			r.Status = Paused
		}
	})
	return func() error {
		// The container is not to stay frozen because its caller has gone.
		ctx := context.WithoutCancel(ctx)
		unlock, err := e.lock(ctx, c)
		if err != nil {
			return err
		}
		defer unlock()
		return e.thaw(ctx, c)
	}, nil
}

// thaw ends a hold. What a user did meanwhile counts: a container that was unpaused or stopped is left as it is.
func (e *settler) thaw(ctx context.Context, c *container) error {
	rec := e.snapshot(c)
	if !rec.Held {
		return nil
	}
	if rec.Status == Paused {
		if err := c.client().Resume(ctx); err != nil {
			return commandError(rec.Spec.Name, err)
		}
	}
	e.change(c, func(r *record) {
		r.Held = false
		if r.Status == Paused {
			r.Status = Running
		}
	})
	return e.save(ctx, c)
}
