package controller

import (
	"context"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// SetIdentity says what the engine of a sandbox calls its container, and which names it has: some engines tell later.
// They are the names of all its endpoints. One that is as it should be is left alone.
func (k *sandboxes) SetIdentity(ctx context.Context, sandbox string, who cnm.Identity) error {
	who.Aliases = slices.Clone(who.Aliases)
	unlock, err := k.locks.Lock(ctx, "sandbox/"+sandbox)
	if err != nil {
		return err
	}
	defer unlock()
	s, ends, err := k.identified(sandbox, who)
	if err != nil || len(ends) == 0 && s == nil {
		return err
	}
	if err := k.commitIdentity(ctx, sandbox, s != nil, who, ends); err != nil {
		return fmt.Errorf("name the container of sandbox %s: %w", cnm.Short(sandbox), err)
	}
	k.mu.Lock()
	if s != nil {
		k.ix.putSandbox(*s, false)
	}
	var owners []plan.Owner
	for _, e := range ends {
		if ent := k.ix.endpoints[e.ID]; ent != nil { // of the rest, such as addresses, what is so now
			now := ent.v
			now.Name, now.Aliases = e.Name, e.Aliases
			k.ix.putEndpoint(now, false)
		}
		owners = append(owners, cnm.EndpointOwner(e.ID))
	}
	k.mu.Unlock()
	err = k.converge(ctx, owners...)
	for _, e := range ends {
		k.emitEndpoint(ActionUpdate, e, who.Container)
	}
	return err
}

// identified are a sandbox and its endpoints as they are to be: those that are so already are not among them.
func (k *sandboxes) identified(sandbox string, who cnm.Identity) (*cnm.Sandbox, []cnm.Endpoint, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	ent := k.ix.sandboxes[sandbox]
	if ent == nil || ent.v.Phase == cnm.Deleting {
		return nil, nil, notFound("sandbox", cnm.Short(sandbox), nil)
	}
	var s *cnm.Sandbox
	if ent.v.Container != who.Container {
		c := copySandbox(ent.v)
		c.Container = who.Container
		s = &c
	}
	var ends []cnm.Endpoint
	for _, e := range k.ix.endpointsOf(sandbox) {
		if e.Phase != cnm.Deleting && (e.Name != who.Name || !slices.Equal(e.Aliases, who.Aliases)) {
			e.Name, e.Aliases = who.Name, who.Aliases
			ends = append(ends, e)
		}
	}
	return s, ends, nil
}

func (k *sandboxes) commitIdentity(ctx context.Context, sandbox string, renamed bool, who cnm.Identity,
	ends []cnm.Endpoint) error {
	return k.commit(ctx, func() (writes []cnm.Write, err error) {
		if renamed {
			w, err := cnm.Change(ctx, k.store, cnm.KindSandbox, sandbox,
				func(s *cnm.Sandbox) { s.Container = who.Container })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		for _, e := range ends {
			w, err := cnm.Change(ctx, k.store, cnm.KindEndpoint, e.ID,
				func(now *cnm.Endpoint) { now.Name, now.Aliases = who.Name, who.Aliases })
			if err != nil {
				return nil, err
			}
			writes = append(writes, w)
		}
		return writes, nil
	})
}
