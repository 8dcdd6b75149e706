package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdnotify "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/backend/hostgw"
	"github.com/vethloom/vethloom/backend/udp"
	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/drivers/host"
	"github.com/vethloom/vethloom/drivers/macvlan"
	"github.com/vethloom/vethloom/drivers/null"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/drivers/remote"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/snapshot"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/health"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/internal/resolver/keeper"
	"github.com/vethloom/vethloom/internal/store/bolt"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/ipam/dhcp"
	"github.com/vethloom/vethloom/ipam/lan"
	"github.com/vethloom/vethloom/plan"
	attachments "github.com/vethloom/vethloom/plugin/attach/server"
	"github.com/vethloom/vethloom/plugin/docker"
	"github.com/vethloom/vethloom/plugin/docker/relay"
)

// daemon is one running netd.
type daemon struct {
	cfg      Config
	log      *slog.Logger
	boot     string // identifies this boot of the host
	started  time.Time
	registry *prometheus.Registry
	metrics  *metrics
	http     net.Listener   // nil: no metrics and health
	ready    atomic.Bool    // the API answers
	closers  []func() error // run backwards

	store   *bolt.Store
	kernel  *kern.Kernel
	names   *keeper.Keeper
	tunnels *udp.Host
	lost    chan struct{} // a tunnel has ended by itself
	render  *render.Renderer
	rec     *reconcile.Reconciler
	ctrl    *controller.Controller
	nets    *networks
	events  *events
	member  *cluster.Member
	remote  *remote.Caller
	leases  *dhcp.Leases
	prober  *health.Prober

	docker   *docker.Server
	relay    *relay.Keeper // nil: dockerd is not answered
	follower *docker.Follower
	records  cnm.Store

	images    *image.Store
	snapshots *snapshot.Snapshots
	volumes   *volume.Volumes
	engine    *engine.Engine

	home     home
	learning sync.Mutex // held while the host is looked at
	settle   chan []plan.Owner
	notices  []string // what the operator should know of the start
}

// Run serves until the context ends. Containers and their traffic go on afterwards.
func Run(ctx context.Context, cfg Config) error {
	d := &daemon{
		cfg: cfg, log: cfg.Logger(), started: time.Now(),
		registry: prometheus.NewRegistry(), events: newEvents(),
		settle: make(chan []plan.Owner, 64), lost: make(chan struct{}, 1),
	}
	d.metrics = newMetrics(d.registry, cfg.Version, cfg.Commit)
	err := d.open(ctx)
	if err == nil {
		err = d.serve(ctx)
	}
	for i := len(d.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, d.closers[i]())
	}
	return err
}

func (d *daemon) closing(f func() error) { d.closers = append(d.closers, f) }

