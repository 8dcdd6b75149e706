package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/cnm/controller"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
	"github.com/vethloom/vethloom/plan"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeDriver renders nothing: what a fabric made of records is the fake
// fabric's business.
type fakeDriver struct {
	name string
	caps cnm.Capabilities
}

func (d fakeDriver) Name() string                   { return d.name }
func (d fakeDriver) Scope() cnm.Scope               { return cnm.Local }
func (d fakeDriver) Capabilities() cnm.Capabilities { return d.caps }
func (d fakeDriver) CheckNetwork(n cnm.Network) error {
	for o := range n.Options {
		if o != "known" && o != "link" && o != "binding" {
			return &cnm.Error{Kind: cnm.ErrInvalid, Field: "option", Value: o, Reason: "unknown",
				Remedy: "leave it out"}
		}
	}
	return nil
}
func (d fakeDriver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	if e.Name == "refused" || n.Options["known"] == "bad for "+e.Name {
		return &cnm.Error{Kind: cnm.ErrInvalid, Field: "name", Value: e.Name, Reason: "not one for this driver"}
	}
	return nil
}
func (d fakeDriver) Option(name string) (own string, inPlace bool) {
	switch name {
	case "known", "docker.known":
		return "known", true
	case "binding":
		return name, true
	case "link":
		return name, false
	}
	return "", false
}
func (d fakeDriver) HasGateway(n cnm.Network, ipv6 bool) bool {
	return !ipv6 || n.Options["known"] != "no gateway6"
}
func (d fakeDriver) NetworkLink(n cnm.Network) string { return n.Options["link"] }
func (d fakeDriver) PortAddr(n cnm.Network) netip.Addr {
	a, _ := netip.ParseAddr(n.Options["binding"]) // none: every address
	return a
}
func (d fakeDriver) RenderNetwork(cnm.Network, cnm.Host) (plan.State, error) {
	return plan.State{}, nil
}
func (d fakeDriver) RenderEndpoint(cnm.Network, cnm.Endpoint, cnm.Host) (plan.State, error) {
	return plan.State{}, nil
}

func drivers() []cnm.Driver {
	return []cnm.Driver{
		fakeDriver{"bridge", cnm.Capabilities{Addresses: true, Ports: true}},
		fakeDriver{"plain", cnm.Capabilities{Addresses: true}},
		fakeDriver{"host", cnm.Capabilities{Singleton: true}},
		fakeDriver{"null", cnm.Capabilities{Singleton: true}},
		fakePeerDriver{fakeDriver{"overlay", cnm.Capabilities{Addresses: true, Ports: true}}},
		fakePeerDriver{fakeDriver{"routed", cnm.Capabilities{Addresses: true, Ports: true, Leases: true}}},
	}
}

// fakeFabric is a kernel that holds the scopes of active records. Like the
// real one it reads the records from the store.
type fakeFabric struct {
	store cnm.Store
	check func(cnm.Endpoint) error // refuses an active endpoint
	hook  func() error             // runs before each pass

	mu     sync.Mutex
	kernel map[plan.Owner]bool
	passes [][]plan.Owner
}

func (f *fakeFabric) Converge(ctx context.Context, scopes ...plan.Owner) error {
	if f.hook != nil {
		if err := f.hook(); err != nil {
			return err
		}
	}
	f.mu.Lock() // a scope has one pass at a time, with what the records say then
	defer f.mu.Unlock()
	f.passes = append(f.passes, scopes)
	for _, s := range scopes {
		active, err := f.active(ctx, s)
		if err != nil {
			return err
		}
		if !active {
			delete(f.kernel, s)
			continue
		}
		f.kernel[s] = true
	}
	return nil
}

