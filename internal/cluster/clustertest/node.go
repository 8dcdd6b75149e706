package clustertest

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern/fake"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/plan"
)

// Config says what a node is made of. Endpoint and Dir are required.
type Config struct {
	Endpoint string           // of etcd: unix:///path or http://host:port
	Dir      string           // for the node's ID; a directory of its own
	Number   int              // tells the nodes apart: it makes their names and addresses
	Store    cnm.Store        // nil: in memory
	Kernel   reconcile.Kernel // nil: in memory
	Times    cluster.Times
	Resync   time.Duration // between full passes; 0: as in netd
	Fast     bool          // the host has the fast path
	Log      *slog.Logger  // nil: silent
}

// Prefix is where the nodes' records are in etcd.
const Prefix = "/vethloom"

// Node is a running member.
type Node struct {
	Member     *cluster.Member
	Controller *controller.Controller
	Reconciler *reconcile.Reconciler
	Client     *clientv3.Client
	Requests   *Requests

	cfg    Config
	host   cnm.Host
	fast   atomic.Bool // what the member knows of the host's fast path
	looks  atomic.Int64
	stop   context.CancelFunc
	done   chan error
	mu     sync.Mutex
	peers  map[plan.Owner]bool // that passes have been about
	passes int
	scopes int
	moved  chan struct{} // closed after the next pass, and made anew
	failed map[plan.Owner]error
}

// Drivers are those whose networks are of several nodes.
func Drivers() []cnm.Driver {
	return []cnm.Driver{overlay.Driver{}, routed.Driver{Backend: vxlan.Backend{}}}
}

// Addr is the underlay address of a node: one of 10.128.0.0/9, which no test's network has.
func Addr(number int) netip.Addr {
	n := number + 1
	return netip.AddrFrom4([4]byte{10, 128 | byte(n>>16), byte(n >> 8), byte(n)})
}

// Start makes a node and runs it until Stop.
func Start(ctx context.Context, c Config) (*Node, error) {
	if c.Store == nil {
		c.Store = mem.New()
	}
	if c.Kernel == nil {
		c.Kernel = fake.New()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	n := &Node{cfg: c, Requests: &Requests{}, peers: map[plan.Owner]bool{}, failed: map[plan.Owner]error{},
		moved: make(chan struct{}), done: make(chan error, 1)}
	var err error
	n.Client, err = clientv3.New(clientv3.Config{Endpoints: []string{c.Endpoint}, Logger: zap.NewNop(),
		DialOptions: []grpc.DialOption{
			grpc.WithStatsHandler(n.Requests),
			// As netd's: hundreds that connect at once would else wait for minutes until they try again.
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 100 * time.Millisecond,
				Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}, MinConnectTimeout: 20 * time.Second}),
		}})
	if err != nil {
		return nil, fmt.Errorf("make a client of etcd: %w", err)
	}
	if err := n.open(ctx); err != nil {
		return nil, fmt.Errorf("make node %d: %w", c.Number, err)
	}
	ctx, n.stop = context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return n.Reconciler.Run(ctx, nil) })
	g.Go(func() error {
		return n.Member.Run(ctx, c.Endpoint, func(context.Context) (*clientv3.Client, error) { return n.Client, nil })
	})
	go func() { n.done <- g.Wait() }()
	return n, nil
}

