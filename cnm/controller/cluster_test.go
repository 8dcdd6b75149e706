package controller_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// fakePeerDriver is a driver of cluster networks.
type fakePeerDriver struct{ fakeDriver }

func (d fakePeerDriver) Scope() cnm.Scope { return cnm.Cluster }
func (d fakePeerDriver) Tunnel(n cnm.Network) (cnm.TunnelRequest, error) {
	if n.Options["link"] == "bad" {
		return cnm.TunnelRequest{}, &cnm.Error{Kind: cnm.ErrInvalid, Field: "option link", Value: "bad",
			Reason: "no tunnel has it"}
	}
	return cnm.TunnelRequest{Kind: "vxlan", FirstVNI: 4096, LastVNI: 1<<24 - 1}, nil
}
func (d fakePeerDriver) RenderPeer(cnm.Network, cnm.Peer, cnm.Host) (plan.State, error) {
	return plan.State{}, nil
}

// fakeCluster is what etcd has, and a membership of one node in it.
type fakeCluster struct {
	w *world

	mu        sync.Mutex
	networks  map[string]cnm.Network // with this node's share
	err       error                  // of every call but Usable
	unusable  error
	forbidden error        // of Admit
	reviews   atomic.Int32 // how often Review was called
	extended  int
	made      int                      // each network has a subnet and a VNI that none had for long
	step      func(func() error) error // around each effect; optional
}

func newCluster(t testing.TB, s cnm.Store) (*world, *fakeCluster) {
	t.Helper()
	w := newWorld(t, s)
	c := &fakeCluster{w: w, networks: map[string]cnm.Network{}}
	w.member = c
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	return w, c
}

func (c *fakeCluster) effect(do func()) error {
	if c.step == nil {
		do()
		return nil
	}
	return c.step(func() error { do(); return nil })
}

func (c *fakeCluster) Create(_ context.Context, n cnm.Network, pools []cnm.PoolRequest, tunnel cnm.TunnelRequest) (
	cnm.Network, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return cnm.Network{}, c.err
	}
	for _, other := range c.networks {
		if other.Name == n.Name {
			return cnm.Network{}, &cnm.Error{Kind: cnm.ErrExists, Field: "name", Value: n.Name,
				Reason: "the cluster has one"}
		}
	}
	if tunnel.Kind != "vxlan" || len(pools) != 1 {
		return cnm.Network{}, fmt.Errorf("asked for %+v and %+v", tunnel, pools)
	}
	i := c.made % 50
	c.made++
	n.Cluster = &cnm.ClusterNetwork{Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", 200+i))},
		VNI: tunnel.FirstVNI + uint32(i), Port: 4789}
	if n.Driver == "routed" {
		n.Cluster.Leases = "/leases/" + n.Name
		n.Pools = []cnm.Pool{lease(fmt.Sprintf("10.%d.1.0/24", 200+i))}
	} else {
		n.Pools = []cnm.Pool{{
			Subnet: n.Cluster.Subnets[0], Range: n.Cluster.Subnets[0], Gateway: n.Cluster.Subnets[0].Addr().Next(),
			Blocks: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.7.0/30", 200+i))},
		}}
	}
	return n, c.effect(func() { c.networks[n.ID] = n })
}

func (c *fakeCluster) Update(_ context.Context, n cnm.Network, edit func(cnm.Network) (cnm.Network, error)) (
	cnm.Network, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now, ok := c.networks[n.ID]
	if c.err != nil || !ok {
		return n, errors.Join(c.err, cnm.ErrNotFound)
	}
	next, err := edit(now)
	if err != nil {
		return n, err
	}
	return next, c.effect(func() { c.networks[n.ID] = next })
}

func (c *fakeCluster) Delete(_ context.Context, n cnm.Network) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if _, ok := c.networks[n.ID]; !ok {
		return cnm.ErrNotFound
	}
	return c.effect(func() { delete(c.networks, n.ID) })
}