// active reports whether the records ask for the scope.
func (f *fakeFabric) active(ctx context.Context, s plan.Owner) (bool, error) {
	kind, short, _ := cnm.ParseOwner(s)
	records, err := f.store.Find(ctx, kind, short)
	if err != nil || len(records) == 0 {
		return false, err
	}
	switch kind {
	case cnm.KindNetwork:
		n, err := cnm.NetworkOf(records[0])
		return n.Phase == cnm.Active, err
	case cnm.KindSandbox:
		b, err := cnm.SandboxOf(records[0])
		return b.Phase == cnm.Active, err
	}
	e, err := cnm.EndpointOf(records[0])
	if err == nil && e.Phase == cnm.Active && f.check != nil {
		err = f.check(e)
	}
	return e.Phase == cnm.Active, err
}

// wanted is what the records ask the kernel to hold.
func wanted(ctx context.Context, s cnm.Store) (map[plan.Owner]bool, map[plan.Owner]cnm.Endpoint, error) {
	active, endpoints := map[plan.Owner]bool{}, map[plan.Owner]cnm.Endpoint{}
	ns, err := cnm.ListNetworks(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for _, n := range ns {
		active[cnm.NetworkOwner(n.ID)] = n.Phase == cnm.Active
	}
	ss, err := cnm.ListSandboxes(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range ss {
		active[cnm.SandboxOwner(s.ID)] = s.Phase == cnm.Active
	}
	es, err := cnm.ListEndpoints(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range es {
		active[cnm.EndpointOwner(e.ID)] = e.Phase == cnm.Active
		endpoints[cnm.EndpointOwner(e.ID)] = e
	}
	return active, endpoints, nil
}

func (f *fakeFabric) holds() []plan.Owner {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []plan.Owner
	for s := range f.kernel {
		out = append(out, s)
	}
	slices.Sort(out)
	return out
}

// world is a controller with everything around it.
type world struct {
	*controller.Controller
	store  cnm.Store
	fabric *fakeFabric
	wrap   func(cnm.Fabric) cnm.Fabric // what the controller gets for fabric, optional
	member cnm.Membership              // optional

	mu     sync.Mutex
	events []string
}

func newWorld(t testing.TB, s cnm.Store) *world {
	t.Helper()
	if s == nil {
		s = mem.New()
	}
	w := &world{store: s, fabric: &fakeFabric{store: s, kernel: map[plan.Owner]bool{}}}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	if err := w.EnsureBuiltin(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// open starts a controller on what the store holds, as a new daemon does.
func (w *world) open() error {
	ctx := context.Background()
	addresses, err := ipam.New(ctx, ipam.Config{Store: w.store, Site: "test"})
	if err != nil {
		return err
	}
	fabric := cnm.Fabric(w.fabric)
	if w.wrap != nil {
		fabric = w.wrap(fabric)
	}
	w.Controller, err = controller.New(ctx, controller.Config{
		Store: w.store, IPAM: addresses, Drivers: drivers(), Fabric: fabric, Cluster: w.member,
		DynamicPorts: func() (uint16, uint16, func(uint16) bool) {
			return 40000, 40099, func(p uint16) bool { return p == 40001 }
		},
		Now: func() time.Time { return time.Unix(1700000000, 0).UTC() },
		Events: func(e controller.Event) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.events = append(w.events, fmt.Sprintf("%s %s %s", e.Kind, e.Action, e.Name))
		},
	})
	return err
}

// network makes a network with a subnet.
func (w *world) network(t testing.TB, name, subnet string) cnm.Network {
	t.Helper()
	n, err := w.CreateNetwork(t.Context(),
		cnm.NetworkRequest{Name: name, Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix(subnet)}}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) sandbox(t testing.TB, networks ...string) (cnm.Sandbox, []cnm.Endpoint) {
	t.Helper()
	var r cnm.SandboxRequest
	for _, n := range networks {
		r.Attach = append(r.Attach, cnm.AttachRequest{Network: n})
	}
	s, es, err := w.CreateSandbox(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s, es
}

// consistent checks that records, kernel and addresses agree and nothing is
// on its way out.
func (w *world) consistent(t reporter) {
	t.Helper()
	ctx := context.Background()
	active, endpoints, err := wanted(ctx, w.store)
	if err != nil {
		t.Fatal(err)
	}
	var want []plan.Owner
	for s, ok := range active {
		if !ok {
			t.Errorf("%s is still being deleted", s)
		}
		want = append(want, s)
	}
	slices.Sort(want)
	if have := w.fabric.holds(); !slices.Equal(want, have) {
		t.Errorf("the kernel holds %v, the records want %v", have, want)
	}
	all, err := cnm.ListNetworks(ctx, w.store)
	if err != nil {
		t.Fatal(err)
	}
	networks := map[string]cnm.Network{}
	for _, n := range all {
		networks[n.ID] = n
	}
	addrs := map[string]bool{}
	for _, e := range endpoints {
		if !active[cnm.SandboxOwner(e.Sandbox)] || !active[cnm.NetworkOwner(e.Network)] {
			t.Errorf("endpoint %s has no sandbox or network", e.ID)
		}
		if n := networks[e.Network]; n.Cluster != nil {
			for _, a := range e.Addrs {
				if !givenOut(n, a) {
					t.Errorf("endpoint %s has %s, which is not of %+v", cnm.Short(e.ID), a, n.Pools)
				}
			}
		}
		for _, a := range e.Addrs {
			addrs[e.Network+"/"+a.Addr().String()] = true
		}
	}
	records, err := w.store.List(ctx, cnm.KindAddress)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		if !addrs[r.Key.ID] {
			t.Errorf("address %s is nobody's", r.Key.ID)
		}
		delete(addrs, r.Key.ID)
	}
	for a := range addrs {
		t.Errorf("address %s has no record", a)
	}
}

func wantError(t testing.TB, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want kind %q", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

func TestAttachAndDetach(t *testing.T) {
	w := newWorld(t, nil)
	n := w.network(t, "web", "10.1.0.0/24")
	s, es := w.sandbox(t, "web", "bridge")
	if len(es) != 2 || es[0].Addrs[0].String() != "10.1.0.2/24" || es[0].MAC.String() != "02:42:0a:01:00:02" ||
		es[1].Index != 1 {
		t.Fatalf("endpoints %+v", es)
	}
	if got := len(w.fabric.passes); got != 5 { // bridge, host, none, web, sandbox
		t.Errorf("%d passes: %v", got, w.fabric.passes)
	}
	w.consistent(t)
	if err := w.Detach(t.Context(), s.ID, "web"); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	e, err := w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: n.ID[:6]})
	if err != nil {
		t.Fatal(err)
	}
	if e.Index != 0 || e.Addrs[0].Addr().String() != "10.1.0.3" {
		t.Errorf("index %d, address %s: want the lowest index and the next address", e.Index, e.Addrs)
	}
	if _, err := w.DeleteNetwork(t.Context(), "web"); true {
		wantError(t, err, cnm.ErrInUse, "sandbox "+cnm.Short(s.ID), "disconnect")
	}
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Errorf("removing a sandbox that is gone: %v", err)
	}
	if _, err := w.DeleteNetwork(t.Context(), "web"); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	want := []string{
		"network create bridge", "network create host", "network create none", "network create web",
		"sandbox create ", "endpoint connect web", "endpoint connect bridge", "endpoint disconnect web",
		"endpoint connect web",
		"endpoint disconnect bridge", "endpoint disconnect web", "sandbox remove ", "network remove web",
	}
	slices.Sort(want)
	slices.Sort(w.events)
	if !slices.Equal(want, w.events) {
		t.Errorf("events %q\nwant %q", w.events, want)
	}
}

// reporter is what testing.TB and *rapid.T have in common.
type reporter interface {
	Helper()
	Errorf(string, ...any)
	Fatal(...any)
}
