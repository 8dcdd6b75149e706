package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine/shim"
)

// Update changes limits and restart policy of a container. The record comes first: where netd is killed before the
// container has its limits, the next one gives it them.
func (e *Engine) Update(ctx context.Context, ref string, u Update) ([]string, error) {
	c, _, err := e.settled(ctx, ref)
	if err != nil {
		return nil, err
	}
	unlock, err := e.lockKnown(ctx, c, ref)
	if err != nil {
		return nil, err
	}
	defer unlock()
	rec := e.snapshot(c)
	if rec.Phase == cnm.Deleting {
		return nil, errGone
	}
	next := rec.Spec
	if next.Resources, err = merged(rec.Spec.Resources, u.Resources); err != nil {
		return nil, err
	}
	if u.Restart != nil {
		next.Restart = *u.Restart
	}
	if err := errors.Join(next.Restart.check(next.Remove), checkLimits(next)); err != nil {
		return nil, err
	}
	if err := e.setLimits(ctx, c, rec, next); err != nil {
		return nil, err
	}
	e.emit(c, "update", nil)
	warnings := limitWarnings(next.Resources)
	if e.snapshot(c).Status == Restarting && next.Restart.none() {
		return warnings, e.stay(ctx, c)
	}
	return warnings, nil
}

// merged are limits with what an update gives in their place.
func merged(have, given Resources) (out Resources, err error) {
	for _, r := range []Resources{have, given} { // what is zero is not in its JSON
		b, err := json.Marshal(r)
		if err == nil {
			err = json.Unmarshal(b, &out)
		}
		if err != nil {
			return out, fmt.Errorf("merge the limits: %w", err)
		}
	}
	return out, nil
}

// setLimits gives a container its next spec, or leaves it as it was.
func (e *settler) setLimits(ctx context.Context, c *container, rec record, next Spec) error {
	changed := isLive(rec.Status) && (rec.Updating || !reflect.DeepEqual(rec.Spec.Resources, next.Resources))
	e.change(c, func(r *record) { r.Spec, r.Updating = next, changed })
	if err := e.save(ctx, c); err != nil {
		e.change(c, func(r *record) { r.Spec, r.Updating = rec.Spec, rec.Updating })
		return err
	}
	if !changed {
		return nil
	}
	err := c.client().Update(context.WithoutCancel(ctx), next.Resources) // it has a bound of its own
	switch told, ok := errors.AsType[*shim.Error](err); {
	case err == nil, noShim(err), shimWent(err): // ended meanwhile: it has them at its next start
	case ok && told.Code == shim.CodeNotRunning:
		err = nil
	default:
		if ok && told.Code == shim.CodeUnsupported {
			err = &cnm.Error{Kind: cnm.ErrForbidden, Field: "container", Value: rec.Spec.Name,
				Reason: "its supervisor (net-shim) is of an older version, and changes no limits",
				Remedy: "restart it once: 'net restart'", Cause: err}
		} else {
			err = commandError(rec.Spec.Name, err)
		}
		// One that did not answer may have them: the next netd gives it those of the record.
		e.change(c, func(r *record) { r.Spec, r.Updating = rec.Spec, !ok })
		return errors.Join(err, e.save(context.WithoutCancel(ctx), c))
	}
	e.change(c, func(r *record) { r.Updating = false })
	return e.save(ctx, c)
}

// PruneContainers removes those that do not run and are due, and returns how many bytes that gave back.
func (e *Engine) PruneContainers(ctx context.Context, due func(Container) bool) (ids []string, reclaimed int64,
	err error) {
	for _, c := range e.all() {
		_, rec, lookErr := e.glance(ctx, c.id)
		if lookErr != nil || isLive(rec.Status) || rec.Status == Restarting || !due(rec.Container) {
			continue
		}
		usage, usageErr := e.DiskUsage(ctx, c.id)
		_, removeErr := e.Remove(ctx, c.id, false, false)
		switch {
		case ctx.Err() != nil:
			return ids, reclaimed, ctx.Err()
		case errors.Is(removeErr, cnm.ErrNotFound), errors.Is(removeErr, cnm.ErrInUse): // somebody was faster
		case removeErr != nil:
			err = errors.Join(err, removeErr)
		default:
			ids = append(ids, c.id)
			if usageErr == nil {
				reclaimed += usage
			}
		}
	}
	return ids, reclaimed, err
}