// Extend gives the node the block of the wanted address, or the next one.
func (c *fakeCluster) Extend(ctx context.Context, n cnm.Network, want []netip.Addr) (cnm.Network, error) {
	c.mu.Lock()
	if c.err != nil {
		defer c.mu.Unlock()
		return cnm.Network{}, c.err
	}
	c.extended++
	n = c.networks[n.ID]
	n.Pools = slices.Clone(n.Pools)
	blocks := n.Pools[0].Blocks
	base := n.Pools[0].Subnet.Addr().As4()
	next := netip.PrefixFrom(netip.AddrFrom4([4]byte{base[0], base[1], 7, byte(4 * len(blocks))}), 30)
	if len(want) > 0 {
		next = netip.PrefixFrom(want[0], 30).Masked()
	}
	n.Pools[0].Blocks = append(slices.Clone(blocks), next)
	err := c.effect(func() { c.networks[n.ID] = n })
	c.mu.Unlock()
	if err != nil {
		return cnm.Network{}, err
	}
	return n, c.w.Adopt(ctx, n)
}

func (c *fakeCluster) Usable(string) error { return c.unusable }

func (c *fakeCluster) Admit(context.Context, cnm.Network) error { return c.forbidden }

func (c *fakeCluster) Review(string) { c.reviews.Add(1) }

