package remote

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/remote/plugin"
	"github.com/vethloom/vethloom/plan"
)

// Config is what a [Caller] works with. All but Log is required.
type Config struct {
	Store  cnm.Store
	Finder *plugin.Finder
	Ours   func(driver string) bool // drivers that are no plugin's
	// LastLink is the greatest index of a link of the host.
	LastLink func(context.Context) (uint32, error)
	// SandboxKey is the path of a sandbox's namespace.
	SandboxKey func(plan.NetNS) string
	Log        *slog.Logger
}

// Caller asks plugins for what the records ask of them. It holds nothing that is not in the store: what is to be done
// follows from a network's or endpoint's record and that of the last call about it, at a start as at any other time.
type Caller struct {
	cfg   Config
	locks locks
	used  atomic.Bool // there is, or was, a network of a plugin
	wake  chan struct{}
	// grants is nil where nobody gives addresses.
	grants   *Addresses
	replayed bool // plugins were asked again for what they gave before this start; for Run alone
}

// undoTime bounds what a plugin is told while somebody waits for a removal. What it takes longer for, or cannot be
// told, is for Run.
const undoTime = 5 * time.Second

// New makes a caller for the records of a store.
func New(ctx context.Context, c Config) (*Caller, error) {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	k := &Caller{cfg: c, wake: make(chan struct{}, 1)}
	networks, err := cnm.ListNetworks(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	calls, err := cnm.ListCalls(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	grants, err := cnm.ListGrants(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	k.used.Store(len(calls)+len(grants) > 0 || slices.ContainsFunc(networks, k.outside))
	return k, nil
}

// outside reports whether a network is of a plugin.
func (k *Caller) outside(n cnm.Network) bool {
	return n.Cluster == nil && !n.ConfigOnly && !k.cfg.Ours(n.Driver)
}

// Driver implements [cnm.Outside].
func (k *Caller) Driver(name string) cnm.OutsideDriver { return Driver{Plugin: name} }

// Find implements [cnm.Outside].
func (k *Caller) Find(ctx context.Context, name string) (cnm.OutsideDriver, error) {
	p, err := k.cfg.Finder.Find(ctx, name, plugin.NetworkDriver)
	if err == nil {
		_, err = p.Network().Capabilities(ctx)
	}
	switch {
	case errors.Is(err, plugin.ErrNoPlugin):
		return nil, &cnm.Error{Kind: cnm.ErrNotFound, Reason: err.Error()}
	case errors.Is(err, cnm.ErrInvalid):
		return nil, err
	case err != nil:
		return nil, unusable(name, err)
	}
	k.used.Store(true)
	return Driver{Plugin: name}, nil
}

func unusable(name string, err error) error {
	return &cnm.Error{Kind: cnm.ErrUnavailable, Field: "plugin", Value: name, Reason: "it does not do what it is asked",
		Cause: err, Remedy: "look at its log, and whether it runs"}
}

// Prepare makes the calls that come before the kernel agrees with the owners' records.
func (k *Caller) Prepare(ctx context.Context, patient bool, owners ...plan.Owner) error {
	return k.agreeAll(ctx, mode{patient: patient}, owners)
}

// Finish makes those that come after.
func (k *Caller) Finish(ctx context.Context, patient bool, owners ...plan.Owner) error {
	return k.agreeAll(ctx, mode{patient: patient, after: true}, owners)
}

// mode is when calls are made, and for whom.
type mode struct {
	after   bool // the kernel agrees with the record
	patient bool // nobody waits
}

func (k *Caller) agreeAll(ctx context.Context, m mode, owners []plan.Owner) error {
	if !k.used.Load() {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, o := range owners {
		kind, short, ok := cnm.ParseOwner(o)
		if ok && kind != cnm.KindSandbox {
			g.Go(func() error { return k.agree(ctx, m, kind, short) })
		}
	}
	return g.Wait()
}

// subject is a network or an endpoint, and the last call about it.
type subject struct {
	network  cnm.Network
	endpoint cnm.Endpoint
	wanted   bool // there is a record, and it is Active
	call     cnm.Call
}

// agree makes the calls that lead from the last one to what the record asks for.
func (k *Caller) agree(ctx context.Context, m mode, kind cnm.Kind, short string) error {
	unlock, err := k.locks.lock(ctx, cnm.CallID(kind, short))
	if err != nil {
		return err
	}
	defer unlock()
	s, err := k.read(ctx, kind, short)
	switch {
	case err != nil:
		return err
	case s.wanted && kind == cnm.KindNetwork:
		return k.makeNetwork(ctx, s)
	case s.wanted:
		return k.makeEndpoint(ctx, m, s)
	}
	if err = k.undo(ctx, m, kind, s); err != nil && !m.patient {
		k.cfg.Log.WarnContext(ctx, "a plugin could not be told of a removal; going on with that", "about",
			cnm.CallID(kind, short), "err", err)
		k.Wake()
		return nil
	}
	return err
}

// undo takes back what there is of a network or an endpoint that is not wanted.
func (k *Caller) undo(ctx context.Context, m mode, kind cnm.Kind, s subject) error {
	if !m.patient {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, undoTime, fmt.Errorf("no answer within %s", undoTime))
		defer cancel()
	}
	if kind == cnm.KindEndpoint {
		return k.removeEndpoint(ctx, m, s)
	}
	if s.call.Step != "" {
		if err := k.removeNetwork(ctx, s); err != nil {
			return err
		}
	}
	if n := s.network; m.after && n.IPAM != nil && n.Phase == cnm.Deleting {
		return k.giveBack(ctx, cnm.CallID(cnm.KindNetwork, n.ID))
	}
	return nil
}

// read reads the records about an owner.
func (k *Caller) read(ctx context.Context, kind cnm.Kind, short string) (s subject, err error) {
	calls, err := k.cfg.Store.Find(ctx, cnm.KindCall, cnm.CallID(kind, short))
	if err == nil && len(calls) > 0 {
		s.call, err = cnm.CallOf(calls[0])
	}
	if err != nil {
		return s, err
	}
	records, err := k.cfg.Store.Find(ctx, kind, short)
	if err != nil || len(records) == 0 {
		return s, err
	}
	if kind == cnm.KindNetwork {
		s.network, err = cnm.NetworkOf(records[0])
		s.wanted = s.network.Phase == cnm.Active
	} else if s.endpoint, err = cnm.EndpointOf(records[0]); err == nil {
		s.wanted = s.endpoint.Phase == cnm.Active && s.endpoint.Attached()
		s.network, err = k.networkOf(ctx, s.endpoint)
	}
	s.wanted = s.wanted && s.network.Phase == cnm.Active && k.outside(s.network)
	return s, err
}

// networkOf is an endpoint's network, the zero value when it is gone.
func (k *Caller) networkOf(ctx context.Context, e cnm.Endpoint) (cnm.Network, error) {
	rec, err := k.cfg.Store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: e.Network})
	if errors.Is(err, cnm.ErrNotFound) {
		return cnm.Network{}, nil
	}
	if err != nil {
		return cnm.Network{}, err
	}
	return cnm.NetworkOf(rec)
}

// write writes a call's record, before the call is made.
func (k *Caller) write(ctx context.Context, c *cnm.Call) error {
	w, err := cnm.Put(cnm.KindCall, c.ID(), *c, c.Revision)
	if err == nil {
		err = k.cfg.Store.Commit(ctx, w)
	}
	if err != nil {
		return fmt.Errorf("write down what plugin %s is asked for: %w", c.Driver, err)
	}
	rec, err := k.cfg.Store.Get(ctx, w.Key)
	c.Revision = rec.Revision
	return err
}

// forget removes a call's record: the plugin has nothing of what it was about.
func (k *Caller) forget(ctx context.Context, c *cnm.Call) error {
	if c.Revision == 0 {
		return nil
	}
	err := k.cfg.Store.Commit(ctx, cnm.Write{Key: cnm.Key{Kind: cnm.KindCall, ID: c.ID()}, Revision: c.Revision})
	if err != nil {
		return fmt.Errorf("write down that plugin %s has nothing of %s any more: %w", c.Driver, c.ID(), err)
	}
	*c = cnm.Call{Driver: c.Driver, Network: c.Network, Endpoint: c.Endpoint, NetNS: c.NetNS}
	return nil
}

// ask writes a step down and makes its call. When what came of it is not known, the step stays without Done.
func (k *Caller) ask(ctx context.Context, c *cnm.Call, step cnm.Step, call func(plugin.Network) error) error {
	p, err := k.cfg.Finder.Find(ctx, c.Driver, plugin.NetworkDriver)
	if err != nil {
		return unusable(c.Driver, err)
	}
	c.Step, c.Done = step, false
	if err := k.write(ctx, c); err != nil {
		return err
	}
	if err := call(p.Network()); err != nil {
		return err
	}
	c.Done = true
	return nil
}

// tell is ask for what takes something back: a plugin that refuses it, as it does not know what it is about, has been
// told too.
func (k *Caller) tell(ctx context.Context, c *cnm.Call, step cnm.Step, call func(plugin.Network) error) error {
	err := k.ask(ctx, c, step, call)
	if refused, ok := errors.AsType[*plugin.Refusal](err); ok {
		k.cfg.Log.InfoContext(ctx, "a plugin did not take back what it was told to", "step", step, "about", c.ID(),
			"err", refused)
	}
	if !plugin.Answered(err) {
		return err
	}
	c.Done = true
	return nil
}
