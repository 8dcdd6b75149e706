package render

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/plan"
)

// Facts are what renders depend on besides the records.
type Facts struct {
	Host   cnm.Host
	Shared plan.State // what all networks share, without the elements that depend on records
}

// Config is what a [Renderer] works with.
type Config struct {
	Store   cnm.Store
	Drivers []cnm.Driver
	Outside cnm.Outside // nil: Drivers are all there are
	// Learn renews the facts before everything is rendered; nil: they are what Learned was called with.
	Learn func(context.Context) error
	Log   *slog.Logger // nil: silent
}

// Renderer turns the records of a store into plan state. It is the [reconcile.Source] of every
// node, and holds nothing of the records but the network decoded last.
type Renderer struct {
	store   cnm.Store
	drivers map[string]cnm.Driver
	outside cnm.Outside
	learn   func(context.Context) error
	log     *slog.Logger
	facts   atomic.Pointer[Facts]
	decoded atomic.Pointer[cnm.Network] // the last network of a peer
}

// New makes a renderer. Learned must be called before it renders.
func New(c Config) *Renderer {
	r := &Renderer{store: c.Store, drivers: map[string]cnm.Driver{}, outside: c.Outside, learn: c.Learn,
		log: c.Log}
	for _, d := range c.Drivers {
		r.drivers[d.Name()] = d
	}
	if r.learn == nil {
		r.learn = func(context.Context) error { return nil }
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

// Learned replaces the facts. Renders that are under way go on with those they began with.
func (r *Renderer) Learned(f Facts) { r.facts.Store(&f) }

// Driver is the driver of that name, or nil.
func (r *Renderer) Driver(name string) cnm.Driver { return r.drivers[name] }

// Host is what was last learnt of the host.
func (r *Renderer) Host() cnm.Host { return r.facts.Load().Host }

// All renders every record, with what the host is like now.
func (r *Renderer) All(ctx context.Context) (map[plan.Owner]reconcile.Want, error) {
	if err := r.learn(ctx); err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "could not look at the host; going by what was known", "err", err)
	}
	networks, err := cnm.ListNetworks(ctx, r.store)
	if err != nil {
		return nil, err
	}
	sandboxes, err := cnm.ListSandboxes(ctx, r.store)
	if err != nil {
		return nil, err
	}
	endpoints, err := cnm.ListEndpoints(ctx, r.store)
	if err != nil {
		return nil, err
	}
	peers, err := cnm.ListPeers(ctx, r.store)
	if err != nil {
		return nil, err
	}
	out := map[plan.Owner]reconcile.Want{}
	shared := newCommon()
	add := func(owner plan.Owner, st plan.State, err error) {
		rest, fast := apart(owner, st)
		out[owner] = reconcile.Want{State: rest, Err: err}
		if !fast.Empty() {
			out[cnm.FastOwner(owner)] = reconcile.Want{State: fast}
		}
	}
	byID := make(map[string]cnm.Network, len(networks))
	for _, n := range networks {
		byID[n.ID] = n
		st, err := r.Network(n)
		shared.add(st)
		add(cnm.NetworkOwner(n.ID), st, err)
		servers, err := r.Names(n)
		add(cnm.NamesOwner(n.ID), servers, err)
	}
	add(cnm.FabricOwner, r.fabric(shared), nil)
	for _, b := range sandboxes {
		add(cnm.SandboxOwner(b.ID), r.Sandbox(b), nil)
	}
	for _, e := range endpoints {
		n, ok := byID[e.Network]
		if !ok && e.Phase != cnm.Deleting {
			add(cnm.EndpointOwner(e.ID), plan.State{}, fmt.Errorf("endpoint %s: no network %s", cnm.Short(e.ID),
				cnm.Short(e.Network)))
			continue
		}
		st, err := r.Endpoint(ctx, n, e)
		add(cnm.EndpointOwner(e.ID), st, err)
	}
	for _, p := range peers {
		if n, ok := byID[p.Network]; ok {
			st, err := r.peer(n, p)
			add(cnm.PeerOwner(p.ID), st, err)
			if len(p.Ingress) > 0 {
				add(cnm.IngressOwner(p.ID), r.ingress(n, p), nil)
			}
		}
	}
	return out, r.nodes(ctx, byID, add)
}

