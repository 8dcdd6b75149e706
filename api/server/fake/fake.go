package fake

import (
	"context"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/registry"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/doctor"
	"github.com/vethloom/vethloom/plan"
)

// Epoch is when everything in a fake domain happens.
var Epoch = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

// Domain implements every interface of package server.
type Domain struct {
	*core
	*networkPart
	*containerPart
	*imagePart
	*volumePart
	*systemPart
}

// The parts of a [Domain].
type (
	networkPart   struct{ *core }
	containerPart struct{ *networkPart }
	imagePart     struct{ *core }
	volumePart    struct{ *core }
	systemPart    struct{ *core }
)

// core is what the parts share.
type core struct {
	mu         sync.Mutex // guards what follows
	seq        byte
	networks   []*cnm.Network
	nodes      []server.NodeView
	leases     []cluster.LeaseView
	sandboxes  []server.SandboxView
	containers []*container
	images     []image.Image
	volumes    []volume.Volume
	failures   map[string]error
	status     server.Status
	build      server.BuildRequest
	ops        []plan.Op
	findings   []doctor.Finding
	remotes    map[string]Remote
	seen       []registry.Credential
	pace       func(context.Context)
	damages    []image.Damage
	archive    []byte // what is copied out of every container
	processes  engine.Processes
	copied     Copied
	archived   fs.FileMode // of what is in it
	changes    []server.FileChange
	paused     []string
	past       []server.Event
	committed  server.CommitRequest

	events  chan server.Event
	life    context.Context
	end     context.CancelFunc
	running sync.WaitGroup

	// Watchers is how many watch the events now.
	Watchers atomic.Int32
	Waiters  atomic.Int32 // calls that wait for a container's end, those that follow a log included
}

// New makes a domain with the builtin networks and an image "busybox:latest".
func New() *Domain {
	d := &core{failures: map[string]error{}, events: make(chan server.Event)}
	d.life, d.end = context.WithCancel(context.Background())
	for _, n := range []struct{ name, driver string }{{"bridge", "bridge"}, {"host", "host"}, {"none", "null"}} {
		net := &cnm.Network{ID: d.id(), Name: n.name, Driver: n.driver, Scope: cnm.Local, Builtin: true,
			Created: Epoch, Phase: cnm.Active}
		if n.name == "bridge" {
			net.IPv4, net.Pools = true, []cnm.Pool{pool("172.17.0.0/16")}
		}
		d.networks = append(d.networks, net)
	}
	d.images = []image.Image{{
		ID: "sha256:" + d.id(), References: []string{"busybox:latest"}, Created: Epoch, Size: 4_260_000, OS: "linux",
		Architecture: "amd64",
	}}
	d.remotes = map[string]Remote{
		"alpine:latest":            {Layers: 2, Size: 3_600_000},
		"registry.test/team/app:1": {Layers: 3, Size: 30_000_000, Password: "secret"},
	}
	d.images[0].Config.Cmd = []string{"sh"}
	d.images[0].Healthcheck = []byte(`{"Test":["CMD","true"],"Interval":30000000000}`)
	d.images[0].Raw = fmt.Appendf(nil, `{"config":{"Cmd":["sh"],"Healthcheck":%s}}`, d.images[0].Healthcheck)
	d.status = server.Status{
		Version: "1.0", Started: Epoch, Root: "/var/lib/vethloom", Run: "/run/vethloom", Firewall: "nftables",
		MTU:      1500,
		Networks: 3, Converged: true, Passes: 12,
		FastPath: server.FastPath{State: "on", Counts: []server.PathCount{
			{Network: "web", Fast: true, Packets: 1200, Bytes: 3_600_000},
			{Network: "web", Reason: "elsewhere", Packets: 30, Bytes: 3000},
			{Network: "web", Reason: "published", Packets: 4, Bytes: 400}}},
	}
	n := &networkPart{d}
	return &Domain{core: d, networkPart: n, containerPart: &containerPart{n}, imagePart: &imagePart{d},
		volumePart: &volumePart{d}, systemPart: &systemPart{d}}
}