// open makes every room, without anything that runs yet.
func (d *daemon) open(ctx context.Context) error {
	release, err := claimNetNS(ctx, d.log, claimTimeout)
	if err != nil {
		return err
	}
	d.closing(release)
	if err := d.listenHTTP(ctx); err != nil {
		return err
	}
	if err := d.cfg.makeDirs(); err != nil {
		return err
	}
	d.openTunnels()
	if err := openDocker(d); err != nil {
		return err
	}
	if d.boot, err = d.cfg.bootID(); err != nil {
		return err
	}
	if d.store, err = d.openStore(ctx); err != nil {
		return err
	}
	d.closing(d.store.Close)
	if err := d.openKernel(ctx); err != nil {
		return err
	}
	drivers := drivers()
	records := d.stored()
	d.records = records
	if err := d.openRemote(ctx, records, drivers); err != nil {
		return err
	}
	d.render = render.New(render.Config{Store: records, Drivers: drivers, Outside: d.remote, Learn: d.learnHost,
		Log: d.log})
	addresses, err := ipam.New(ctx, ipam.Config{Store: records, Avoid: d.kernel.HostPrefixes, Site: machineID()})
	if err != nil {
		return fmt.Errorf("read the addresses in use: %w", err)
	}
	if err := d.openMember(ctx, records, drivers, addresses); err != nil {
		return err
	}
	if err := learnFirst(ctx, d); err != nil {
		return err
	}
	if err := openLeases(ctx, d, records, addresses, drivers); err != nil {
		return err
	}
	d.rec = newReconciler(d)
	d.ctrl, err = controller.New(ctx, controller.Config{
		Store: records, IPAM: d.leases, Drivers: drivers, Outside: d.remote, Cluster: d.member,
		Fabric: fabric{Reconciler: d.rec, remote: d.remote}, HostAddrs: d.kernel.Addresses,
		Identify:     d.kernel.Identify,
		DynamicPorts: d.dynamicPorts, Log: d.log, Events: d.recordChanged,
	})
	if err != nil {
		return fmt.Errorf("read the networks: %w", err)
	}
	if d.follower, err = followerOf(d); err != nil {
		return err
	}
	d.member.Use(d.ctrl)
	if d.prober, err = health.New(health.Options{}); err != nil {
		return fmt.Errorf("open the prober of other nodes: %w", err)
	}
	d.closing(d.prober.Close)
	d.nets = &networks{ctrl: d.ctrl, settled: d.names.Settled, render: d.render, path: d.kernel.NetNSPath,
		hostAddrs: d.kernel.Addresses, firewall: d.kernel.Firewall()}
	return d.expressible(ctx)
}

// openLeases opens who gives networks their addresses: package ipam, or a plugin, where the LAN has a say, or the LAN's
// DHCP server.
func openLeases(ctx context.Context, d *daemon, records cnm.Store, own cnm.IPAM, drivers []cnm.Driver) (err error) {
	d.leases, err = dhcp.New(ctx, dhcp.Config{
		IPAM:  lan.Over(lan.Config{IPAM: d.remote.Over(own), Drivers: drivers, Prober: d.kernel, Log: d.log}),
		Pools: own, Store: records, Drivers: drivers, Network: d.kernel, Log: d.log,
	})
	return err
}

// openNames starts what answers names, or takes it up again.
func openNames(d *daemon) kern.NameHost {
	d.names = keeper.Open(keeper.Config{Run: d.cfg.Run, Path: d.cfg.Resolver,
		Build: d.cfg.Version + " " + d.cfg.Commit, Resolv: d.cfg.resolvFiles(), Log: d.log})
	d.closing(d.names.Close)
	return d.names
}