// nodes renders every node that peers are on.
func (r *Renderer) nodes(ctx context.Context, byID map[string]cnm.Network,
	add func(plan.Owner, plan.State, error)) error {
	records, err := r.store.List(ctx, cnm.KindNode)
	if err != nil {
		return fmt.Errorf("list the nodes that peers are on: %w", err)
	}
	short := make(map[string]cnm.Network, len(byID))
	for id, n := range byID {
		short[cnm.Short(id)] = n
	}
	for _, rec := range records {
		network, addr, err := cnm.ParseNodeID(rec.Key.ID)
		var st plan.State
		switch n, ok := short[network]; {
		case err != nil:
		case network == "":
			st = sender(rec.Key.ID, addr)
		case ok:
			st, err = r.flood(n, addr)
		}
		add(cnm.NodeOwner(rec.Key.ID), st, err)
	}
	return nil
}

// Render renders one record: nothing when it is gone or on its way out.
func (r *Renderer) Render(ctx context.Context, owner plan.Owner) (plan.State, error) {
	if of, ok := cnm.FastOf(owner); ok {
		st, err := r.whole(ctx, of)
		if err != nil { // the owner itself tells it; what it has takes the slow path
			return plan.State{}, nil
		}
		_, fast := apart(of, st)
		return fast, nil
	}
	st, err := r.whole(ctx, owner)
	rest, _ := apart(owner, st)
	return rest, err
}

// whole renders one record with what it has on the fast path.
func (r *Renderer) whole(ctx context.Context, owner plan.Owner) (plan.State, error) {
	if owner == cnm.FabricOwner {
		return r.renderFabric(ctx)
	}
	if id, ok := strings.CutPrefix(string(owner), string(cnm.PeerOwner(""))); ok {
		return r.peerByID(ctx, id)
	}
	if id, ok := strings.CutPrefix(string(owner), string(cnm.IngressOwner(""))); ok {
		return r.ingressByID(ctx, id)
	}
	if id, ok := strings.CutPrefix(string(owner), string(cnm.NodeOwner(""))); ok {
		return r.nodeByID(ctx, id)
	}
	if short, ok := strings.CutPrefix(string(owner), string(cnm.NamesOwner(""))); ok {
		return r.namesByID(ctx, short)
	}
	kind, short, ok := cnm.ParseOwner(owner)
	if !ok {
		return plan.State{}, fmt.Errorf("owner %q is no kind of record", owner)
	}
	records, err := r.store.Find(ctx, kind, short)
	if err != nil || len(records) == 0 {
		return plan.State{}, err
	}
	switch kind {
	case cnm.KindNetwork:
		n, err := cnm.NetworkOf(records[0])
		if err != nil {
			return plan.State{}, err
		}
		return r.Network(n)
	case cnm.KindSandbox:
		b, err := cnm.SandboxOf(records[0])
		return r.Sandbox(b), err
	default:
		e, err := cnm.EndpointOf(records[0])
		if err != nil {
			return plan.State{}, err
		}
		return r.endpointByID(ctx, e)
	}
}

// renderFabric renders what networks share, and that is the ports of their tunnels too.
func (r *Renderer) renderFabric(ctx context.Context) (plan.State, error) {
	networks, err := cnm.ListNetworks(ctx, r.store)
	if err != nil {
		return plan.State{}, err
	}
	shared := newCommon()
	for _, n := range networks {
		if st, err := r.Network(n); err == nil { // its own render says why not
			shared.add(st)
		}
	}
	return r.fabric(shared), nil
}

func (r *Renderer) fabric(c *common) plan.State {
	st := r.facts.Load().Shared
	e := firewall.Elements{Owner: cnm.FabricOwner}
	for _, p := range slices.Sorted(maps.Keys(c.ports)) {
		e.TunnelPort(p)
	}
	st.Rules.Elements = e.List
	st.Fast = c.fast
	accepts := st.Accepts
	for _, a := range accepts {
		for _, l := range slices.Sorted(maps.Keys(c.links)) {
			st.Accepts = append(slices.Clip(st.Accepts), plan.ForwardAccept{Family: a.Family, Links: l})
		}
	}
	return st
}