// sync brings the node up to what the cluster has, as a replica does. The node is asked first: a network that is
// made meanwhile is in the cluster before it is here, and would else look like one that the cluster has lost.
func (c *fakeCluster) sync(ctx context.Context) error {
	here, err := c.w.Networks(ctx)
	if err != nil {
		return err
	}
	c.mu.Lock()
	var has []cnm.Network
	for _, n := range c.networks {
		has = append(has, n)
	}
	c.mu.Unlock()
	for _, n := range here {
		if n.Cluster == nil || slices.ContainsFunc(has, func(o cnm.Network) bool { return o.ID == n.ID }) {
			continue
		}
		if err := c.w.Abandon(ctx, n.ID); err != nil {
			return err
		}
	}
	for _, n := range has {
		if err := c.w.Adopt(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// set changes this node's share of a network, as the cluster has it.
func (c *fakeCluster) set(id string, pools ...cnm.Pool) cnm.Network {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.networks[id]
	n.Pools = pools
	c.networks[id] = n
	return n
}

func lease(subnet string) cnm.Pool {
	p := netip.MustParsePrefix(subnet)
	return cnm.Pool{Subnet: p, Range: p, Gateway: p.Addr().Next()}
}

// givenOut reports whether the address is one of the node's share.
func givenOut(n cnm.Network, a netip.Prefix) bool {
	for _, p := range n.Pools {
		if !p.Subnet.Contains(a.Addr()) || a.Bits() != p.Subnet.Bits() {
			continue
		}
		if n.Cluster.Leases != "" ||
			slices.ContainsFunc(p.Blocks, func(b netip.Prefix) bool { return b.Contains(a.Addr()) }) {
			return true
		}
	}
	return false
}

func (w *world) shared(t testing.TB, driver, name string) cnm.Network {
	t.Helper()
	n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: name, Driver: driver})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.events
	w.events = nil
	return out
}

func TestClusterNetworkComesAndGoes(t *testing.T) {
	w, c := newCluster(t, nil)
	w.told()
	n := w.shared(t, "overlay", "web")
	if n.Scope != cnm.Cluster || n.Cluster == nil || n.Cluster.VNI != 4096 || len(c.networks) != 1 ||
		len(n.Pools) != 1 {
		t.Fatalf("%+v", n)
	}
	s, es := w.sandbox(t, "web")
	if got := es[0].Addrs[0].String(); got != "10.200.7.0/16" {
		t.Errorf("address %s: not the first of the node's block", got)
	}
	w.consistent(t)
	_, err := w.DeleteNetwork(t.Context(), "web")
	wantError(t, err, cnm.ErrInUse, "disconnect")
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	// A cluster that refuses leaves the network open.
	c.err = &cnm.Error{Kind: cnm.ErrUnavailable, Reason: "no etcd"}
	_, err = w.DeleteNetwork(t.Context(), "web")
	wantError(t, err, cnm.ErrUnavailable, "no etcd", "web")
	s, _ = w.sandbox(t, "web")
	w.consistent(t)
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	w.network(t, "local", "10.1.0.0/24")
	names, err := w.PruneNetworks(t.Context(), every)
	wantError(t, err, cnm.ErrUnavailable, "web")
	if !slices.Equal(names, []string{"local"}) {
		t.Errorf("pruned %q: a cluster out of reach keeps its own networks only", names)
	}
	c.err = nil
	if _, err := w.DeleteNetwork(t.Context(), "web"); err != nil || len(c.networks) != 0 {
		t.Fatalf("%v; the cluster has %v", err, c.networks)
	}
	w.consistent(t)
	want := []string{"network create web", "sandbox create ", "endpoint connect web", "endpoint disconnect web",
		"sandbox remove ",
		"sandbox create ", "endpoint connect web", "endpoint disconnect web", "sandbox remove ",
		"network create local", "network remove local", "network remove web"}
	if got := w.told(); !slices.Equal(got, want) {
		t.Errorf("events %q\nwant %q", got, want)
	}
}

// What was read of a network before this node removed it does not bring the network back.
func TestAdoptOfWhatThisNodeHasRemoved(t *testing.T) {
	w, c := newCluster(t, nil)
	stale := w.shared(t, "overlay", "web")
	if _, err := w.DeleteNetwork(t.Context(), "web"); err != nil || len(c.networks) != 0 {
		t.Fatalf("%v; the cluster has %v", err, c.networks)
	}
	w.told()
	for range 2 {
		if err := w.Adopt(t.Context(), stale); err != nil {
			t.Error(err)
		}
		_, err := w.Network(t.Context(), "web")
		wantError(t, err, cnm.ErrNotFound, "web")
	}
	if got := w.told(); len(got) != 0 {
		t.Errorf("events %q", got)
	}
	w.consistent(t)
	if err := w.Abandon(t.Context(), stale.ID); err != nil {
		t.Fatal(err)
	}
	if err := w.Adopt(t.Context(), stale); err != nil { // the cluster has it again, from a copy of old data
		t.Fatal(err)
	}
	if _, err := w.Network(t.Context(), "web"); err != nil {
		t.Error(err)
	}
	w.consistent(t)
}

func TestClusterNetworkRefusals(t *testing.T) {
	w := newWorld(t, nil)
	_, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "web", Driver: "overlay"})
	wantError(t, err, cnm.ErrUnavailable, `"web"`, "overlay", "this node is in none", "--etcd")
	w, c := newCluster(t, nil)
	w.network(t, "local", "10.1.0.0/24")
	for name, r := range map[string]struct {
		r     cnm.NetworkRequest
		kind  error
		parts []string
	}{
		"name": {cnm.NetworkRequest{Name: "local"}, cnm.ErrExists, []string{`"local"`}},
		"option": {cnm.NetworkRequest{Name: "x", Options: map[string]string{"nope": "1"}}, cnm.ErrInvalid,
			[]string{"nope"}},
		"tunnel": {cnm.NetworkRequest{Name: "x", Options: map[string]string{"link": "bad"}}, cnm.ErrInvalid,
			[]string{"no tunnel"}},
	} {
		r.r.Driver = "overlay"
		_, err := w.CreateNetwork(t.Context(), r.r)
		if !errors.Is(err, r.kind) {
			t.Errorf("%s: %v", name, err)
		}
		wantError(t, err, r.kind, r.parts...)
	}
	c.err = &cnm.Error{Kind: cnm.ErrUnavailable, Reason: "no etcd"}
	_, err = w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "x", Driver: "overlay"})
	wantError(t, err, cnm.ErrUnavailable, "no etcd")
	c.err = nil
	// What the kernel does not take is in no cluster either.
	broken := errors.New("the kernel says no")
	fail := true
	w.fabric.hook = func() error {
		if fail {
			fail = false
			return broken
		}
		return nil
	}
	_, err = w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "x", Driver: "overlay"})
	wantError(t, err, broken, "create network x")
	if len(c.networks) != 0 {
		t.Errorf("the cluster has %v", c.networks)
	}
	w.consistent(t)
	w.shared(t, "overlay", "x")
	w.consistent(t)
}