// serve runs the passes, settles what an earlier life left, and then serves the API.
func (d *daemon) serve(ctx context.Context) error {
	drift, err := d.kernel.Drift(ctx)
	if err != nil {
		return fmt.Errorf("watch the kernel: %w", err)
	}
	hostChanged, err := d.kernel.HostChanged(ctx)
	if err != nil {
		return fmt.Errorf("watch the host: %w", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	// The passes go on while the API drains: its last calls wait for them.
	passes, stopPasses := context.WithCancel(context.WithoutCancel(ctx))
	defer stopPasses()
	g.Go(func() error { return d.rec.Run(passes, drift) })
	g.Go(func() error { return d.finishDeletions(ctx) })
	g.Go(func() error { return watchTunnels(ctx, d) })
	g.Go(func() error { return d.watchHost(ctx, hostChanged) })
	g.Go(func() error { return d.runMember(ctx) })
	g.Go(func() error { d.runHealth(ctx); return nil })
	g.Go(func() error { return d.runRemote(ctx) })
	if d.http != nil {
		g.Go(func() error { return serveHTTP(ctx, d.http, d.health()) })
	}
	g.Go(func() error {
		defer stopPasses()
		return d.serveAPI(ctx)
	})
	return g.Wait()
}

// drivers are those that this netd has.
func drivers() []cnm.Driver {
	return []cnm.Driver{
		bridge.Driver{}, host.Driver{}, null.Driver{}, macvlan.Driver{}, macvlan.IPvlan{}, overlay.Driver{},
		routed.Driver{Backend: hostgw.Backend{}}, routed.Driver{Backend: vxlan.Backend{}},
		routed.Driver{Backend: udp.Backend{}},
	}
}

// serveAPI makes the daemon ready, step by step, and serves until the context ends.
func (d *daemon) serveAPI(ctx context.Context) error {
	if err := d.rec.Converge(ctx, cnm.FabricOwner); err != nil {
		return fmt.Errorf("set up the firewall: %w", err)
	}
	subnets, err := d.cfg.bridgeSubnets()
	if err != nil {
		return err
	}
	switch err := d.ctrl.EnsureBuiltin(ctx, subnets); {
	case errors.Is(err, cnm.ErrInUse):
		d.notices = append(d.notices, fmt.Sprintf("--bridge-subnet %s is not followed yet: %v", d.cfg.BridgeSubnet,
			err))
	case errors.Is(err, cnm.ErrExhausted):
		return fmt.Errorf("%w; for this network: netd --bridge-subnet SUBNET", err)
	case err != nil:
		return err
	}
	if err := d.openEngine(ctx); err != nil {
		return err
	}
	d.docker.Use(dockerBackend(d))
	services := d.services()
	if err := d.registry.Register(newInventory(services.System.Status)); err != nil {
		return fmt.Errorf("export metrics: %w", err)
	}
	srv, err := server.New(services)
	if err != nil {
		return err
	}
	l, err := server.Listen(ctx, strings.TrimPrefix(d.cfg.Host, "unix://"))
	if err != nil {
		return err
	}
	forDocker, err := listenDocker(ctx, d.cfg)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	engines, err := attachments.Listen(d.cfg.attachSocket())
	if err != nil {
		return errors.Join(err, l.Close(), forDocker.Close())
	}
	d.ready.Store(true)
	d.log.Info("ready", "host", d.cfg.Host, "took", time.Since(d.started).Round(time.Millisecond))
	if _, err := sdnotify.SdNotify(false, sdnotify.SdNotifyReady); err != nil {
		d.log.Warn("could not tell systemd", "err", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return srv.Serve(ctx, l) })
	g.Go(func() error { return forDocker.serve(ctx, d.cfg, services) })
	others := attachmentsOf(d)
	g.Go(func() error { return others.Serve(ctx, engines) })
	g.Go(func() error { others.Watch(ctx); return nil })
	if d.relay != nil {
		g.Go(func() error { d.follower.Run(ctx); return nil })
	}
	g.Go(func() error { return d.leases.Run(ctx, d.nets.readdress) })
	g.Go(func() error { return collector{d}.run(ctx) })
	return g.Wait()
}

// listenHTTP takes the address of metrics and health before anything is done, so
// that a taken one is found out first.
func (d *daemon) listenHTTP(ctx context.Context) error {
	if d.cfg.HTTP == "" {
		return nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", d.cfg.HTTP)
	if err != nil {
		return fmt.Errorf("--http %s: %w: choose another address, or \"\" for none", d.cfg.HTTP, err)
	}
	d.http = l
	d.closing(func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil // the server did
	})
	return nil
}

// services are what the API serves.
func (d *daemon) services() server.Config {
	return server.Config{
		Networks:   attendance{d.nets, d},
		Sandboxes:  sandboxes{d.nets},
		Containers: containers{Engine: d.engine, nets: d.nets, daemon: d},
		Images:     images{Store: d.images, registries: openRegistries(d.cfg, d.log), daemon: d},
		Volumes:    volumes{Volumes: d.volumes, daemon: d},
		Nodes:      nodes{d},
		Leases:     nodes{d},
		Names:      lookups{d},
		System: &system{
			cfg: d.cfg, started: d.started, ctrl: d.ctrl, engine: d.engine, rec: d.rec,
			images: d.images, volumes: volumes{Volumes: d.volumes, daemon: d},
			render: d.render, events: d.events, notices: append(d.store.Notices(), d.notices...),
			examine: d.examine, names: d.names.Trouble, leases: d.leases.Trouble,
			docker:  func() error { return dockerTrouble(d) },
			cluster: d.clusterStatus, firewall: d.kernel.Firewall, paths: d.kernel.Fast,
		},
		Log:     d.log,
		Metrics: d.registry,
	}
}

func (d *daemon) health() http.Handler {
	return healthHandler(d.registry, func() error {
		if !d.ready.Load() {
			return errors.New("starting")
		}
		for _, f := range d.rec.Failures() {
			return fmt.Errorf("%s has not converged: %w", f.Owner, f.Err)
		}
		return nil
	})
}

// passed notes a pass, and hands the owners of passes that nobody waited for to
// finishDeletions: a deletion that was cut short ends there.
func (d *daemon) passed(p reconcile.Pass) {
	d.metrics.passed(p)
	if p.Drift {
		for _, op := range p.Ops {
			d.events.emit(server.Event{Type: "kernel", Action: "repair", ID: op.Object.Key(),
				Attributes: map[string]string{"op": op.String()}})
		}
		d.log.Warn("repaired what someone else changed", "operations", len(p.Ops), "first", p.Ops[0].String(), "took",
			p.Duration)
	}
	d.log.Debug("pass", "full", p.Full, "owners", len(p.Owners), "operations", len(p.Ops), "took", p.Duration, "err",
		p.Err)
	if len(p.Failed) > 0 {
		d.remote.Wake() // it may be for a link that a plugin made
	}
	if p.Waited && !p.Full {
		return
	}
	done := make([]plan.Owner, 0, len(p.Owners))
	for _, s := range p.Owners {
		if p.Failed[s] == nil {
			done = append(done, s)
		}
	}
	select {
	case d.settle <- done:
	default: // the next full pass brings them again
	}
}

func (d *daemon) finishDeletions(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case owners := <-d.settle:
			if err := d.ctrl.Settle(ctx, owners...); err != nil && ctx.Err() == nil {
				d.log.Error("could not finish deletions; trying again after the next full pass", "err", err)
			}
		}
	}
}