// Close kills every process and waits for them.
func (d *core) Close() {
	d.end()
	d.running.Wait()
}

// Fail makes the method of that name return err from now on; nil ends it.
func (d *core) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures[method] = err
}

// SetStatus sets what Status returns.
func (d *core) SetStatus(s server.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.status = s
}

// SetDiff sets what Diff returns.
func (d *core) SetDiff(ops ...plan.Op) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops = ops
}

// SetFindings sets what Doctor returns.
func (d *core) SetFindings(f ...doctor.Finding) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.findings = f
}

// Clients is how many clients are attached to a container's process.
func (d *core) Clients(ref string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil || c.proc == nil {
		return 0
	}
	c.proc.mu.Lock()
	defer c.proc.mu.Unlock()
	return len(c.proc.clients)
}

// SetPast sets what has happened before.
func (d *core) SetPast(events ...server.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.past = events
}

// Emit makes an event happen. It returns when the watcher has taken it.
func (d *core) Emit(e server.Event) { d.events <- e }

// enter locks the domain, or returns the failure a method is to have.
func (d *core) enter(method string) error {
	d.mu.Lock()
	if err := d.failures[method]; err != nil {
		d.mu.Unlock()
		if err.Error() == "panic" {
			panic("as asked")
		}
		return err
	}
	return nil
}

// id makes the next ID: 01 repeated, 02 repeated, …
func (d *core) id() string {
	d.seq++
	return strings.Repeat(hex.EncodeToString([]byte{d.seq}), 32)
}

func pool(s string) cnm.Pool {
	p := netip.MustParsePrefix(s)
	return cnm.Pool{Subnet: p, Range: p, Gateway: p.Addr().Next()}
}

func missing(kind, ref string) error {
	return &cnm.Error{Kind: cnm.ErrNotFound, Field: kind, Value: ref, Reason: "there is none", Remedy: "see 'net " +
		kind + " ls'"}
}

func (d *core) network(ref string) (*cnm.Network, error) {
	for _, n := range d.networks {
		if n.Name == ref || ref != "" && strings.HasPrefix(n.ID, ref) {
			return n, nil
		}
	}
	return nil, missing("network", ref)
}

// CreateNetwork implements [server.Networks].
func (d *networkPart) CreateNetwork(_ context.Context, r cnm.NetworkRequest) (server.NetworkView, error) {
	if err := d.enter("CreateNetwork"); err != nil {
		return server.NetworkView{}, err
	}
	defer d.mu.Unlock()
	if _, err := d.network(r.Name); err == nil {
		return server.NetworkView{}, &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: r.Name, Reason: "is taken",
			Remedy: "choose another"}
	}
	n := &cnm.Network{
		ID: d.id(), Name: r.Name, Driver: r.Driver, Scope: cnm.Local, Internal: r.Internal, IPv4: !r.DisableIPv4,
		Attachable: r.Attachable,
		IPv6:       r.IPv6, ConfigOnly: r.ConfigOnly, ConfigFrom: r.ConfigFrom,
		Options: r.Options, Labels: r.Labels, Created: Epoch, Phase: cnm.Active,
	}
	if n.Driver == "" {
		n.Driver = "bridge"
	}
	for _, p := range r.Pools {
		for _, other := range d.networks {
			for _, q := range other.Pools {
				if p.Subnet.IsValid() && p.Subnet.Overlaps(q.Subnet) {
					return server.NetworkView{}, &cnm.Error{
						Kind: cnm.ErrExists, Field: "subnet", Value: p.Subnet.String(),
						Reason: fmt.Sprintf("overlaps network %s (%s)", other.Name, q.Subnet),
						Remedy: "choose another --subnet, or none to have a free one picked",
					}
				}
			}
		}
		out := cnm.Pool{Subnet: p.Subnet, Range: p.Range, Gateway: p.Gateway, Aux: p.Aux}
		if !out.Subnet.IsValid() {
			out.Subnet = netip.MustParsePrefix("10.99.0.0/24")
		}
		if !out.Gateway.IsValid() {
			out.Gateway = out.Subnet.Addr().Next()
		}
		if !out.Range.IsValid() {
			out.Range = out.Subnet
		}
		n.Pools = append(n.Pools, out)
	}
	if slices.Contains(clusterDrivers, n.Driver) {
		spread(n)
	}
	d.networks = append(d.networks, n)
	return d.networkView(n), nil
}