// common is what of the networks' state the host has to let pass.
type common struct {
	ports map[uint16]bool // UDP ports that tunnels receive on
	links map[string]bool // bridges with names of their own
	fast  plan.Fast       // what names no network
}

func newCommon() *common { return &common{ports: map[uint16]bool{}, links: map[string]bool{}} }

// add adds what a network has.
func (c *common) add(network plan.State) {
	c.share(network.Fast)
	for _, l := range network.Links {
		switch {
		case l.Kind == plan.VXLAN:
			c.ports[l.VXLAN.Port] = true
		case l.Kind == plan.Bridge && !strings.HasPrefix(l.Name, linkname.Bridge):
			c.links[l.Name] = true
		}
	}
	for _, t := range network.Tunnels {
		c.ports[t.Port] = true
	}
}

func (r *Renderer) endpointByID(ctx context.Context, e cnm.Endpoint) (plan.State, error) {
	if e.Phase == cnm.Deleting {
		return plan.State{}, nil // its network may be gone
	}
	rec, err := r.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: e.Network})
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, fmt.Errorf("endpoint %s: no network %s", cnm.Short(e.ID), cnm.Short(e.Network))
	}
	if err != nil {
		return plan.State{}, err
	}
	n, err := cnm.NetworkOf(rec)
	if err != nil {
		return plan.State{}, err
	}
	return r.Endpoint(ctx, n, e)
}

// peerByID renders the path to a peer: none without its record or its network's.
func (r *Renderer) peerByID(ctx context.Context, id string) (plan.State, error) {
	n, p, err := r.peerOf(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, nil
	}
	if err != nil {
		return plan.State{}, err
	}
	return r.peer(n, p)
}

// peerOf reads a peer and its network. The error is a [cnm.ErrNotFound] where one of them is not there.
func (r *Renderer) peerOf(ctx context.Context, id string) (cnm.Network, cnm.Peer, error) {
	rec, err := r.store.Get(ctx, cnm.Key{Kind: cnm.KindPeer, ID: id})
	if err != nil {
		return cnm.Network{}, cnm.Peer{}, err
	}
	p, err := cnm.PeerOf(rec)
	if err != nil {
		return cnm.Network{}, p, err
	}
	n, err := r.networkOfPeers(ctx, p.Network)
	return n, p, err
}

// nodeByID renders what a node that peers are on may do, or what one that endpoints of a network are on is sent:
// nothing without its record.
func (r *Renderer) nodeByID(ctx context.Context, id string) (plan.State, error) {
	switch _, err := r.store.Get(ctx, cnm.Key{Kind: cnm.KindNode, ID: id}); {
	case errors.Is(err, cnm.ErrNotFound):
		return plan.State{}, nil
	case err != nil:
		return plan.State{}, err
	}
	network, addr, err := cnm.ParseNodeID(id)
	if err != nil || network == "" {
		return sender(id, addr), err
	}
	found, err := r.store.Find(ctx, cnm.KindNetwork, network)
	if err != nil || len(found) == 0 {
		return plan.State{}, err
	}
	n, err := r.networkOfPeers(ctx, found[0].Key.ID)
	if err != nil {
		return plan.State{}, err
	}
	return r.flood(n, addr)
}

// sender renders a node that may send to tunnels.
func sender(id string, a netip.Addr) plan.State {
	if !a.IsValid() {
		return plan.State{}
	}
	e := firewall.Elements{Owner: cnm.NodeOwner(id)}
	e.TunnelPeer(a)
	return plan.State{Rules: plan.Ruleset{Elements: e.List}}
}

// flood renders the way of what is for many endpoints of a network to a node that has some.
func (r *Renderer) flood(n cnm.Network, node netip.Addr) (plan.State, error) {
	d, err := r.driver(n)
	if err != nil || n.Phase == cnm.Deleting || n.Cluster == nil || n.Gone() || n.Left() {
		return plan.State{}, err
	}
	if f, ok := d.(cnm.Flooder); ok {
		return f.RenderNode(n, node, r.Host())
	}
	return plan.State{}, nil
}

