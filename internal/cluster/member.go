package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/etcd"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Driver is what a driver of networks with leases tells of them.
type Driver interface {
	cnm.PeerDriver
	// LeaseConfig is the configuration that a new network's lease directory gets.
	LeaseConfig(cnm.Network) (subnet.Config, error)
	// Attrs is what this node's lease says of it.
	Attrs(cnm.Network, cnm.Host) (subnet.Attrs, error)
	// Peer decodes another node's lease.
	Peer(cnm.Network, subnet.Lease) (cnm.Peer, error)
	// Join takes over what a directory that somebody else made says, when the network's options name one.
	Join(n cnm.Network, dir string, c subnet.Config) (cnm.Network, cnm.TunnelRequest, error)
	// JoinDir is the directory that the network's options name; "" for one of its own.
	JoinDir(cnm.Network) string
	// Env is what subnet.env says of this node's lease.
	Env(cnm.Network, cnm.Host) (subnet.Env, error)
}

// Controller is the part of [controller.Controller] that a member works with.
type Controller interface {
	Adopt(context.Context, cnm.Network) error
	Abandon(ctx context.Context, id string) error
	Network(ctx context.Context, ref string) (cnm.Network, error)
	Networks(context.Context) ([]cnm.Network, error)
	Endpoints(context.Context) ([]cnm.Endpoint, error)
	Left() map[string]string // the names of the networks that this node has left, by ID
}

// Config is what a [Member] works with. All of it is required but where it says so.
type Config struct {
	Root    string // the node's ID is kept here
	Local   cnm.Store
	Prefix  string // of all keys in etcd
	Name    string // of the node
	Version string
	Boot    string
	Drivers []cnm.Driver
	IPAM    *ipam.IPAM
	Host    func() cnm.Host
	// what the host itself uses; may be nil
	Needs func(context.Context) (Needs, error)
	Space []netip.Prefix // in which networks of the cluster may be; empty: DefaultSpace
	// files that this node's leases are written to as flannel's subnet.env, by the network's name; may be nil
	SubnetEnv map[string]string
	// the flanneld that runs on this host for a directory of leases, "" for none; may be nil
	Rival  func(leases string) string
	Wake   func(...plan.Owner)
	Notify func(action string, attrs map[string]string) // told of what users should know; must not block
	Log    *slog.Logger
	Times  Times
}

// Times are the durations that a member goes by. Zero values take the defaults.
type Times struct {
	Lease time.Duration // what a node has is its own that long after it was last heard of; 1 hour
	Alive time.Duration // a node counts as gone that long after it was last heard of; 15 s
	Grace time.Duration // paths to a node whose records are gone stay that long; 30 s
	Retry time.Duration // between tries of what failed; 1 s
	Idle  time.Duration // addresses that nobody uses are given back after that long; 5 s
	// between looks for records that were too many before; 30 s
	Relist time.Duration
}

// Member is this node's membership of the cluster. It implements [cnm.Membership]. What it does is done by its
// parts, each of which changes one thing:
//
//   - publisher writes what this node tells the others: itself, its sign of life, its endpoints.
//   - follower keeps the replica of what etcd has.
//   - networks makes, removes, takes up and gives up networks.
//   - leases holds this node's subnet leases, blocks its address blocks.
//   - peers copies what other nodes have into the local store, where renders find it.
type Member struct {
	*core
	told string // the errors that were logged last
}

// core is what the parts share: the configuration, the connection, and the replica.
type core struct {
	cfg      Config
	id       string
	instance string
	drivers  map[string]cnm.Driver
	ctrl     Controller

	publisher publisher
	follower  follower
	networks  networks
	leases    leases
	blocks    blocks
	peers     peers

	wake chan struct{}
	life context.Context // of Run

	mu     sync.Mutex // guards what follows; never held during I/O
	client *clientv3.Client
	store  *etcdstore.Store
	lease  *etcd.Lease
	alive  *etcd.Lease
	self   record.Self
	rep    replica
	ahead  map[string]*etcd.Item // keys that this node has written and the watch has not brought yet
	dirs   map[string]*directory // lease directories that are followed, by network ID
	dirty  dirty
	making map[string]making // networks that Create is making here, until the controller has them
	lost   bool              // etcd has lost data, and what is missing there is ours to write again
	lostAt time.Time         // when that was last over
	lossAt time.Time         // when data was last seen to be lost
	state  State
	turned chan struct{}  // closed when etcd comes or goes, and made anew
	excess map[string]int // how many records there are more than are heeded, by class
	// why what this node tells the others is not in etcd
	notWritten error
	refused    error // why this node may not be a member
	around     surroundings
	troubles   map[string]error            // what keeps networks from being as the cluster has them, by ID
	left       map[string]string           // the names of networks that this node has left, by ID
	held       map[string]record.HeldLease // by network ID
}

