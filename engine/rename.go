package engine

import (
	"context"
	"errors"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// nameFree refuses a name that a container has. The caller holds the mutex.
func (e *records) nameFree(name string) error {
	if holder := e.names[name]; holder != "" {
		return &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: name,
			Reason: "container " + cnm.Short(holder) + " has it", Remedy: "choose another or remove that one: 'net rm'"}
	}
	return nil
}

// Rename gives a container another name, which others find it by on its networks from then on. Where netd is killed
// between the two, the next one goes by the record. It changes nothing when it fails.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	name = strings.TrimPrefix(name, "/")
	if err := cnm.CheckName("name", name); err != nil {
		return err
	}
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return err
	}
	unlock, err := e.lockKnown(ctx, c, ref)
	if err != nil {
		return err
	}
	defer unlock()
	old := e.snapshot(c).Spec.Name
	if old == name {
		return invalid("name", name, "the container has it already", "choose another")
	}
	e.mu.Lock()
	if err = e.nameFree(name); err == nil {
		e.names[name] = c.id
	}
	e.mu.Unlock()
	if err != nil {
		return err
	}
	drop := old
	if err = e.recall(ctx, c, name); err != nil {
		drop = name
		err = errors.Join(err, e.recall(context.WithoutCancel(ctx), c, old))
	}
	e.mu.Lock()
	delete(e.names, drop)
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.emit(c, "rename", map[string]string{"oldName": old})
	return nil
}

// recall writes a name into the record, and to the networks.
func (e *connector) recall(ctx context.Context, c *container, name string) error {
	rec := e.change(c, func(r *record) { r.Spec.Name = name })
	if err := e.save(ctx, c); err != nil {
		return err
	}
	if !isLive(rec.Status) || joinedContainer(rec.Spec) != "" {
		return nil
	}
	return e.c.Networks.Rename(ctx, rec.Sandbox, name)
}
