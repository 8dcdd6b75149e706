package controller

import (
	"context"
	"errors"
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// removals removes records once the kernel agrees that nothing of them is left.
type removals struct{ *records }

// batch is a set of records that are being removed.
type batch struct {
	networks  []cnm.Network
	sandboxes []cnm.Sandbox
	endpoints []cnm.Endpoint
	silent    map[string]bool
	done      chan struct{}
}

func (b *batch) empty() bool { return len(b.networks)+len(b.sandboxes)+len(b.endpoints) == 0 }

// Settle ends the deletion of records: of those in phase Deleting whose owners are
// given, it commits the removal, together with their addresses. The owners must be ones that a
// pass of the fabric has found to have nothing in the kernel any more; those of records that are
// Active or gone are passed over, so that a caller may give all that have converged.
//
// It is the last step of Detach, DeleteSandbox and DeleteNetwork, and what the reconciler
// calls after its own passes: so a deletion that was cut short anywhere ends.
// Records that a call of the controller is deleting right now are left to that call.
func (k *removals) Settle(ctx context.Context, owners ...plan.Owner) error {
	return k.settle(ctx, false, owners)
}

func (k *removals) settle(ctx context.Context, own bool, owners []plan.Owner) error {
	for {
		b, wait := k.collect(own, owners)
		if wait != nil {
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if b.empty() {
			return nil
		}
		err := errors.Join(k.removeRuntime(ctx, b), k.removeDurable(ctx, b))
		k.release(b)
		if err != nil {
			return fmt.Errorf("remove records: %w", err)
		}
		return k.reap(ctx, networksOf(b.endpoints)...)
	}
}

// finish makes the kernel agree that the marked records of the owners are gone, and
// then removes them.
func (k *removals) finish(ctx context.Context, owners ...plan.Owner) error {
	err := k.converge(ctx, owners...)
	if err == nil {
		err = k.settle(ctx, true, owners)
	}
	if err != nil {
		k.disown(owners)
	}
	return err
}

// disown leaves what could not be finished to later passes.
func (k *removals) disown(owners []plan.Owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range owners {
		kind, short, _ := cnm.ParseOwner(s)
		id := k.ix.short[shortKey(kind, short)]
		if e := k.ix.endpoints[id]; kind == cnm.KindEndpoint && e != nil {
			e.owned = false
		}
		if e := k.ix.sandboxes[id]; kind == cnm.KindSandbox && e != nil {
			e.owned = false
		}
		if e := k.ix.networks[id]; kind == cnm.KindNetwork && e != nil {
			e.owned = false
		}
	}
}

// collect finds the records that can go and marks them as being removed, or
// returns what to wait for when another call is removing one of them.
func (k *removals) collect(own bool, owners []plan.Owner) (*batch, <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	b := &batch{silent: map[string]bool{}, done: make(chan struct{})}
	taken := map[string]bool{}
	for _, s := range owners {
		kind, short, ok := cnm.ParseOwner(s)
		if !ok || kind != cnm.KindEndpoint {
			continue
		}
		ent := k.ix.endpoints[k.ix.short[shortKey(kind, short)]]
		if ent == nil || cnm.Short(ent.v.ID) != short || !ent.leaving(own, ent.v.Phase) || taken[ent.v.ID] {
			continue
		}
		if ent.settling != nil {
			return nil, ent.settling
		}
		taken[ent.v.ID] = true
		b.endpoints = append(b.endpoints, ent.v)
	}
	for _, s := range owners {
		kind, short, ok := cnm.ParseOwner(s)
		if !ok || kind == cnm.KindEndpoint {
			continue
		}
		id := k.ix.short[shortKey(kind, short)]
		if cnm.Short(id) != short || taken[id] {
			continue
		}
		wait := k.collectOwner(b, own, kind, id, taken)
		if wait != nil {
			return nil, wait
		}
	}
	k.engage(b)
	return b, nil
}

// collectOwner adds a network or sandbox, once nothing of it is left but what
// is in the batch itself.
func (k *removals) collectOwner(b *batch, own bool, kind cnm.Kind, id string, taken map[string]bool) <-chan struct{} {
	if kind == cnm.KindSandbox {
		ent := k.ix.sandboxes[id]
		if ent == nil || !ent.leaving(own, ent.v.Phase) || !allTaken(k.ix.ofSandbox[id], taken) {
			return nil
		}
		if ent.settling != nil {
			return ent.settling
		}
		b.sandboxes = append(b.sandboxes, ent.v)
	} else {
		ent := k.ix.networks[id]
		if ent == nil || !ent.leaving(own, ent.v.Phase) || !allTaken(k.ix.ofNetwork[id], nil) {
			return nil
		}
		if ent.settling != nil {
			return ent.settling
		}
		b.networks = append(b.networks, ent.v)
	}
	taken[id] = true
	return nil
}

func allTaken(in map[string]*entry[cnm.Endpoint], taken map[string]bool) bool {
	for id := range in {
		if !taken[id] {
			return false
		}
	}
	return true
}

func (k *removals) engage(b *batch) {
	for _, e := range b.endpoints {
		ent := k.ix.endpoints[e.ID]
		ent.settling = b.done
		b.silent[e.ID] = ent.silent
	}
	for _, s := range b.sandboxes {
		ent := k.ix.sandboxes[s.ID]
		ent.settling = b.done
		b.silent[s.ID] = ent.silent
	}
	for _, n := range b.networks {
		k.ix.networks[n.ID].settling = b.done
	}
}

// release lets other calls remove what is left of the batch after a failure.
func (k *removals) release(b *batch) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, e := range b.endpoints {
		if ent := k.ix.endpoints[e.ID]; ent != nil {
			ent.settling = nil
		}
	}
	for _, s := range b.sandboxes {
		if ent := k.ix.sandboxes[s.ID]; ent != nil {
			ent.settling = nil
		}
	}
	for _, n := range b.networks {
		if ent := k.ix.networks[n.ID]; ent != nil {
			ent.settling = nil
		}
	}
	close(b.done)
}

// removeRuntime commits the removal of endpoints, their addresses and
// sandboxes at once.
func (k *removals) removeRuntime(ctx context.Context, b *batch) error {
	if len(b.endpoints)+len(b.sandboxes) == 0 {
		return nil
	}
	var claims []*cnm.Claim
	done := func(committed bool) {
		for _, c := range claims {
			c.Done(committed)
		}
		claims = nil
	}
	err := k.commit(ctx, func() (writes []cnm.Write, err error) {
		done(false)
		for _, e := range b.endpoints {
			for _, o := range append([]string{owner(e.ID)}, e.Holds...) {
				c, err := k.ipam.Release(ctx, e.Network, o)
				if err != nil {
					return nil, err
				}
				claims = append(claims, c)
				writes = append(writes, c.Writes...)
			}
			if writes, err = k.appendRemoval(ctx, writes, cnm.Key{Kind: cnm.KindEndpoint, ID: e.ID}); err != nil {
				return nil, err
			}
		}
		for _, s := range b.sandboxes {
			if writes, err = k.appendRemoval(ctx, writes, cnm.Key{Kind: cnm.KindSandbox, ID: s.ID}); err != nil {
				return nil, err
			}
		}
		return writes, nil
	})
	done(err == nil)
	if err != nil {
		return err
	}
	k.forget(b)
	return nil
}

// forget takes a removed batch of endpoints and sandboxes out of the index
// and tells about it.
func (k *removals) forget(b *batch) {
	k.mu.Lock()
	containers := map[string]string{}
	for _, e := range b.endpoints {
		if s := k.ix.sandboxes[e.Sandbox]; s != nil {
			containers[e.Sandbox] = s.v.Container
		}
		k.ix.dropEndpoint(e.ID)
	}
	for _, s := range b.sandboxes {
		k.ix.dropSandbox(s.ID)
	}
	k.mu.Unlock()
	for _, e := range b.endpoints {
		if !b.silent[e.ID] {
			k.emitEndpoint(ActionDisconnect, e, containers[e.Sandbox])
		}
	}
	for _, s := range b.sandboxes {
		if !b.silent[s.ID] {
			k.emit(Event{Kind: cnm.KindSandbox, Action: ActionRemove, ID: s.ID, Container: s.Container})
		}
	}
}

func (k *removals) removeDurable(ctx context.Context, b *batch) error {
	if len(b.networks) == 0 {
		return nil
	}
	err := k.commit(ctx, func() (writes []cnm.Write, err error) {
		for _, n := range b.networks {
			if writes, err = k.appendRemoval(ctx, writes, cnm.Key{Kind: cnm.KindNetwork, ID: n.ID}); err != nil {
				return nil, err
			}
		}
		return writes, nil
	})
	if err != nil {
		return err
	}
	k.mu.Lock()
	for _, n := range b.networks {
		k.ipam.Forget(n.ID)
		k.ix.dropNetwork(n.ID)
	}
	k.mu.Unlock()
	for _, n := range b.networks {
		k.emitNetwork(ActionRemove, n)
	}
	return nil
}

// appendRemoval adds the write that removes a record, unless it is gone.
func (k *removals) appendRemoval(ctx context.Context, writes []cnm.Write, key cnm.Key) ([]cnm.Write, error) {
	r, err := k.store.Get(ctx, key)
	if errors.Is(err, cnm.ErrNotFound) {
		return writes, nil
	}
	if err != nil {
		return nil, err
	}
	return append(writes, cnm.Write{Key: key, Revision: r.Revision}), nil
}

// silence keeps the removal of what was never announced from being announced.
func (k *removals) silence(sandbox string, endpoints []cnm.Endpoint) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if ent := k.ix.sandboxes[sandbox]; ent != nil {
		ent.silent = true
	}
	for _, e := range endpoints {
		if ent := k.ix.endpoints[e.ID]; ent != nil {
			ent.silent = true
		}
	}
}