// networkOfPeers reads a network. As thousands of peers may be of one, it is decoded once for each of its revisions.
func (r *Renderer) networkOfPeers(ctx context.Context, id string) (cnm.Network, error) {
	rec, err := r.store.Get(ctx, cnm.Key{Kind: cnm.KindNetwork, ID: id})
	if err != nil {
		return cnm.Network{}, err
	}
	if last := r.decoded.Load(); last != nil && last.ID == id && last.Revision == rec.Revision {
		return *last, nil
	}
	n, err := cnm.NetworkOf(rec)
	if err == nil {
		r.decoded.Store(&n)
	}
	return n, err
}

func (r *Renderer) peer(n cnm.Network, p cnm.Peer) (plan.State, error) {
	d, err := r.driver(n)
	if err != nil || n.Phase == cnm.Deleting || n.Cluster == nil || n.Gone() || n.Left() {
		return plan.State{}, err
	}
	pd, ok := d.(cnm.PeerDriver)
	if !ok {
		return plan.State{}, nil
	}
	var st plan.State
	if !p.Endpoint || !d.Capabilities().Leases { // else the subnet of its node leads there
		if st, err = pd.RenderPeer(n, p, r.Host()); err != nil {
			return st, err
		}
	}
	if m := peerMember(n, p); len(m.Addrs) > 0 {
		st.NameMembers = append(st.NameMembers, m)
	}
	return st, nil
}

// Network renders what a network's endpoints share.
func (r *Renderer) Network(n cnm.Network) (plan.State, error) {
	d, err := r.driver(n)
	if err != nil || n.Phase == cnm.Deleting || n.Left() {
		return plan.State{}, err
	}
	st, err := d.RenderNetwork(n, r.Host())
	if err == nil && r.named(n) {
		st.NameZones = append(st.NameZones, zone(n, st))
	}
	return st, err
}

// Endpoint renders an endpoint of a network.
func (r *Renderer) Endpoint(ctx context.Context, n cnm.Network, e cnm.Endpoint) (plan.State, error) {
	if e.Phase == cnm.Deleting || !e.Attached() {
		return plan.State{}, nil
	}
	d, err := r.driver(n)
	if err != nil {
		return plan.State{}, err
	}
	var st plan.State
	if o, ok := d.(cnm.OutsideDriver); ok {
		st, err = r.outsideEndpoint(ctx, o, n, e)
	} else {
		st, err = d.RenderEndpoint(n, e, r.Host())
	}
	if err == nil && r.named(n) {
		st.NameMembers = append(st.NameMembers, member(e))
	}
	return st, err
}

// outsideEndpoint renders an endpoint by what the driver of somebody else has answered. As long as it has not, that is
// an error, and what the endpoint has stays as it is.
func (r *Renderer) outsideEndpoint(ctx context.Context, d cnm.OutsideDriver, n cnm.Network, e cnm.Endpoint) (
	plan.State, error) {
	rec, err := r.store.Get(ctx, cnm.Key{Kind: cnm.KindCall, ID: cnm.CallID(cnm.KindEndpoint, e.ID)})
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, err
	}
	var c cnm.Call
	if err == nil {
		if c, err = cnm.CallOf(rec); err != nil {
			return plan.State{}, err
		}
	}
	if !c.Joined() {
		return d.RenderEndpoint(n, e, r.Host())
	}
	return d.RenderGiven(n, e, c.Given, r.Host())
}

func (r *Renderer) driver(n cnm.Network) (cnm.Driver, error) {
	d, ok := r.drivers[n.Driver]
	if !ok && r.outside != nil && n.Cluster == nil {
		d = r.outside.Driver(n.Driver)
	}
	if d == nil {
		return nil, fmt.Errorf("network %s: this netd has no driver %q", n.Name, n.Driver)
	}
	return d, nil
}

// Sandbox is the namespace of a sandbox that has one of its own.
func (*Renderer) Sandbox(b cnm.Sandbox) plan.State {
	if b.Host || b.Handed || b.Phase == cnm.Deleting {
		return plan.State{}
	}
	ns := plan.Namespace{Name: b.NetNS}
	if b.Adopted != nil {
		ns.Path, ns.Cookie = b.Adopted.Path, b.Adopted.Cookie
	}
	return plan.State{Namespaces: []plan.Namespace{ns}, NameServers: []plan.NameServer{sandboxServer(b)}}
}
