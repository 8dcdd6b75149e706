package render_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/reconcile"
	"github.com/vethloom/vethloom/internal/render"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/plan"
)

// driver renders one link for each record, named after it, with the host's MTU.
type driver struct{}

func (driver) Name() string                   { return "test" }
func (driver) Scope() cnm.Scope               { return cnm.Cluster }
func (driver) Capabilities() cnm.Capabilities { return cnm.Capabilities{} }
func (driver) CheckNetwork(cnm.Network) error { return nil }

func (driver) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	if n.Name == "broken" {
		return plan.State{}, errors.New("no such option")
	}
	link := plan.Link{Name: n.Name, Kind: plan.VXLAN, MTU: h.MTU, VXLAN: plan.VXLANDevice{Port: 4789}}
	st := plan.State{Links: []plan.Link{link}}
	if n.Name == "udp" {
		st = plan.State{Tunnels: []plan.Tunnel{{Link: n.Name, Port: 8285}}}
	}
	if h.Fast {
		own := plan.FastNetwork(n.ID[:16])
		st.Fast = plan.Fast{Counters: []plan.FastCounter{{Network: own}},
			Tunnels: []plan.FastTunnel{{Port: 4789, Way: plan.FastVXLAN},
				{Port: 4789, Way: plan.FastVXLAN, Network: own, VNI: n.Cluster.VNI}},
			Programs: []plan.FastProgram{{Link: "eth0"}}}
	}
	if n.Name == "named" {
		st = plan.State{Links: []plan.Link{{Name: "mybr0", Kind: plan.Bridge}}}
	}
	return st, nil
}

func (driver) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	return plan.State{Links: []plan.Link{{Name: n.Name + "-" + e.Name, MTU: h.MTU}}}, nil
}

func (driver) Tunnel(cnm.Network) (cnm.TunnelRequest, error) { return cnm.TunnelRequest{}, nil }

func (driver) RenderPeer(n cnm.Network, p cnm.Peer, _ cnm.Host) (plan.State, error) {
	return plan.State{Routes: []plan.Route{{Dst: p.Prefixes[0], Link: n.Name}}}, nil
}

// id is a whole ID that begins with a digit.
func id(digit string) string { return strings.Repeat(digit, 64) }

type world struct {
	*render.Renderer
	store cnm.Store
	learn func(context.Context) error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{store: mem.New(), learn: func(context.Context) error { return nil }}
	w.Renderer = render.New(render.Config{Store: w.store, Drivers: []cnm.Driver{driver{}},
		Learn: func(ctx context.Context) error { return w.learn(ctx) }})
	w.Learned(render.Facts{Host: cnm.Host{MTU: 1500}})
	return w
}

// put writes a record, or replaces it.
func (w *world) put(t *testing.T, kind cnm.Kind, id string, value any) {
	t.Helper()
	b, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	key := cnm.Key{Kind: kind, ID: id}
	old, err := w.store.Get(t.Context(), key)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		t.Fatal(err)
	}
	if err := w.store.Commit(t.Context(), cnm.Write{Key: key, Value: b, Revision: old.Revision}); err != nil {
		t.Fatal(err)
	}
}

func (w *world) network(t *testing.T, digit, name, drv string, phase cnm.Phase) cnm.Network {
	t.Helper()
	n := cnm.Network{ID: id(digit), Name: name, Driver: drv, Scope: cnm.Cluster, Phase: phase,
		Cluster: &cnm.ClusterNetwork{VNI: 1}}
	w.put(t, cnm.KindNetwork, n.ID, n)
	return n
}

// text is what an owner wants, or why that cannot be told. All and Render must agree on it.
func (w *world) text(t *testing.T, owner plan.Owner) string {
	t.Helper()
	all, err := w.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	one, err := w.Render(t.Context(), owner)
	text := lines(reconcile.Want{State: one, Err: err})
	if got := lines(all[owner]); got != text {
		t.Errorf("%s: all records give %q, this one alone %q", owner, got, text)
	}
	return text
}

func lines(w reconcile.Want) string {
	if w.Err != nil {
		return "error: " + w.Err.Error()
	}
	var out []string
	for o := range w.State.Objects() {
		out = append(out, o.String())
	}
	return strings.Join(out, "\n")
}

