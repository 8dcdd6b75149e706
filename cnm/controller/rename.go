package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// Rename gives all endpoints of a sandbox another name, at once, and returns when names lead to them by it. It changes
// nothing when it fails. Where they have the name there is nothing to do, nor for a sandbox that there is not.
func (k *endpoints) Rename(ctx context.Context, sandbox, name string) error {
	if err := cnm.CheckName("name", name); err != nil {
		return err
	}
	unlock, err := k.locks.Lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	k.mu.Lock()
	var before, after []cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		if e.Name != name {
			before = append(before, copyEndpoint(e))
			e.Name = name
			after = append(after, copyEndpoint(e))
		}
	}
	k.mu.Unlock()
	if len(after) == 0 {
		return nil
	}
	if err := k.setNames(ctx, after); err != nil {
		err = k.undo(ctx, err, func(ctx context.Context) error { return k.setNames(ctx, before) })
		return fmt.Errorf("rename the endpoints of sandbox %s: %w", cnm.Short(sandbox), err)
	}
	for _, e := range after {
		k.emitEndpoint(ActionUpdate, e, "")
	}
	return nil
}

// setNames gives endpoints their names, in the records, the index and the kernel.
func (k *endpoints) setNames(ctx context.Context, named []cnm.Endpoint) error {
	err := k.commit(ctx, func() ([]cnm.Write, error) {
		var writes []cnm.Write
		for _, e := range named {
			rename := func(now *cnm.Endpoint) { now.Name = e.Name }
			switch w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, e.ID, rename); {
			case err == nil:
				writes = append(writes, w)
			case !errors.Is(err, cnm.ErrNotFound): // else it has gone meanwhile
				return nil, err
			}
		}
		return writes, nil
	})
	if err != nil {
		return err
	}
	owners := make([]plan.Owner, 0, len(named))
	k.mu.Lock()
	for _, e := range named {
		if ent := k.ix.endpoints[e.ID]; ent != nil {
			ent.v.Name = e.Name
		}
		owners = append(owners, cnm.EndpointOwner(e.ID))
	}
	k.mu.Unlock()
	return k.converge(ctx, owners...)
}