func newCore(cfg Config) *core {
	m := &core{
		cfg: cfg, drivers: map[string]cnm.Driver{}, wake: make(chan struct{}, 1), rep: newReplica(),
		ahead: map[string]*etcd.Item{}, dirs: map[string]*directory{}, making: map[string]making{},
		held: map[string]record.HeldLease{}, troubles: map[string]error{}, dirty: newDirty(),
		state: State{Since: time.Now()}, turned: make(chan struct{}),
	}
	for _, d := range cfg.Drivers {
		m.drivers[d.Name()] = d
	}
	m.publisher, m.follower = publisher{core: m, kept: &record.Self{}}, follower{m}
	m.networks = networks{core: m, adopted: map[string]string{}}
	m.leases = leases{m}
	m.blocks = blocks{core: m, extending: &sync.RWMutex{}, idle: map[ownBlock]time.Time{}}
	m.peers = peers{core: m, known: map[string]peerState{}, vanishing: map[string]bool{},
		nodes: map[string]peerNode{}}
	return m
}

// State is how the member stands with etcd.
type State struct {
	Store     string // where etcd is, for people
	Connected bool
	Since     time.Time // of the last change of Connected
	Err       error
	Synced    bool   // everything was read once
	Twin      string // the address of another host that is a member with this node's identity; "": none
}

// New reads the node's identity, made on the first start, and what the local store remembers.
func New(ctx context.Context, cfg Config) (*Member, error) {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.Times.Lease, time.Hour}, {&cfg.Times.Alive, 15 * time.Second}, {&cfg.Times.Grace, 30 * time.Second},
		{&cfg.Times.Retry, time.Second}, {&cfg.Times.Idle, 5 * time.Second},
		{&cfg.Times.Relist, 30 * time.Second}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	m := &Member{core: newCore(cfg)}
	var err error
	if m.id, err = identity(cfg.Root); err != nil {
		return nil, err
	}
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, fmt.Errorf("make the instance's ID: %w", err)
	}
	m.instance = hex.EncodeToString(b[:])
	return m, m.recall(ctx)
}