func TestEachKindOfRecord(t *testing.T) {
	w := newWorld(t)
	n := w.network(t, "a", "web", "test", cnm.Active)
	w.network(t, "b", "broken", "test", cnm.Active)
	w.network(t, "c", "strange", "unknown", cnm.Active)
	w.network(t, "d", "leaving", "test", cnm.Deleting)
	w.put(t, cnm.KindSandbox, id("1"), cnm.Sandbox{ID: id("1"), NetNS: "box", Phase: cnm.Active})
	w.put(t, cnm.KindSandbox, id("2"), cnm.Sandbox{ID: id("2"), Host: true, Phase: cnm.Active})
	w.put(t, cnm.KindSandbox, id("3"), cnm.Sandbox{ID: id("3"), NetNS: "gone", Phase: cnm.Deleting})
	w.put(t, cnm.KindEndpoint, id("4"),
		cnm.Endpoint{ID: id("4"), Network: n.ID, Sandbox: id("1"), Name: "e", Phase: cnm.Active})
	w.put(t, cnm.KindEndpoint, id("5"), cnm.Endpoint{ID: id("5"), Network: n.ID, Phase: cnm.Deleting})
	w.put(t, cnm.KindEndpoint, id("6"), cnm.Endpoint{ID: id("6"), Network: id("f"), Phase: cnm.Active})
	w.put(t, cnm.KindEndpoint, id("7"), cnm.Endpoint{ID: id("7"), Network: id("f"), Phase: cnm.Deleting})
	for _, addr := range []string{"192.0.2.7", "2001:db8::7"} {
		w.put(t, cnm.KindNode, addr, struct{}{})
	}
	for owner, want := range map[plan.Owner]string{
		cnm.NetworkOwner(id("a")):    "link web vxlan id 0 dstport 4789 mtu 1500 down",
		cnm.NetworkOwner(id("b")):    "error: no such option",
		cnm.NetworkOwner(id("c")):    `error: network strange: this netd has no driver "unknown"`,
		cnm.NetworkOwner(id("d")):    "",
		cnm.NetworkOwner(id("e")):    "", // no record
		cnm.SandboxOwner(id("1")):    "netns box\nnameserver 127.0.0.11 netns box",
		cnm.SandboxOwner(id("2")):    "",
		cnm.SandboxOwner(id("3")):    "",
		cnm.EndpointOwner(id("4")):   "link web-e  mtu 1500 down",
		cnm.EndpointOwner(id("5")):   "",
		cnm.EndpointOwner(id("6")):   "error: endpoint 666666666666: no network ffffffffffff",
		cnm.EndpointOwner(id("7")):   "",
		cnm.NodeOwner("192.0.2.7"):   `inet element nodes4 { 192.0.2.7 comment "node/192.0.2.7" }`,
		cnm.NodeOwner("2001:db8::7"): `inet element nodes6 { 2001:db8::7 comment "node/2001:db8::7" }`,
		cnm.NodeOwner("192.0.2.8"):   "", // no record
		cnm.NodeOwner(cnm.NodeID(id("e"), netip.MustParseAddr("192.0.2.7"))): "",
	} {
		if got := w.text(t, owner); got != want {
			t.Errorf("%s wants %q, not %q", owner, got, want)
		}
	}
	if _, err := w.Render(t.Context(), "weather/1"); err == nil || !strings.Contains(err.Error(), `"weather/1"`) {
		t.Errorf("an owner of no kind: %v", err)
	}
}

