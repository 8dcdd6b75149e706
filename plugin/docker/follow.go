package docker

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// Follower keeps what netd knows of Docker's containers, and the networks that Docker has of the cluster's, as they
// are to be. It reads them in a loop of its own: who answers dockerd must not ask it. Without an engine it only ends
// the reservations that are too old.
type Follower struct {
	Backend
	Engine Engine // nil: Docker is not asked
	Log    *slog.Logger
	Pause  time.Duration // between two passes; 0: 10 s
	Grace  time.Duration // for which something must be gone in Docker before it goes here; 0: 20 s

	wake chan struct{}
	told map[string]cnm.Identity // by the endpoints' IDs in Docker
	gone map[string]time.Time    // what Docker does not have: since when

	mu      sync.Mutex
	trouble error // of the last pass
}

const (
	followPause = 10 * time.Second
	followGrace = 20 * time.Second
	settleTime  = 50 * time.Millisecond // events come in groups
	againTime   = time.Second           // between two tries to hear of events
	// reservationTime is how long an address may be reserved without an endpoint: dockerd makes that at once, and
	// forgets what it has asked for when it is killed before.
	reservationTime = time.Minute
)

// NewFollower makes a follower of an engine, or of none.
func NewFollower(b Backend, e Engine, log *slog.Logger) *Follower {
	return &Follower{Backend: b, Engine: e, Log: log, Pause: followPause, Grace: followGrace,
		wake: make(chan struct{}, 1), told: map[string]cnm.Identity{}, gone: map[string]time.Time{}}
}

// Wake has it look again soon.
func (f *Follower) Wake() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Trouble is what kept the last pass from its work, or nil.
func (f *Follower) Trouble() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble
}

// note keeps what a pass has met, and logs what is new.
func (f *Follower) note(err error) {
	f.mu.Lock()
	before := f.trouble
	f.trouble = err
	f.mu.Unlock()
	if err != nil && (before == nil || before.Error() != err.Error()) {
		f.Log.Warn("Docker's networks and containers are not as they should be", "err", err)
	}
}

// Run passes again and again until the context ends.
func (f *Follower) Run(ctx context.Context) {
	if f.Engine != nil {
		var watching sync.WaitGroup
		defer watching.Wait()
		watching.Go(func() { f.watch(ctx) })
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
			pause.Reset(settleTime)
			continue
		case <-pause.C:
		}
		err := f.Pass(ctx)
		if ctx.Err() == nil {
			f.note(err)
		}
		pause.Reset(f.Pause)
	}
}

// watch wakes the loop with what Docker tells of, and when it may tell again.
func (f *Follower) watch(ctx context.Context) {
	for ctx.Err() == nil {
		f.Wake()
		_ = f.Engine.Changes(ctx, f.Wake) // the passes say what is wrong
		select {
		case <-ctx.Done():
		case <-time.After(againTime):
		}
	}
}

// Pass looks once, and puts right what is not as it should be.
func (f *Follower) Pass(ctx context.Context) error {
	known, err := f.known(ctx)
	if err != nil {
		return err
	}
	if err := f.expire(ctx, known); err != nil || f.Engine == nil {
		return err
	}
	theirs, err := f.Engine.Networks(ctx)
	if err != nil {
		clear(f.gone) // what is gone must be so in two looks, and this was none
		return err
	}
	offered := f.offer(ctx, theirs)
	seen, err := f.identify(ctx, theirs)
	if err != nil {
		clear(f.gone)
		return errors.Join(offered, err)
	}
	return errors.Join(offered, f.collect(ctx, theirs, known, seen))
}

// known are the records of Docker's networks, by their IDs there.
func (b Backend) known(ctx context.Context) (map[string]known, error) {
	records, err := b.Store.Find(ctx, cnm.KindDocker, "")
	if err != nil {
		return nil, fmt.Errorf("read the records of Docker's networks: %w", err)
	}
	out := make(map[string]known, len(records))
	for _, r := range records {
		var k known
		if err := json.Unmarshal(r.Value, &k); err != nil {
			return nil, fmt.Errorf("read the record of Docker's network %s: %w", cnm.Short(r.Key.ID), err)
		}
		out[r.Key.ID] = k
	}
	return out, nil
}

// expire ends reservations that no endpoint was made of.
func (f *Follower) expire(ctx context.Context, networks map[string]known) error {
	kept := map[string]bool{}
	for _, k := range networks {
		for _, a := range k.Aux {
			kept[k.Network+"/"+a.String()] = true
		}
	}
	all, err := f.Controller.Networks(ctx)
	for _, n := range all {
		list, e := f.Controller.Reservations(ctx, n.ID)
		err = errors.Join(err, e)
		for _, r := range list {
			if !strings.HasPrefix(r.Key, keys) || time.Since(r.Since) < reservationTime ||
				kept[n.ID+"/"+r.Addr.Addr().String()] {
				continue
			}
			f.Log.Info("ending a reservation that Docker has forgotten", "network", n.Name, "address", r.Addr)
			err = errors.Join(err, f.Controller.Unreserve(ctx, n.ID, r.Key, r.Addr.Addr().Is6()))
		}
	}
	return err
}

// dockersOwn are names that Docker has a use of its own for.
var dockersOwn = []string{"bridge", "host", "none", "default", "ingress", "docker_gwbridge"}

