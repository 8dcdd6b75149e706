package cluster

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/plan"
	etcdstore "github.com/vethloom/vethloom/internal/store/etcd"
	"github.com/vethloom/vethloom/ipam"
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
	// EnvFile is the file that the network's options want the lease written to, "" for none, and what is to
	// stand in it.
	EnvFile(cnm.Network, cnm.Host) (path string, env subnet.Env)
}

// Controller is the part of [cnm.Controller] that a member works with.
type Controller interface {
	Adopt(context.Context, cnm.Network) error
	Abandon(ctx context.Context, id string) error
	Network(ctx context.Context, ref string) (cnm.Network, error)
	Networks(context.Context) ([]cnm.Network, error)
	Endpoints(context.Context) ([]cnm.Endpoint, error)
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
	Rival   func(leases string) string // the flanneld that runs on this host for a directory of leases, "" for none; may be nil
	Wake    func(...plan.Scope)
	Notify  func(action string, attrs map[string]string) // told of what users should know; must not block
	Log     *slog.Logger
	Times   Times
}

// Times are the durations that a member goes by. Zero values take the defaults.
type Times struct {
	Lease time.Duration // what a node has is its own that long after it was last heard of; 1 hour
	Alive time.Duration // a node counts as gone that long after it was last heard of; 15 s
	Grace time.Duration // ways to a node whose records have vanished stay that long; 30 s
	Retry time.Duration // between tries of what failed; 1 s
}

// Member is this node's membership of the cluster. It implements [cnm.Membership].
type Member struct {
	cfg      Config
	id       string
	instance string
	drivers  map[string]cnm.Driver
	ctrl     Controller

	wake chan struct{}
	life context.Context // of Run

	mu       sync.Mutex // guards what follows; never held during I/O
	client   *clientv3.Client
	store    *etcdstore.Store
	lease    *etcd.Lease
	alive    *etcd.Lease
	self     selfRecord
	rep      replica
	ahead    map[string]*etcd.Item // keys that this node has written and the watch has not brought yet
	dirs     map[string]*directory // lease directories that are followed, by network ID
	dirty    dirty
	making   map[string]time.Time // networks that Create is making here, until the controller has them
	lost     bool                 // etcd has lost data, and what is missing there is ours to write again
	lostAt   time.Time            // when that was last over
	state    State
	refused  error            // why this node may not be a member
	told     string           // the errors that were logged last
	troubles map[string]error // what keeps networks from being as the cluster has them, by ID

	peers     map[string]peerState // of the local store, by ID; the syncing goroutine's own
	vanishing map[string]bool      // those of peers that etcd has no more, and that stay for a grace; likewise
	kept      selfRecord           // as it is in the local store; likewise
	adopted   map[string]string    // networks as the controller last took them, by ID; likewise
	held      map[string]heldLease // by network ID; guarded by mu
}

// State is how the member stands with etcd.
type State struct {
	Store     string // where etcd is, for people
	Connected bool
	Since     time.Time // of the last change of Connected
	Err       error
	Synced    bool // everything was read once
}

// New reads the node's identity, made on the first start, and what the local store remembers.
func New(ctx context.Context, cfg Config) (*Member, error) {
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&cfg.Times.Lease, time.Hour}, {&cfg.Times.Alive, 15 * time.Second}, {&cfg.Times.Grace, 30 * time.Second}, {&cfg.Times.Retry, time.Second}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	m := &Member{
		cfg: cfg, drivers: map[string]cnm.Driver{}, wake: make(chan struct{}, 1), rep: newReplica(),
		ahead: map[string]*etcd.Item{}, dirs: map[string]*directory{}, making: map[string]time.Time{}, peers: map[string]peerState{}, vanishing: map[string]bool{}, adopted: map[string]string{}, held: map[string]heldLease{},
		troubles: map[string]error{}, dirty: newDirty(), state: State{Since: time.Now()},
	}
	for _, d := range cfg.Drivers {
		m.drivers[d.Name()] = d
	}
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
		if r.Key == selfKey() {
			if m.self, err = decode[selfRecord](r.Value); err != nil {
				return fmt.Errorf("decode the node's membership: %w", err)
			}
		} else if id, ok := strings.CutPrefix(r.Key.ID, "lease/"); ok {
			if m.held[id], err = decode[heldLease](r.Value); err != nil {
				return fmt.Errorf("decode the node's lease of network %s: %w", cnm.Short(id), err)
			}
		}
	}
	return m.rereadPeers(ctx)
}

// ID is the node's.
func (m *Member) ID() string { return m.id }

// Use hands over the controller, which is made after its member. It comes before Run.
func (m *Member) Use(c Controller) { m.ctrl = c }

// State tells how the member stands with etcd.
func (m *Member) State() State {
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
	g.Go(func() error { return m.follow(ctx) })
	g.Go(func() error { return m.work(ctx, g) })
	err := g.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// connect tries until there is a client; nil when the context ended before.
func (m *Member) connect(ctx context.Context, connect func(context.Context) (*clientv3.Client, error)) *clientv3.Client {
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
func (m *Member) connected(yes bool, err error) {
	m.mu.Lock()
	changed := m.state.Connected != yes
	if changed {
		m.state.Connected, m.state.Since = yes, time.Now()
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
func (m *Member) Changed() {
	m.mu.Lock()
	m.dirty.self = true
	m.mu.Unlock()
	m.signal()
}

// HostChanged is to be called when the addresses or the MTU of the uplink have changed.
func (m *Member) HostChanged() {
	m.mu.Lock()
	m.dirty.everything()
	m.mu.Unlock()
	m.signal()
}

func (m *Member) signal() {
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
