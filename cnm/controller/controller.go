package controller

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/cnm"
)

// Config is what a [Controller] works with. Store, IPAM, Drivers and Fabric are
// required.
type Config struct {
	Store   cnm.Store
	IPAM    cnm.IPAM
	Drivers []cnm.Driver
	Fabric  cnm.Fabric
	Cluster cnm.Membership // nil: this node is in no cluster
	Outside cnm.Outside    // nil: Drivers are all there are
	// DynamicPorts returns the range that host ports are picked from, and
	// which of them must not be. Nil: 49152 to 65535 (RFC 6335 section 6).
	DynamicPorts func() (from, to uint16, reserved func(uint16) bool)
	// Identify returns the cookie of a network namespace of somebody else (SO_NETNS_COOKIE). Nil: none is adopted.
	Identify func(path string) (cookie uint64, err error)
	// HostAddrs returns the addresses of the host that what leaves it may carry. Nil: nobody asks whether it has one.
	HostAddrs func(context.Context) ([]netip.Addr, error)
	Now       func() time.Time // nil: time.Now
	Log       *slog.Logger     // nil: nothing is logged
	Events    func(Event)      // called after each change, must not block; nil: nobody listens
}

// Event tells of a change that has happened.
type Event struct {
	Time      time.Time
	Kind      cnm.Kind
	Action    Action
	ID        string
	Name      string // of the network
	Driver    string // of the network
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
	ActionUpdate     Action = "update" // a network has other options or labels, an endpoint other ports
	ActionConnect    Action = "connect"
	ActionDisconnect Action = "disconnect"
	// an endpoint has other addresses, because its node's share of the network has changed
	ActionRenumber Action = "renumber"
	ActionLeave    Action = "leave" // this node has left a network of the cluster
	ActionJoin     Action = "join"  // and has joined it again
)

// Controller changes networks, sandboxes and endpoints. Each change is a
// commit of records followed by a pass of the fabric; nothing is done that the
// next start could not finish from the records alone.
//
// What it keeps in memory is an index over the store's records, rebuilt by New.
// Values it returns carry no Revision. Its methods are those of its parts.
type Controller struct {
	*records
	*removals
	*shared
	*networks
	*updates
	*endpoints
	*sandboxes
	*reservations
}

// New reads the records and returns a controller for them. Endpoints without
// their network or sandbox, which a store restored from an older copy can have,
// are marked for deletion.
func New(ctx context.Context, c Config) (*Controller, error) {
	r := newRecords(c)
	out := &removals{r}
	addrs := &addresses{r}
	sh := &shared{records: r, addrs: addrs, out: out}
	ends := &endpoints{records: r, addrs: addrs, out: out}
	k := &Controller{
		records: r, removals: out, shared: sh, endpoints: ends,
		networks:  &networks{records: r, shared: sh, out: out},
		updates:   &updates{records: r, ends: ends, shared: sh},
		sandboxes: &sandboxes{records: r, ends: ends, out: out}, reservations: &reservations{r, addrs},
	}
	if err := k.load(ctx); err != nil {
		return nil, err
	}
	return k, nil
}

// load enters the store's records into the index, and finishes what a stop of the process cut short.
func (k *Controller) load(ctx context.Context) error {
	networks, err := cnm.ListNetworks(ctx, k.store)
	if err != nil {
		return err
	}
	sandboxes, err := cnm.ListSandboxes(ctx, k.store)
	if err != nil {
		return err
	}
	endpoints, err := cnm.ListEndpoints(ctx, k.store)
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

// orphaned reports whether the endpoint's network, or the sandbox that has it, is missing.
func (k *Controller) orphaned(e cnm.Endpoint) bool {
	return k.ix.networks[e.Network] == nil || e.Attached() && k.ix.sandboxes[e.Sandbox] == nil
}

func (k *Controller) restore(ctx context.Context, e cnm.Endpoint) error {
	if e.Phase != cnm.Deleting && k.orphaned(e) {
		k.log.Warn("endpoint belongs to a network or sandbox that has no record; removing it",
			"endpoint", cnm.Short(e.ID), "network", cnm.Short(e.Network), "sandbox", cnm.Short(e.Sandbox))
		e.Phase = cnm.Deleting
		w, err := cnm.Put(cnm.KindEndpoint, e.ID, e, e.Revision)
		if err != nil {
			return err
		}
		if err := k.store.Commit(ctx, w); err != nil {
			return fmt.Errorf("mark endpoint %s for deletion: %w", cnm.Short(e.ID), err)
		}
	}
	k.ix.putEndpoint(e, false)
	return nil
}