// fabric is the reconciler as the controller sees it: errors of the kernel become
// the model's, and what networks share goes with each of them. Plugins are asked before a pass, and told after it.
type fabric struct {
	*reconcile.Reconciler
	remote  *remote.Caller
	patient bool // nobody waits: plugins may take their time
}

func (f fabric) Converge(ctx context.Context, owners ...plan.Owner) error {
	all := owners
	if slices.ContainsFunc(owners, isNetwork) {
		all = append(slices.Clone(owners), cnm.FabricOwner)
	}
	if err := f.remote.Prepare(ctx, f.patient, owners...); err != nil {
		return err
	}
	err := modelError(f.Reconciler.Converge(ctx, all...))
	for _, o := range owners {
		if _, id, ok := cnm.ParseOwner(o); ok && isNetwork(o) {
			_ = f.Reconciler.Converge(ctx, cnm.NamesOwner(id)) // tried again; a network is none the worse without
		}
	}
	if err != nil {
		return err
	}
	return f.remote.Finish(ctx, f.patient, owners...)
}

func isNetwork(s plan.Owner) bool {
	kind, _, ok := cnm.ParseOwner(s)
	return ok && kind == cnm.KindNetwork
}

// lowerError says what is wrong with a link that sits on one of the host's.
func lowerError(l plan.Link, err error) error {
	e := &cnm.Error{Kind: cnm.ErrForbidden, Field: "parent", Value: l.Lower.Link, Cause: err}
	_, missing := errors.AsType[*plan.NoLinkError](err)
	switch {
	case missing:
		e.Kind, e.Reason, e.Remedy = cnm.ErrNotFound, noSuchLink, seeLinks
	case errors.Is(err, unix.EEXIST) && l.Kind == plan.VLAN:
		e.Kind = cnm.ErrExists
		e.Reason = fmt.Sprintf("the host has a link for VLAN %d of it that netd did not make", l.Lower.Tag)
		e.Remedy = "name that link: -o parent=NAME -o vlan=none; ip -d link shows it"
	case errors.Is(err, unix.EOPNOTSUPP):
		e.Kind = cnm.ErrUnavailable
		module := map[plan.LinkKind]string{plan.Macvlan: "macvlan", plan.IPvlan: "ipvlan", plan.VLAN: "8021q"}[l.Kind]
		e.Reason, e.Remedy = fmt.Sprintf("this kernel has no links of kind %s", l.Kind), "modprobe "+module
	case errors.Is(err, unix.EBUSY):
		e.Reason, e.Remedy = "the link belongs to a bridge or a bond", "name that one as the parent"
	case errors.Is(err, unix.EINVAL):
		e.Reason = "the kernel takes no such link on it: with mode passthru there is one only, and none of another mode"
		e.Remedy = "choose another parent or mode"
	default:
		return err
	}
	return e
}