// learnt is a network that another node has made.
func learnt(name string, third byte) cnm.Network {
	subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100, third, 0}), 24)
	return cnm.Network{
		ID: fmt.Sprintf("%08x%056x", 0xabcd0000+int(third), 1), Name: name, Driver: "routed", Scope: cnm.Cluster,
		IPv4:    true,
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{subnet}, Leases: "/leases/" + name},
		Pools:   []cnm.Pool{lease(strings.Replace(subnet.String(), "/24", "/26", 1))},
	}
}

func TestAdopt(t *testing.T) {
	w, _ := newCluster(t, nil)
	n := learnt("web", 1)
	if err := w.Adopt(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	s, es := w.sandbox(t, "web")
	passes := func() [][]plan.Owner {
		w.fabric.mu.Lock()
		defer w.fabric.mu.Unlock()
		out := w.fabric.passes
		w.fabric.passes = nil
		return out
	}
	revision := func() uint64 {
		r, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindNetwork, ID: n.ID})
		if err != nil {
			t.Fatal(err)
		}
		return r.Revision
	}
	passes()
	before := revision()
	if err := w.Adopt(t.Context(), n); err != nil || revision() != before || len(passes()) != 0 {
		t.Errorf("the same again: %v, a write (%t) or passes", err, revision() != before)
	}
	n.Options = map[string]string{"known": "1400"}
	if err := w.Adopt(t.Context(), n); err != nil || revision() == before {
		t.Fatal("no write", err)
	}
	want := [][]plan.Owner{{cnm.NetworkOwner(n.ID), cnm.EndpointOwner(es[0].ID)}}
	if got := passes(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("an option: passes %v, want %v", got, want)
	}
	n.Name = "renamed"
	if err := w.Adopt(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Network(t.Context(), "web"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("the old name: %v", err)
	}
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	w.restart(t)
	if got, err := w.Network(t.Context(), "renamed"); err != nil || got.Options["known"] != "1400" {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	w.consistent(t)
}

// TestMoreBlocksWakeNoEndpoint checks what an extension costs.
func TestMoreBlocksWakeNoEndpoint(t *testing.T) {
	w, c := newCluster(t, nil)
	n := w.shared(t, "overlay", "web")
	w.sandbox(t, "web")
	w.fabric.passes = nil
	if _, err := c.Extend(t.Context(), n, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(w.fabric.passes), fmt.Sprint([][]plan.Owner{{cnm.NetworkOwner(n.ID)}}); got != want {
		t.Errorf("passes %s, want %s", got, want)
	}
}

func TestAdoptRefusals(t *testing.T) {
	w, _ := newCluster(t, nil)
	w.network(t, "local", "10.100.9.0/24")
	if _, err := w.CreateNetwork(t.Context(),
		cnm.NetworkRequest{Name: "linked", Options: map[string]string{"link": "br0"}}); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		edit  func(*cnm.Network)
		kind  error
		parts []string
	}{
		"name": {func(n *cnm.Network) { n.Name = "local" }, cnm.ErrExists, []string{`name "local"`}},
		"link": {func(n *cnm.Network) { n.Options = map[string]string{"link": "br0"} }, cnm.ErrExists,
			[]string{`link "br0"`, `"linked"`}},
		"subnet": {func(n *cnm.Network) { n.Cluster.Subnets[0] = netip.MustParsePrefix("10.100.0.0/16") },
			cnm.ErrExists, []string{"10.100.9.0/24", `"local"`}},
		"driver": {func(n *cnm.Network) { n.Driver = "geneve" }, cnm.ErrInvalid, []string{`"geneve"`}},
		"local":  {func(n *cnm.Network) { n.Driver = "bridge" }, cnm.ErrInvalid, []string{`"bridge"`}},
		"option": {func(n *cnm.Network) { n.Options = map[string]string{"nope": "1"} }, cnm.ErrInvalid,
			[]string{"nope"}},
		"garbage": {func(n *cnm.Network) { n.Name = "a\nb" }, cnm.ErrInvalid, []string{"name"}},
		"ID":      {func(n *cnm.Network) { n.ID = "../x" }, cnm.ErrInvalid, []string{"../x"}},
		"range":   {func(n *cnm.Network) { n.Pools[0].Range = netip.Prefix{} }, cnm.ErrInvalid, []string{"ip-range"}},
		"block": {func(n *cnm.Network) { n.Pools[0].Blocks = []netip.Prefix{netip.MustParsePrefix("10.3.0.0/30")} },
			cnm.ErrInvalid, []string{"block", "10.3.0.0/30"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := learnt("web", 1)
			c.edit(&n)
			wantError(t, w.Adopt(t.Context(), n), c.kind, c.parts...)
			w.consistent(t)
		})
	}
	// None of them holds anything.
	if err := w.Adopt(t.Context(), learnt("web", 1)); err != nil {
		t.Fatal(err)
	}
	// And cluster networks keep their subnets from local ones.
	_, err := w.CreateNetwork(t.Context(),
		cnm.NetworkRequest{Name: "x", Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix("10.100.1.128/25")}}})
	wantError(t, err, cnm.ErrExists, "10.100.1.0/24", `"web"`)
	w.consistent(t)
}