func (n *Node) open(ctx context.Context) error {
	c := n.cfg
	addresses, err := ipam.New(ctx, ipam.Config{Store: c.Store})
	if err != nil {
		return err
	}
	drivers := Drivers()
	n.Member, err = cluster.New(ctx, cluster.Config{
		Root: c.Dir, Local: c.Store, Prefix: Prefix, Name: fmt.Sprintf("n%d", c.Number), Version: "test", Boot: "boot",
		Drivers: drivers, IPAM: addresses, Host: n.look,
		Wake:   func(s ...plan.Owner) { n.Reconciler.Wake(s...) },
		Notify: func(string, map[string]string) {}, Log: c.Log, Times: c.Times,
	})
	if err != nil {
		return err
	}
	n.host = cnm.Host{MTU: 1500, Node: n.Member.ID(), NoIPv6: true, Fast: c.Fast, Uplink: cnm.Uplink{Link: "eth0",
		MTU: 1500, Addr4: Addr(c.Number)}}
	n.fast.Store(c.Fast)
	src := render.New(render.Config{Store: c.Store, Drivers: drivers, Log: c.Log})
	src.Learned(render.Facts{Host: n.host, Shared: firewall.Base(firewall.Config{NoIPv6: true})})
	n.Reconciler = reconcile.New(reconcile.Config{Kernel: c.Kernel, Source: src, Log: c.Log, Resync: c.Resync,
		Observer: n.passed, With: c.fastOwner})
	n.Controller, err = controller.New(ctx, controller.Config{
		Store: c.Store, IPAM: addresses, Drivers: drivers, Fabric: n.Reconciler, Cluster: n.Member, Log: c.Log,
		Events: func(controller.Event) { n.Member.Changed() },
	})
	if err != nil {
		return err
	}
	n.Member.Use(n.Controller)
	return nil
}

// Stop ends the node as a crash would: what it has in etcd stays.
func (n *Node) Stop() error {
	n.stop()
	err := <-n.done
	if e := n.Client.Close(); err == nil && n.Client.Ctx().Err() == nil {
		err = e
	}
	return err
}

// passed notes which paths to peers the kernel has.
func (n *Node) passed(p reconcile.Pass) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.passes++
	n.scopes += len(p.Owners)
	for _, s := range p.Owners {
		if !strings.HasPrefix(string(s), string(cnm.PeerOwner(""))) {
			continue
		}
		if n.peers[s], n.failed[s] = true, p.Failed[s]; n.failed[s] == nil {
			delete(n.failed, s)
		} else {
			delete(n.peers, s)
		}
	}
	close(n.moved)
	n.moved = make(chan struct{})
}

// Passes is how many passes there were.
func (n *Node) Passes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.passes
}

// Scopes is how many scopes passes have been about, each counted as often as there were.
func (n *Node) Scopes() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.scopes
}

// Looks is how often the member has asked for the host's addresses, which it does for each peer that it looks at.
func (n *Node) Looks() int { return int(n.looks.Load()) }

// fastOwner is the owner of what another one has on the fast path.
func (c Config) fastOwner(of plan.Owner) (plan.Owner, bool) {
	if _, ok := cnm.FastOf(of); ok || !c.Fast {
		return "", false
	}
	return cnm.FastOwner(of), true
}

// look is what the member knows of the host.
func (n *Node) look() cnm.Host {
	n.looks.Add(1)
	h := n.host
	h.Fast = n.fast.Load()
	return h
}

// SetFast has the host get the fast path, or lose it, as other nodes hear of it.
func (n *Node) SetFast(has bool) {
	n.fast.Store(has)
	n.Member.HostChanged()
}

// Await waits until passes have been about that many peers' scopes.
func (n *Node) Await(ctx context.Context, peers int) error {
	return n.AwaitPass(ctx, func() bool { return len(n.peers) >= peers })
}

// AwaitPeer waits until a pass has been about that peer.
func (n *Node) AwaitPeer(ctx context.Context, id string) error {
	return n.AwaitPass(ctx, func() bool { return n.peers[cnm.PeerOwner(id)] })
}

// AwaitPasses waits until there were that many passes.
func (n *Node) AwaitPasses(ctx context.Context, passes int) error {
	return n.AwaitPass(ctx, func() bool { return n.passes >= passes })
}

// AwaitPass waits until a condition holds after a pass. The error says why paths to peers have not come.
func (n *Node) AwaitPass(ctx context.Context, done func() bool) error {
	for {
		n.mu.Lock()
		ok, moved, have := done(), n.moved, len(n.peers)
		var why error
		for _, err := range n.failed {
			why = err
		}
		n.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("node %d has the paths to %d peers after %d passes, etcd %+v, failed: %w", n.cfg.Number,
				have, n.Passes(), n.Member.State(), fmt.Errorf("%v: %w", why, ctx.Err()))
		}
	}
}