func (d *core) networkView(n *cnm.Network) server.NetworkView {
	v := server.NetworkView{Network: *n}
	if n.Driver == "bridge" {
		v.Link = "vlb-" + n.ID[:8]
	}
	for _, c := range d.containers {
		for _, e := range c.view.Sandbox.Endpoints {
			if e.Network == n.ID {
				v.Endpoints = append(v.Endpoints, e)
			}
		}
	}
	return v
}

// ListNetworks implements [server.Networks].
func (d *networkPart) ListNetworks(context.Context) ([]server.NetworkView, error) {
	if err := d.enter("ListNetworks"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var out []server.NetworkView
	for _, n := range d.networks {
		out = append(out, d.networkView(n))
	}
	return out, nil
}

// InspectNetwork implements [server.Networks].
func (d *networkPart) InspectNetwork(_ context.Context, ref string) (server.NetworkView, error) {
	if err := d.enter("InspectNetwork"); err != nil {
		return server.NetworkView{}, err
	}
	defer d.mu.Unlock()
	n, err := d.network(ref)
	if err != nil {
		return server.NetworkView{}, err
	}
	return d.networkView(n), nil
}

// UpdateNetwork implements [server.Networks]. It knows every option, and takes any change but of the option fixed.
func (d *networkPart) UpdateNetwork(_ context.Context, ref string, c cnm.NetworkChange) (server.NetworkView, error) {
	if err := d.enter("UpdateNetwork"); err != nil {
		return server.NetworkView{}, err
	}
	defer d.mu.Unlock()
	n, err := d.network(ref)
	if err != nil {
		return server.NetworkView{}, err
	}
	if _, ok := c.Options["fixed"]; ok {
		return server.NetworkView{}, &cnm.Error{Kind: cnm.ErrForbidden, Field: "option", Value: "fixed",
			Reason: "cannot change while the network is there", Remedy: "make another network with it"}
	}
	change := func(m *map[string]string, set map[string]string, remove []string) {
		if *m == nil {
			*m = map[string]string{}
		}
		maps.Copy(*m, set)
		for _, key := range remove {
			delete(*m, key)
		}
	}
	change(&n.Options, c.Options, c.RemoveOptions)
	change(&n.Labels, c.Labels, c.RemoveLabels)
	if c.Internal != nil {
		n.Internal = *c.Internal
	}
	return d.networkView(n), nil
}

// RemoveNetwork implements [server.Networks].
func (d *networkPart) RemoveNetwork(_ context.Context, ref string) (string, error) {
	if err := d.enter("RemoveNetwork"); err != nil {
		return "", err
	}
	defer d.mu.Unlock()
	n, err := d.network(ref)
	if err != nil {
		return "", err
	}
	if n.Builtin && n.Driver != cnm.DriverBridge {
		return "", &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name, Reason: "is builtin and stays"}
	}
	if v := d.networkView(n); len(v.Endpoints) > 0 {
		return "", &cnm.Error{
			Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
			Reason: "container " + v.Endpoints[0].ContainerName + " is on it", Remedy: "disconnect it first",
		}
	}
	for i := range d.networks {
		if d.networks[i] == n {
			d.networks = append(d.networks[:i:i], d.networks[i+1:]...)
			break
		}
	}
	return n.ID, nil
}