// memberError says why a link of the host's does not become a port of a network's bridge.
func memberError(m plan.MemberLink, err error) error {
	e := &cnm.Error{Kind: cnm.ErrForbidden, Field: "parent", Value: m.Link, Cause: err}
	unfit, known := errors.AsType[*plan.UnfitLinkError](err)
	_, missing := errors.AsType[*plan.NoLinkError](err)
	switch {
	case missing:
		e.Kind, e.Reason, e.Remedy = cnm.ErrNotFound, noSuchLink, seeLinks
	case known:
		e.Reason, e.Remedy = "it "+unfit.Reason, unfit.Remedy
	default:
		return err
	}
	return e
}

const (
	noSuchLink = "the host has no link of this name"
	seeLinks   = "ip link shows what it has"
)

func modelError(err error) error {
	if taken, ok := errors.AsType[*plan.PortTakenError](err); ok {
		by := taken.By
		if strings.HasPrefix(string(taken.For), string(cnm.IngressOwner(""))) {
			by = "a container of another node, on every node (mode=cluster)"
		}
		return &cnm.PortTakenError{
			Proto: taken.Port.Proto, Addr: taken.Port.Addr, Port: taken.Port.From, By: by, Cause: err,
		}
	}
	if op, ok := errors.AsType[*plan.OpError](err); ok {
		l, ok := op.Op.Object.(plan.Link)
		hold, holds := op.Op.Object.(plan.PortReservation)
		member, joins := op.Op.Object.(plan.MemberLink)
		switch {
		case joins:
			return memberError(member, err)
		case holds && errors.Is(err, unix.EMFILE):
			return &cnm.Error{
				Kind: cnm.ErrExhausted, Field: "publish", Value: fmt.Sprintf("%d-%d", hold.From, hold.To), Cause: err,
				Reason: "netd cannot hold that many ports, each by an open file",
				Remedy: "publish fewer, or give netd a higher limit of open files (LimitNOFILE= in its unit)",
			}
		case !ok:
		case op.Op.Verb == plan.Create && l.Kind == plan.Given:
			return givenError(l, err)
		case op.Op.Verb == plan.Create && l.Kind.OnLower():
			return lowerError(l, err)
		case op.Op.Verb == plan.Create && l.Kind == plan.Bridge && errors.Is(err, unix.EEXIST):
			return &cnm.Error{
				Kind: cnm.ErrExists, Field: "link", Value: l.Name, Cause: err,
				Reason: "the host has a link of this name that netd did not make",
				Remedy: "choose another name for the network's link, or remove that one",
			}
		case errors.Is(err, unix.EXFULL):
			// BR_MAX_PORTS of the kernel's net/bridge/br_private.h.
			return &cnm.Error{Kind: cnm.ErrExhausted, Field: "bridge", Value: l.Master, Cause: err,
				Reason: "the network is full: a Linux bridge has 1023 ports at most",
				Remedy: "put further endpoints on another network"}
		}
	}
	return err
}