// identity reads the node's ID, or makes one.
func identity(root string) (string, error) {
	path := filepath.Join(root, "node-id")
	b, err := os.ReadFile(path)
	if err == nil {
		id := strings.TrimSpace(string(b))
		if raw, err := hex.DecodeString(strings.ReplaceAll(id, "-", "")); err != nil || len(raw) != 16 {
			return "", fmt.Errorf("%s holds %q, which is no UUID: remove the file to get a new identity", path, id)
		}
		return id, nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read the node's ID: %w", err)
	}
	var u [16]byte
	if _, err := rand.Read(u[:]); err != nil {
		return "", fmt.Errorf("make the node's ID: %w", err)
	}
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80 // version 4 (RFC 9562 section 5.4)
	id := fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
	tmp := path + ".new"
	if err := os.WriteFile(tmp, []byte(id+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("keep the node's ID: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return "", fmt.Errorf("keep the node's ID: %w", err)
	}
	return id, nil
}

// recall reads what an earlier life knew.
func (m *Member) recall(ctx context.Context) error {
	records, err := m.cfg.Local.List(ctx, cnm.KindMember)
	if err != nil {
		return fmt.Errorf("read the node's membership: %w", err)
	}
	for _, r := range records {
		if r.Key == record.SelfKey() {
			if m.self, err = record.Decode[record.Self](r.Value); err != nil {
				return fmt.Errorf("decode the node's membership: %w", err)
			}
		} else if id, ok := strings.CutPrefix(r.Key.ID, "lease/"); ok {
			if m.held[id], err = record.Decode[record.HeldLease](r.Value); err != nil {
				return fmt.Errorf("decode the node's lease of network %s: %w", cnm.Short(id), err)
			}
		}
	}
	return m.peers.rereadPeers(ctx)
}

// ID is the node's.
func (m *core) ID() string { return m.id }

// Use sets the controller, which is made after its member. It comes before Run.
func (m *Member) Use(c Controller) { m.ctrl = c }

// State tells how the member stands with etcd.
func (m *core) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	if m.refused != nil {
		s.Err = m.refused
	}
	return s
}

// Run connects to etcd and keeps both sides alike until the context ends. Connect returns a client, in
// its own time; where names etcd for people. What the node has stays its own.
func (m *Member) Run(ctx context.Context, where string, connect func(context.Context) (*clientv3.Client, error)) error {
	m.mu.Lock()
	m.state.Store = where
	m.mu.Unlock()
	client := m.connect(ctx, connect)
	if client == nil {
		return nil
	}
	store := etcdstore.New(client, m.cfg.Prefix)
	m.mu.Lock()
	m.client, m.store = client, store
	m.lease = etcd.NewLease(client, m.cfg.Times.Lease, m.self.Lease, m.cfg.Log)
	m.alive = etcd.NewLease(client, m.cfg.Times.Alive, 0, m.cfg.Log)
	m.mu.Unlock()
	g, ctx := errgroup.WithContext(ctx)
	m.life = ctx
	g.Go(func() error { return m.lease.Run(ctx) })
	g.Go(func() error { return m.alive.Run(ctx) })
	g.Go(func() error { return m.follower.follow(ctx) })
	g.Go(func() error { return m.work(ctx, g) })
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect tries until there is a client; nil when the context ended before.
func (m *Member) connect(ctx context.Context, connect func(context.Context) (*clientv3.Client,
	error)) *clientv3.Client {
	for {
		client, err := connect(ctx)
		if err == nil {
			return client
		}
		if ctx.Err() != nil {
			return nil
		}
		m.connected(false, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(m.cfg.Times.Retry):
		}
	}
}

// connected notes whether etcd answers.
func (m *core) connected(yes bool, err error) {
	m.mu.Lock()
	changed := m.state.Connected != yes
	if changed {
		m.state.Connected, m.state.Since = yes, time.Now()
		close(m.turned)
		m.turned = make(chan struct{})
	}
	first := m.state.Err == nil && err != nil
	m.state.Err = err
	m.mu.Unlock()
	switch {
	case changed && yes:
		m.cfg.Log.Info("etcd answers")
		m.Changed()
	case changed || first:
		m.cfg.Log.Warn("etcd does not answer; traffic goes on with what is known", "err", err)
	}
}

// Changed is to be called when this node's endpoints or networks or the host have changed.
func (m *core) Changed() {
	m.mu.Lock()
	m.dirty.self = true
	m.mu.Unlock()
	m.signal()
}

// HostChanged is to be called when the addresses or the MTU of the uplink have changed.
func (m *core) HostChanged() {
	m.mu.Lock()
	m.dirty.everything()
	m.mu.Unlock()
	m.signal()
}

func (m *core) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// work copies what has changed, both ways, and tries again what failed.
func (m *Member) work(ctx context.Context, g *errgroup.Group) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
		case <-m.lease.Changed():
			m.Changed()
		case <-m.alive.Changed():
			m.Changed()
		case <-timer.C:
		}
		next := m.sync(ctx, g)
		timer.Reset(next)
	}
}

// Create implements [cnm.Membership].
func (m *Member) Create(ctx context.Context, n cnm.Network, pools []cnm.PoolRequest,
	t cnm.TunnelRequest) (cnm.Network, error) {
	return m.networks.create(ctx, n, pools, t)
}

// Update implements [cnm.Membership].
func (m *Member) Update(ctx context.Context, n cnm.Network, edit func(cnm.Network) (cnm.Network, error)) (cnm.Network,
	error) {
	return m.networks.update(ctx, n, edit)
}

// Delete implements [cnm.Membership].
func (m *Member) Delete(ctx context.Context, n cnm.Network) error { return m.networks.delete(ctx, n) }

// Extend implements [cnm.Membership].
func (m *Member) Extend(ctx context.Context, n cnm.Network, want []netip.Addr) (cnm.Network, error) {
	return m.blocks.extend(ctx, n, want)
}

// Usable implements [cnm.Membership].
func (m *Member) Usable(network string) error { return m.leases.usable(network) }

// Admit implements [cnm.Membership].
func (m *Member) Admit(ctx context.Context, n cnm.Network) error { return m.networks.admit(ctx, n) }

// Review implements [cnm.Membership].
func (m *Member) Review(string) { m.HostChanged() }
