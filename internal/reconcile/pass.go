package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/plan"
)

// canTrust reports whether the memory of what was applied holds for owners.
func (r *Reconciler) canTrust(owners []plan.Owner) bool {
	if !r.known {
		return false
	}
	return !slices.ContainsFunc(owners, func(s plan.Owner) bool { return r.dirty[s] })
}

// ownerPass converges owners from what they were last given, without a look at the kernel.
// When that fails, what the kernel has is no longer known, so the full pass
// decides, and finds out which owner is at fault.
func (r *Reconciler) ownerPass(ctx context.Context, owners []plan.Owner) ([]plan.Op, map[plan.Owner]error) {
	wants := make(map[plan.Owner]plan.State, len(owners))
	errs := map[plan.Owner]error{}
	var want, have []plan.State
	for _, s := range owners {
		w, err := r.cfg.Source.Render(ctx, s)
		if err != nil {
			errs[s] = fmt.Errorf("render %s: %w", s, err)
			continue
		}
		wants[s] = w
		want = append(want, w)
		have = append(have, r.applied[s])
	}
	ops := plan.Diff(plan.Union(want...), plan.Union(have...))
	if remakes(ops) {
		_, ops, errs = r.fullPass(ctx, owners)
		return ops, errs
	}
	if len(ops) > 0 {
		if err := r.cfg.Kernel.Apply(ctx, ops); err != nil {
			for _, s := range owners {
				r.dirty[s] = true
			}
			_, ops, errs = r.fullPass(ctx, owners)
			return ops, errs
		}
	}
	for s, w := range wants {
		r.remember(s, w)
	}
	return ops, errs
}

// remakes reports whether a link goes to come again, as one whose kind or identifiers change does. What other
// owners have on it goes with it, so they have to be looked at too.
func remakes(ops []plan.Op) bool {
	gone := map[string]bool{}
	for _, op := range ops {
		if _, ok := op.Object.(plan.Link); !ok {
			continue
		}
		switch op.Verb {
		case plan.Delete:
			gone[op.Object.Key()] = true
		case plan.Create:
			if gone[op.Object.Key()] {
				return true
			}
		}
	}
	return false
}

func (r *Reconciler) remember(s plan.Owner, w plan.State) {
	delete(r.dirty, s)
	if w.Empty() {
		delete(r.applied, s)
	} else {
		r.applied[s] = w
	}
}

// fullPass converges every owner against what the kernel has. An owner whose
// operation fails is set aside, with its error, or has nothing, and the others go on. The owners
// returned are all that the pass was about, asked among them.
func (r *Reconciler) fullPass(ctx context.Context, asked []plan.Owner) ([]plan.Owner, []plan.Op, map[plan.Owner]error) {
	all := func(err error) map[plan.Owner]error {
		errs := map[plan.Owner]error{}
		for _, s := range asked {
			errs[s] = err
		}
		r.known = false
		return errs
	}
	view, err := r.look(ctx)
	if err != nil {
		return asked, nil, all(err)
	}
	owners := append(slices.Clone(asked), view.owners...)
	slices.Sort(owners)
	owners = slices.Compact(owners)
	var done []plan.Op
	for {
		ops := view.ops()
		if len(ops) == 0 {
			break
		}
		err := r.cfg.Kernel.Apply(ctx, ops)
		if err == nil {
			done = append(done, ops...)
			break
		}
		culprit, ok := view.blame(err)
		if !ok || ctx.Err() != nil {
			return owners, done, all(err)
		}
		view.fail(culprit, err, r.cfg.Whole != nil && r.cfg.Whole(culprit))
		if view.have, err = r.cfg.Kernel.Observe(ctx, view.want.Sysctls); err != nil {
			return owners, done, all(fmt.Errorf("observe the kernel: %w", err))
		}
	}
	r.known = true
	maps.DeleteFunc(r.applied, func(s plan.Owner, _ plan.State) bool { return view.errs[s] == nil })
	clear(r.dirty)
	for s, w := range view.wants {
		r.remember(s, w)
	}
	for s := range view.errs {
		r.dirty[s] = true
	}
	return owners, done, view.errs
}

// look renders every owner and observes the kernel.
func (r *Reconciler) look(ctx context.Context) (*view, error) {
	wants, err := r.cfg.Source.All(ctx)
	if err != nil {
		return nil, fmt.Errorf("render the records: %w", err)
	}
	v := &view{wants: map[plan.Owner]plan.State{}, errs: map[plan.Owner]error{}, aside: map[plan.Owner]bool{},
		kept: r.applied}
	for s, w := range wants {
		v.owners = append(v.owners, s)
		if w.Err != nil {
			v.fail(s, fmt.Errorf("render %s: %w", s, w.Err), false)
			continue
		}
		v.wants[s] = w.State
	}
	v.unite()
	if v.have, err = r.cfg.Kernel.Observe(ctx, v.want.Sysctls); err != nil {
		return nil, fmt.Errorf("observe the kernel: %w", err)
	}
	return v, nil
}

// underWay waits for what is asked for already. What has failed of it, somebody else is told.
func (r *Reconciler) underWay(ctx context.Context) error {
	r.mu.Lock()
	owners := slices.Concat(slices.Collect(maps.Keys(r.queued)), slices.Collect(maps.Keys(r.taken)))
	r.mu.Unlock()
	_ = r.Converge(ctx, owners...)
	return ctx.Err()
}

// Diff is what a full pass would do now, after what is asked for already. When that is something, one is on its way.
func (r *Reconciler) Diff(ctx context.Context) ([]plan.Op, error) {
	if err := r.underWay(ctx); err != nil {
		return nil, err
	}
	r.pass.Lock()
	defer r.pass.Unlock()
	v, err := r.look(ctx)
	if err != nil {
		return nil, err
	}
	ops := v.ops()
	if len(ops) > 0 {
		r.Resync()
	}
	return ops, nil
}