// offer makes the networks of the cluster that Docker is without, and removes those it made that are gone.
func (f *Follower) offer(ctx context.Context, theirs []EngineNetwork) error {
	ours, err := f.Controller.Networks(ctx)
	if err != nil {
		return err
	}
	want := map[string]EngineNetwork{}
	for _, n := range ours {
		if n.Cluster == nil || n.ConfigOnly || n.Phase != cnm.Active || n.Gone() || n.Left() || len(n.Pools) == 0 ||
			slices.Contains(dockersOwn, n.Name) {
			continue
		}
		w := EngineNetwork{Name: n.Name, Driver: driverName, Net: n.Name, Made: n.ID, Internal: n.Internal}
		for _, p := range n.Pools {
			w.Subnets = append(w.Subnets, p.Subnet)
		}
		want[n.Name] = w
	}
	for _, t := range theirs {
		w, wanted := want[t.Name]
		delete(want, t.Name)
		switch own := t.Made == "" || t.Driver != driverName; {
		case own && wanted && (t.Driver != driverName || t.Net != w.Net):
			err = errors.Join(err, fmt.Errorf("network %s: Docker has one of its own of that name: docker network rm "+
				"it, or reach the cluster's by another name with docker network create", t.Name))
		case own:
		case !wanted || t.Made != w.Made || !sameSubnets(t.Subnets, w.Subnets):
			if e := f.Engine.RemoveNetwork(ctx, t.ID); e != nil { // it stays while containers are on it
				err = errors.Join(err, fmt.Errorf("network %s, which is not the cluster's any more: %w", t.Name, e))
				continue
			}
			f.Wake()
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if e := f.Engine.CreateNetwork(ctx, want[name]); e != nil {
			err = errors.Join(err, fmt.Errorf("network %s of the cluster: %w", name, e))
		}
	}
	return err
}

// sameSubnets compares without the order: Docker has one of its own.
func sameSubnets(a, b []netip.Prefix) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(p netip.Prefix) bool { return !slices.Contains(b, p) })
}

// identify notes which containers the endpoints belong to, and returns the IDs of all endpoints in Docker.
func (f *Follower) identify(ctx context.Context, theirs []EngineNetwork) (map[string]bool, error) {
	seen := map[string]bool{}
	for _, t := range theirs {
		if t.Driver != driverName {
			continue
		}
		ends, err := f.Engine.Endpoints(ctx, t.ID)
		if err != nil {
			return nil, err
		}
		for _, e := range ends {
			seen[e.ID] = true
			err := f.identifyOne(ctx, t.ID, e)
			if err != nil && !errors.Is(err, cnm.ErrNotFound) {
				return nil, err
			}
		}
	}
	for id := range f.told {
		if !seen[id] {
			delete(f.told, id)
		}
	}
	return seen, nil
}

// identifyOne notes which container an endpoint belongs to. One without a container has a name that is no container's.
func (f *Follower) identifyOne(ctx context.Context, network string, e EngineEndpoint) error {
	if cnm.CheckID(e.Container) != nil || cnm.CheckID(e.ID) != nil {
		return nil
	}
	before, known := f.told[e.ID]
	if known && before.Container == e.Container && before.Name == e.Name {
		return nil
	}
	if _, err := f.Controller.Sandbox(ctx, sandboxID(e.ID)); err != nil {
		return err
	}
	aliases, err := f.Engine.Aliases(ctx, e.Container, network)
	if err != nil {
		return err
	}
	who := cnm.Identity{Container: e.Container, Name: e.Name}
	for _, a := range cnm.CleanNames(append(aliases, cnm.Short(e.Container))) {
		if a != strings.ToLower(e.Name) && len(who.Aliases) < maxAliases {
			who.Aliases = append(who.Aliases, a)
		}
	}
	if !cnm.IsDNSName(strings.ToLower(e.Name)) {
		who.Name = cnm.Short(e.Container)
	}
	if err := f.Controller.SetIdentity(ctx, sandboxID(e.ID), who); err != nil {
		return err
	}
	f.told[e.ID] = cnm.Identity{Container: e.Container, Name: e.Name}
	return nil
}

// maxAliases bounds the names that one container of Docker's has.
const maxAliases = 64

// collect removes what Docker has forgotten: endpoints and networks that two looks did not find, with some time between
// them.
func (f *Follower) collect(ctx context.Context, theirs []EngineNetwork, networks map[string]known,
	seen map[string]bool) error {
	missing := map[string]func() error{}
	sandboxes, err := f.Controller.Sandboxes(ctx)
	if err != nil {
		return err
	}
	for _, s := range sandboxes {
		if id := s.Labels[endpointLabel]; s.Engine == cnm.EngineDocker && s.Handed && !seen[id] {
			missing["endpoint "+id] = func() error { return f.Controller.DeleteSandbox(ctx, s.ID) }
		}
	}
	for id := range networks {
		if !slices.ContainsFunc(theirs, func(t EngineNetwork) bool { return t.ID == id }) {
			missing["network "+id] = func() error {
				return f.forget(ctx, id)
			}
		}
	}
	for what := range f.gone {
		if missing[what] == nil {
			delete(f.gone, what)
		}
	}
	now := time.Now()
	for _, what := range slices.Sorted(maps.Keys(missing)) { // endpoints before networks
		since, known := f.gone[what]
		switch {
		case !known:
			f.gone[what] = now
		case now.Sub(since) >= cmp.Or(f.Grace, followGrace):
			f.Log.Info("removing what Docker has forgotten", "what", what)
			if e := missing[what](); e != nil {
				err = errors.Join(err, fmt.Errorf("remove %.21s, which Docker has forgotten: %w", what, e))
				continue
			}
			delete(f.gone, what)
		}
	}
	return err
}
