package cnm

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/vethloom/vethloom/internal/plan"
)

// The drivers and networks that the controller itself knows of.
const (
	DriverBridge = "bridge" // what a network request without a driver means
	DriverHost   = "host"   // sandboxes on it are the fabric's own namespace
	DriverNull   = "null"   // sandboxes on it have no endpoint

	NetworkBridge = "bridge"
	NetworkHost   = "host"
	NetworkNone   = "none"
)

// undoTimeout bounds how long a failed request is undone before that is left
// to the next passes of the fabric.
const undoTimeout = 30 * time.Second

// Config is what a [Controller] works with. Store, IPAM, Drivers and Fabric are
// required.
type Config struct {
	Store   Store
	IPAM    IPAM
	Drivers []Driver
	Fabric  Fabric
	Cluster Membership // nil: this node is in no cluster
	// DynamicPorts returns the range that host ports are picked from, and
	// which of them must not be. Nil: 49152 to 65535 (RFC 6335 section 6).
	DynamicPorts func() (from, to uint16, reserved func(uint16) bool)
	Now          func() time.Time // nil: time.Now
	Log          *slog.Logger     // nil: nothing is logged
	Events       func(Event)      // called after each change, must not block; nil: nobody listens
}

// Event tells of a change that has happened.
type Event struct {
	Time      time.Time
	Kind      Kind
	Action    Action
	ID        string
	Name      string // of the network
	Network   string // of an endpoint: the network's ID
	Sandbox   string // of an endpoint: the sandbox's ID
	Container string // of the sandbox
}

// Action is what has happened to a record.
type Action string

// The actions of an [Event]. Endpoints connect, disconnect and are renumbered.
const (
	ActionCreate     Action = "create"
	ActionRemove     Action = "remove"
	ActionConnect    Action = "connect"
	ActionDisconnect Action = "disconnect"
	ActionRenumber   Action = "renumber" // an endpoint has other addresses, as its node's share of the network is another
)

// Controller changes networks, sandboxes and endpoints. Each change is a
// commit of records followed by a pass of the fabric; nothing is done that the
// next start could not finish from the records alone.
//
// What it keeps in memory is an index over the store's records, rebuilt by New.
// Values it returns carry no Revision.
type Controller struct {
	store   Store
	ipam    IPAM
	drivers map[string]Driver
	fabric  Fabric
	cluster Membership
	dynamic func() (from, to uint16, reserved func(uint16) bool)
	now     func() time.Time
	log     *slog.Logger
	events  func(Event)

	locks keyLocks // one change at a time of one sandbox, one deletion of one network

	mu sync.Mutex // guards ix; never held during I/O
	ix *index
}

// New reads the records and returns a controller for them. Endpoints without
// their network or sandbox, which a store restored from an older copy can have,
// are marked for deletion.
func New(ctx context.Context, c Config) (*Controller, error) {
	k := &Controller{
		store: c.Store, ipam: c.IPAM, fabric: c.Fabric, cluster: c.Cluster, dynamic: c.DynamicPorts,
		now: c.Now, log: c.Log, events: c.Events,
		drivers: map[string]Driver{}, ix: newIndex(),
	}
	if k.now == nil {
		k.now = time.Now
	}
	if k.log == nil {
		k.log = slog.New(slog.DiscardHandler)
	}
	if k.events == nil {
		k.events = func(Event) {}
	}
	if k.dynamic == nil {
		k.dynamic = func() (uint16, uint16, func(uint16) bool) { return 49152, 65535, nil }
	}
	for _, d := range c.Drivers {
		k.drivers[d.Name()] = d
	}
	if err := k.load(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

func (k *Controller) load(ctx context.Context) error {
	networks, err := ListNetworks(ctx, k.store)
	if err != nil {
		return err
	}
	sandboxes, err := ListSandboxes(ctx, k.store)
	if err != nil {
		return err
	}
	endpoints, err := ListEndpoints(ctx, k.store)
	if err != nil {
		return err
	}
	for _, n := range networks {
		k.ix.putNetwork(n, false)
	}
	for _, s := range sandboxes {
		k.ix.putSandbox(s, false)
	}
	for _, e := range endpoints {
		if err := k.restore(ctx, e); err != nil {
			return err
		}
	}
	for _, n := range networks {
		if err := k.restoreShared(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (k *Controller) restore(ctx context.Context, e Endpoint) error {
	if e.Phase != Deleting && (k.ix.networks[e.Network] == nil || k.ix.sandboxes[e.Sandbox] == nil) {
		k.log.Warn("endpoint belongs to a network or sandbox that has no record; removing it",
			"endpoint", Short(e.ID), "network", Short(e.Network), "sandbox", Short(e.Sandbox))
		e.Phase = Deleting
		w, err := put(KindEndpoint, e.ID, e, e.Revision)
		if err != nil {
			return err
		}
		if err := k.store.Commit(ctx, w); err != nil {
			return fmt.Errorf("mark endpoint %s for deletion: %w", Short(e.ID), err)
		}
	}
	k.ix.putEndpoint(e, false)
	return nil
}

// driver finds a driver by name.
func (k *Controller) driver(name string) (Driver, error) {
	if d, ok := k.drivers[name]; ok {
		return d, nil
	}
	return nil, &Error{
		Kind: ErrInvalid, Field: "driver", Value: name,
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
func (k *Controller) newID(kind Kind) (string, error) {
	for range 100 {
		id, err := randomID()
		if err != nil {
			return "", err
		}
		if !k.ix.shortTaken(kind, id) {
			return id, nil
		}
	}
	return "", &Error{Kind: ErrExhausted, Reason: fmt.Sprintf("no free short ID for another %s", kind), Remedy: "remove some"}
}

// change reads a record, lets edit change its value and writes it back, once
// more when somebody else has changed it meanwhile.
func change[T record](ctx context.Context, s Store, kind Kind, id string, edit func(*T)) (Write, error) {
	rec, err := s.Get(ctx, Key{kind, id})
	if err != nil {
		return Write{}, err
	}
	v, err := decode[T](rec)
	if err != nil {
		return Write{}, err
	}
	edit(&v)
	return put(kind, id, v, rec.Revision)
}

// commit commits what build returns, and builds it anew when a record has
// changed meanwhile.
func (k *Controller) commit(ctx context.Context, build func() ([]Write, error)) error {
	for try := 0; ; try++ {
		writes, err := build()
		if err != nil {
			return err
		}
		if len(writes) == 0 {
			return nil
		}
		err = k.store.Commit(ctx, writes...)
		if err == nil || !errors.Is(err, ErrConflict) || try == 9 {
			return err
		}
	}
}

func (k *Controller) converge(ctx context.Context, scopes ...plan.Scope) error {
	return k.fabric.Converge(ctx, scopes...)
}

func (k *Controller) emit(e Event) {
	e.Time = k.now()
	k.events(e)
}
