package controller

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/keylock"
	"github.com/vethloom/vethloom/plan"
)

// undoTimeout bounds how long a failed request is undone before that is left
// to the next passes of the fabric.
const undoTimeout = 30 * time.Second

// records are the store's records, an index over them and what every part of
// the controller needs to read and change them.
type records struct {
	store   cnm.Store
	ipam    cnm.IPAM
	drivers map[string]cnm.Driver
	outside cnm.Outside
	fabric  cnm.Fabric
	cluster cnm.Membership
	now     func() time.Time

	identify  func(path string) (uint64, error)           // nil: no namespace of others is adopted
	hostAddrs func(context.Context) ([]netip.Addr, error) // nil: not known
	log       *slog.Logger
	events    func(Event)

	locks keylock.Locks // one change at a time of one sandbox, one deletion of one network

	mu sync.Mutex // guards ix; never held during I/O
	ix *index
}

func newRecords(c Config) *records {
	r := &records{
		store: c.Store, ipam: c.IPAM, fabric: c.Fabric, cluster: c.Cluster, outside: c.Outside,
		identify: c.Identify, hostAddrs: c.HostAddrs, now: c.Now, log: c.Log, events: c.Events,
		drivers: map[string]cnm.Driver{},
	}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.events == nil {
		r.events = func(Event) {}
	}
	dynamic := c.DynamicPorts
	if dynamic == nil {
		dynamic = func() (uint16, uint16, func(uint16) bool) { return 49152, 65535, nil }
	}
	r.ix = newIndex(dynamic)
	for _, d := range c.Drivers {
		r.drivers[d.Name()] = d
	}
	return r
}

// driverOf is the driver of a network that exists, nil when there is none.
func (k *records) driverOf(n cnm.Network) cnm.Driver {
	if d, ok := k.drivers[n.Driver]; ok {
		return d
	}
	if k.outside != nil && n.Cluster == nil {
		return k.outside.Driver(n.Driver)
	}
	return nil
}

// driver finds the driver of a network.
func (k *records) driver(n cnm.Network) (cnm.Driver, error) {
	if d := k.driverOf(n); d != nil {
		return d, nil
	}
	return nil, k.noDriver(n.Driver, nil)
}

// findDriver finds the driver of a network that is to be made, also among those of others.
func (k *records) findDriver(ctx context.Context, name string) (cnm.Driver, error) {
	if d, ok := k.drivers[name]; ok {
		return d, nil
	}
	if k.outside == nil {
		return nil, k.noDriver(name, nil)
	}
	d, err := k.outside.Find(ctx, name)
	if errors.Is(err, cnm.ErrNotFound) {
		return nil, k.noDriver(name, err)
	}
	return d, err
}

func (k *records) noDriver(name string, cause error) error {
	return &cnm.Error{
		Kind: cnm.ErrInvalid, Field: "driver", Value: name, Cause: cause,
		Reason: "there is no such driver", Remedy: "choose one of " + joinNames(sortedKeys(k.drivers)),
	}
}

// undoing is the context of undoing a change that failed, perhaps because its own
// context is done.
func undoing(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
}

// randomID returns 64 random hex digits.
func randomID() (string, error) {
	var b [32]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make an ID: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// newID returns an ID whose short form no live record of the kind has. The
// caller holds mu.
func (k *records) newID(kind cnm.Kind) (string, error) {
	for range 100 {
		id, err := randomID()
		if err != nil {
			return "", err
		}
		if !k.ix.shortTaken(kind, id) {
			return id, nil
		}
	}
	return "", &cnm.Error{Kind: cnm.ErrExhausted, Reason: fmt.Sprintf("no free short ID for another %s", kind),
		Remedy: "remove some"}
}

// commit commits what build returns, and builds it anew when a record has
// changed meanwhile.
func (k *records) commit(ctx context.Context, build func() ([]cnm.Write, error)) error {
	for try := 0; ; try++ {
		writes, err := build()
		if err != nil {
			return err
		}
		if len(writes) == 0 {
			return nil
		}
		err = k.store.Commit(ctx, writes...)
		if err == nil || !errors.Is(err, cnm.ErrConflict) || try == 9 {
			return err
		}
	}
}

func (k *records) converge(ctx context.Context, owners ...plan.Owner) error {
	return k.fabric.Converge(ctx, owners...)
}

func (k *records) emit(e Event) {
	e.Time = k.now()
	k.events(e)
}

// undo runs the step that takes back a failed change and returns the error of the
// change.
func (k *records) undo(ctx context.Context, err error, step func(context.Context) error) error {
	ctx, cancel := undoing(ctx)
	defer cancel()
	if e := step(ctx); e != nil {
		return fmt.Errorf("%w (and taking it back, which later passes go on with: %w)", err, e)
	}
	return err
}

func (k *records) emitNetwork(a Action, n cnm.Network) {
	k.emit(Event{Kind: cnm.KindNetwork, Action: a, ID: n.ID, Name: n.Name, Driver: n.Driver})
}

func (k *records) emitEndpoint(a Action, e cnm.Endpoint, container string) {
	k.mu.Lock()
	name, driver := "", ""
	if n := k.ix.networks[e.Network]; n != nil {
		name, driver = n.v.Name, n.v.Driver
	}
	k.mu.Unlock()
	k.emit(Event{Kind: cnm.KindEndpoint, Action: a, ID: e.ID, Name: name, Driver: driver, Network: e.Network,
		Sandbox: e.Sandbox, Container: container})
}

// membership is what cluster networks are made and changed with.
func (k *records) membership(n cnm.Network) (cnm.Membership, error) {
	if k.cluster != nil {
		return k.cluster, nil
	}
	return nil, &cnm.Error{
		Kind: cnm.ErrUnavailable, Field: "network", Value: n.Name,
		Reason: fmt.Sprintf("networks of driver %s are of a cluster, and this node is in none", n.Driver),
		Remedy: "start netd with --etcd, or choose driver bridge",
	}
}