func TestPeersGoWithTheirNetwork(t *testing.T) {
	w := newWorld(t)
	n := w.network(t, "a", "web", "test", cnm.Active)
	peer := cnm.Peer{ID: cnm.Short(n.ID) + "/p", Network: n.ID,
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.5.1.0/24")}}
	w.put(t, cnm.KindPeer, peer.ID, peer)
	owner := cnm.PeerOwner(peer.ID)
	if got := w.text(t, owner); got != "route 10.5.1.0/24 dev web" {
		t.Errorf("a peer wants %q", got)
	}
	n.Cluster.Gone = true
	w.put(t, cnm.KindNetwork, n.ID, n)
	if got := w.text(t, owner); got != "" {
		t.Errorf("a peer of a network that the cluster has no more wants %q", got)
	}
	n.Cluster.Gone, n.Phase = false, cnm.Deleting
	w.put(t, cnm.KindNetwork, n.ID, n)
	if got := w.text(t, owner); got != "" {
		t.Errorf("a peer of a network that is being removed wants %q", got)
	}
	if got := w.text(t, cnm.PeerOwner(cnm.Short(n.ID)+"/other")); got != "" {
		t.Errorf("a peer without a record wants %q", got)
	}
}

func TestTunnelPortsAreShared(t *testing.T) {
	w := newWorld(t)
	w.network(t, "a", "web", "test", cnm.Active)
	w.network(t, "b", "db", "test", cnm.Active) // on the same port
	w.network(t, "c", "udp", "test", cnm.Active)
	w.network(t, "d", "leaving", "test", cnm.Deleting)
	got := w.text(t, cnm.FabricOwner)
	if strings.Count(got, "4789") != 1 || strings.Count(got, "8285") != 1 || strings.Count(got, "\n") != 1 {
		t.Errorf("shared state %q", got)
	}
}

// What networks have on the fast path has owners of its own, and what they share is the fabric's.
func TestFastPathHasOwnersOfItsOwn(t *testing.T) {
	w := newWorld(t)
	w.network(t, "a", "web", "test", cnm.Active)
	w.network(t, "b", "db", "test", cnm.Active)
	broken := w.network(t, "c", "broken", "test", cnm.Active)
	web := cnm.NetworkOwner(id("a"))
	slow := w.text(t, web)
	w.Learned(render.Facts{Host: cnm.Host{MTU: 1500, Fast: true}})
	if got := w.text(t, web); got != slow {
		t.Errorf("the network's own state is another with the fast path: %q", got)
	}
	if got := w.text(t, cnm.FastOwner(web)); strings.Count(got, "\n") != 1 ||
		!strings.Contains(got, "fast-counter network aaaaaaaaaaaaaaaa") ||
		!strings.Contains(got, "fast-tunnel vxlan dstport 4789 inet 1 network aaaaaaaaaaaaaaaa") {
		t.Errorf("its own on the fast path: %q", got)
	}
	if got := w.text(t, cnm.FastOwner(cnm.FabricOwner)); got != "fast-tunnel vxlan dstport 4789 inet\n"+
		"fast-program eth0 uplink" {
		t.Errorf("shared on the fast path: %q", got)
	}
	if got := w.text(t, cnm.FastOwner(cnm.NetworkOwner(broken.ID))); got != "" {
		t.Errorf("of a network that cannot be rendered: %q", got)
	}
}

// An endpoint's driver says which path it takes; networks of other drivers have none.
func TestSlowPathIsTheDrivers(t *testing.T) {
	r := render.New(render.Config{Store: mem.New(), Drivers: []cnm.Driver{driver{}, telling{}}})
	r.Learned(render.Facts{Host: cnm.Host{NoFast: "too old a kernel"}})
	for driver, want := range map[string]string{"test": "networks of driver test have no fast path",
		"telling": "it is e: too old a kernel", "none such": `this netd has no driver "none such"`} {
		got := r.SlowPath(cnm.Network{Name: "web", Driver: driver}, cnm.Endpoint{Name: "e"})
		if !strings.Contains(got, want) {
			t.Errorf("driver %s: %q, want %q", driver, got, want)
		}
	}
}

// telling is a driver that has the fast path.
type telling struct{ driver }

func (telling) Name() string { return "telling" }

func (telling) SlowPath(_ cnm.Network, e cnm.Endpoint, h cnm.Host) string {
	return "it is " + e.Name + ": " + h.NoFast
}

// Where another tool drops what bridges forward, one with a name of its own needs an accept of its own.
func TestAcceptsOfNamedBridges(t *testing.T) {
	w := newWorld(t)
	w.network(t, "a", "named", "test", cnm.Active)
	w.network(t, "c", "udp", "test", cnm.Active)
	if got := w.text(t, cnm.FabricOwner); strings.Contains(got, "mybr0") {
		t.Errorf("nobody drops, and there is %q", got)
	}
	w.Learned(render.Facts{Shared: plan.State{Accepts: []plan.ForwardAccept{{Family: "ip", Links: "vlb-+"}}}})
	got := w.text(t, cnm.FabricOwner)
	if !strings.Contains(got, "ip filter FORWARD accept vlb-+") ||
		!strings.Contains(got, "ip filter FORWARD accept mybr0") {
		t.Errorf("shared state %q", got)
	}
}

// A host that cannot be looked at now is taken to be as it was.
func TestFactsAreLearntBeforeEverythingIsRendered(t *testing.T) {
	w := newWorld(t)
	n := w.network(t, "a", "web", "test", cnm.Active)
	w.learn = func(context.Context) error {
		w.Learned(render.Facts{Host: cnm.Host{MTU: 9000}})
		return nil
	}
	if got := w.text(t, cnm.NetworkOwner(n.ID)); !strings.Contains(got, "mtu 9000") {
		t.Errorf("after a change of the host: %q", got)
	}
	w.learn = func(context.Context) error { return errors.New("no netlink") }
	if got := w.text(t, cnm.NetworkOwner(n.ID)); !strings.Contains(got, "mtu 9000") {
		t.Errorf("without a look at the host: %q", got)
	}
}