func TestAbandon(t *testing.T) {
	w, _ := newCluster(t, nil)
	local := w.network(t, "local", "10.1.0.0/24")
	if err := w.Abandon(t.Context(), "feedfeedfeed"); err != nil {
		t.Errorf("one that is not known: %v", err)
	}
	wantError(t, w.Abandon(t.Context(), local.ID), cnm.ErrForbidden, `"local"`)
	n := learnt("web", 1)
	adopt := func() {
		t.Helper()
		if err := w.Adopt(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	gone := func() bool {
		t.Helper()
		n, err := w.Network(t.Context(), "web")
		if errors.Is(err, cnm.ErrNotFound) {
			return true
		}
		if err != nil {
			t.Fatal(err)
		}
		return n.Cluster.Gone
	}
	adopt()
	if err := w.Abandon(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Network(t.Context(), "web"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a network without endpoints: %v", err)
	}
	w.consistent(t)
	adopt()
	s, _ := w.sandbox(t, "web")
	other, _ := w.sandbox(t, "web", "local")
	for range 2 {
		if err := w.Abandon(t.Context(), n.ID); err != nil || !gone() {
			t.Fatal(err)
		}
	}
	w.consistent(t)
	_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}}})
	wantError(t, err, cnm.ErrInUse, "removed from the cluster")
	adopt()
	if gone() {
		t.Error("the cluster has it again, and it is still marked")
	}
	if err := w.Abandon(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	w.restart(t)
	if err := w.DeleteSandbox(t.Context(), s.ID); err != nil || !gone() {
		t.Fatal(err)
	}
	w.told()
	if err := w.Detach(t.Context(), other.ID, "web"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Network(t.Context(), "web"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("after its last endpoint: %v", err)
	}
	if got, want := w.told(), []string{"endpoint disconnect web", "network remove web"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	w.consistent(t)
}

// TestGoneAfterReboot checks that a network which lost its endpoints with the boot goes.
func TestGoneAfterReboot(t *testing.T) {
	w, _ := newCluster(t, nil)
	n := learnt("web", 1)
	if err := w.Adopt(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	w.sandbox(t, "web")
	if err := w.Abandon(t.Context(), n.ID); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []cnm.Kind{cnm.KindEndpoint, cnm.KindSandbox, cnm.KindAddress} {
		rs, err := w.store.List(t.Context(), kind)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if err := w.store.Commit(t.Context(), cnm.Write{Key: r.Key, Revision: r.Revision}); err != nil {
				t.Fatal(err)
			}
		}
	}
	w.restart(t)
	w.consistent(t)
	if _, err := w.Network(t.Context(), "web"); !errors.Is(err, cnm.ErrNotFound) {
		t.Error(err)
	}
}