// PruneNetworks implements [server.Networks].
func (d *networkPart) PruneNetworks(_ context.Context, due func(cnm.Network) bool) ([]string, error) {
	if err := d.enter("PruneNetworks"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	var names []string
	d.networks = slices.DeleteFunc(d.networks, func(n *cnm.Network) bool {
		gone := !n.Builtin && !n.ConfigOnly && due(*n) && len(d.networkView(n).Endpoints) == 0
		if gone {
			names = append(names, n.Name)
		}
		return gone
	})
	return names, nil
}

// LeaveNetwork implements [server.Networks].
func (d *networkPart) LeaveNetwork(_ context.Context, ref string, force bool) (string, error) {
	n, err := d.setLeft("LeaveNetwork", ref, force, true)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

// JoinNetwork implements [server.Networks].
func (d *networkPart) JoinNetwork(_ context.Context, ref string) (string, error) {
	n, err := d.setLeft("JoinNetwork", ref, false, false)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

func (d *networkPart) setLeft(call, ref string, force, left bool) (*cnm.Network, error) {
	if err := d.enter(call); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	n, err := d.network(ref)
	if err != nil {
		return nil, err
	}
	if n.Cluster == nil {
		return nil, &cnm.Error{Kind: cnm.ErrForbidden, Field: "network", Value: n.Name, Reason: "is of this node alone"}
	}
	if v := d.networkView(n); left && !force && len(v.Endpoints) > 0 {
		return nil, &cnm.Error{Kind: cnm.ErrInUse, Field: "network", Value: n.Name,
			Reason: "in use by " + v.Endpoints[0].ContainerName, Remedy: "disconnect them first, or give --force"}
	}
	n.Cluster.Left = left
	return n, nil
}

// Connect implements [server.Networks].
func (d *networkPart) Connect(_ context.Context, ref string, r cnm.AttachRequest) (server.EndpointView, error) {
	if err := d.enter("Connect"); err != nil {
		return server.EndpointView{}, err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return server.EndpointView{}, err
	}
	return d.join(c, r, nil)
}

// join gives a container an endpoint. Its number is that of the last byte of its addresses.
func (d *networkPart) join(c *container, r cnm.AttachRequest, ports []cnm.PortMapping) (server.EndpointView, error) {
	n, err := d.network(r.Network)
	if err != nil {
		return server.EndpointView{}, err
	}
	id := d.id()
	index := len(c.view.Sandbox.Endpoints)
	e := server.EndpointView{
		Endpoint: cnm.Endpoint{
			ID: id, Network: n.ID, Sandbox: c.view.Sandbox.ID, Index: index, Name: c.view.Spec.Name,
			Aliases: r.Aliases, MAC: r.MAC, Ports: ports, GwPriority: r.GwPriority, Phase: cnm.Active,
			LinkOptions: r.LinkOptions,
		},
		NetworkName: n.Name, ContainerID: c.view.ID, ContainerName: c.view.Spec.Name,
		HostLink: "vle-" + id[:8],
	}
	e.Interface = e.LinkName()
	if e.MAC == (plan.MAC{}) {
		e.MAC = plan.MAC{2, 0, 0, 0, 0, d.seq}
	}
	for i, p := range n.Pools {
		a := p.Gateway
		for range d.seq {
			a = a.Next()
		}
		if i < len(r.Addrs) {
			a = r.Addrs[i]
		}
		if !p.Subnet.Contains(a) {
			return server.EndpointView{}, &cnm.Error{
				Kind: cnm.ErrInvalid, Field: "ip", Value: a.String(), Reason: "is not in subnet " + p.Subnet.String(),
				Remedy: "choose one inside",
			}
		}
		e.Addrs = append(e.Addrs, netip.PrefixFrom(a, p.Subnet.Bits()))
		e.Gateways = append(e.Gateways, p.Gateway)
	}
	c.view.Sandbox.Endpoints = append(c.view.Sandbox.Endpoints, e)
	return e, nil
}

// Disconnect implements [server.Networks].
func (d *networkPart) Disconnect(_ context.Context, network, ref string, force bool) error {
	if err := d.enter("Disconnect"); err != nil {
		return err
	}
	defer d.mu.Unlock()
	c, err := d.container(ref)
	if err != nil {
		return err
	}
	ends := c.view.Sandbox.Endpoints
	for i, e := range ends {
		if e.NetworkName == network || e.Network == network {
			c.view.Sandbox.Endpoints = append(ends[:i:i], ends[i+1:]...)
			return nil
		}
	}
	if force {
		return nil
	}
	return missing("network", network)
}
