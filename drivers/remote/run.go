package remote

import (
	"context"
	"errors"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// The times between two looks at what is left to do: with nothing left, and the bounds of the back-off.
const (
	idleTime   = 30 * time.Second
	firstRetry = time.Second
	mostRetry  = 30 * time.Second
	atATime    = 8 // owners
)

// Wake has Run look at what is left to do.
func (k *Caller) Wake() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run finishes, or takes back, what a call of the API or a life of netd left, until the context ends. converge is a
// pass over an owner with the calls before and after it; lost tells which endpoints have lost the link that a plugin
// made.
func (k *Caller) Run(ctx context.Context, converge func(context.Context, plan.Owner) error,
	lost func() []plan.Owner) error {
	retry := time.Duration(0)
	for ctx.Err() == nil {
		err := k.round(ctx, converge, lost)
		wake, wait := k.wake, idleTime
		if err != nil {
			retry = min(max(firstRetry, 2*retry), mostRetry)
			wake, wait = nil, retry
			k.cfg.Log.WarnContext(ctx, "plugins have not done all that they were asked", "again in", wait, "err", err)
		} else {
			retry = 0
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// round makes the plugins agree with the records.
func (k *Caller) round(ctx context.Context, converge func(context.Context, plan.Owner) error,
	lost func() []plan.Owner) error {
	if !k.used.Load() {
		return nil
	}
	for _, o := range lost() {
		if err := k.again(ctx, o); err != nil {
			return err
		}
	}
	owners, err := k.open(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(atATime)
	errs := make([]error, len(owners))
	for i, o := range owners {
		g.Go(func() error { errs[i] = converge(ctx, o); return nil })
	}
	if err := errors.Join(g.Wait(), errors.Join(errs...)); err != nil || k.grants == nil {
		return err
	}
	if !k.replayed {
		if err := k.replay(ctx); err != nil {
			return err
		}
		k.replayed = true
	}
	return k.orphans(ctx)
}

// again takes an endpoint back whose link is gone. It is wanted still, so it is made again.
func (k *Caller) again(ctx context.Context, owner plan.Owner) error {
	kind, short, ok := cnm.ParseOwner(owner)
	if !ok || kind != cnm.KindEndpoint {
		return nil
	}
	unlock, err := k.locks.lock(ctx, cnm.CallID(kind, short))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := k.read(ctx, kind, short)
	if err != nil || !s.call.Joined() {
		return err
	}
	return k.removeEndpoint(ctx, mode{after: true, patient: true}, s)
}

// open lists the owners whose plugin has not done all that their records ask for, networks first.
func (k *Caller) open(ctx context.Context) ([]plan.Owner, error) {
	calls, err := cnm.ListCalls(ctx, k.cfg.Store)
	if err != nil {
		return nil, err
	}
	networks, err := cnm.ListNetworks(ctx, k.cfg.Store)
	if err != nil {
		return nil, err
	}
	endpoints, err := cnm.ListEndpoints(ctx, k.cfg.Store)
	if err != nil {
		return nil, err
	}
	left := map[string]cnm.Call{}
	for _, c := range calls {
		left[c.ID()] = c
	}
	var out []plan.Owner
	of := map[string]cnm.Network{}
	for _, n := range networks {
		if n.Phase != cnm.Active || !k.outside(n) {
			continue
		}
		of[n.ID] = n
		id := cnm.CallID(cnm.KindNetwork, n.ID)
		if c := left[id]; c.Step != cnm.StepCreate || !c.Done {
			out = append(out, cnm.NetworkOwner(n.ID))
		}
		delete(left, id)
	}
	for _, e := range endpoints {
		n, ok := of[e.Network]
		if !ok || e.Phase != cnm.Active || !e.Attached() {
			continue
		}
		id := cnm.CallID(cnm.KindEndpoint, e.ID)
		if !settled(subject{network: n, endpoint: e, call: left[id]}) {
			out = append(out, cnm.EndpointOwner(e.ID))
		}
		delete(left, id)
	}
	for _, c := range left {
		if c.Endpoint != "" {
			out = append(out, cnm.EndpointOwner(c.Endpoint))
		} else {
			out = append(out, cnm.NetworkOwner(c.Network))
		}
	}
	return out, nil
}
