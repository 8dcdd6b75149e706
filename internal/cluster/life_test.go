package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/clustertest"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/store/mem"
)

// host is a node and the store that it keeps.
type host struct {
	*clustertest.Node
	t     *testing.T
	store cnm.Store
	dir   string
}

// short are durations for nodes that go away in a test.
func short() cluster.Times {
	return cluster.Times{Alive: time.Second, Lease: 3 * time.Second, Grace: 100 * time.Millisecond,
		Retry: 20 * time.Millisecond}
}

// host adds a node with the given durations, and waits until it is a member.
func (a *arena) host(ctx context.Context, times cluster.Times) *host {
	a.t.Helper()
	h := a.unconnected(ctx, a.url(), times)
	await.True(a.t, "the node is a member", func() bool { return h.self() != nil })
	return h
}

// unconnected adds a node at an etcd that may not be there.
func (a *arena) unconnected(ctx context.Context, endpoint string, times cluster.Times) *host {
	a.t.Helper()
	i := len(a.nodes)
	h := &host{t: a.t, store: mem.New(), dir: filepath.Join(a.dir, fmt.Sprintf("n%d", i))}
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		a.t.Fatal(err)
	}
	var err error
	h.Node, err = clustertest.Start(ctx, clustertest.Config{Endpoint: endpoint, Dir: h.dir, Number: i, Store: h.store,
		Times: times})
	if err != nil {
		a.t.Fatal(err)
	}
	a.nodes = append(a.nodes, h.Node)
	return h
}

// self is what the node knows of itself as a member; nil before it is one.
func (h *host) self() *cluster.NodeView {
	for _, n := range h.Member.Nodes() {
		if n.Self && n.Alive {
			return &n
		}
	}
	return nil
}

// create makes a network.
func (h *host) create(ctx context.Context, name, driver, subnet string) cnm.Network {
	h.t.Helper()
	n, err := h.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: name, Driver: driver,
		Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix(subnet)}}})
	if err != nil {
		h.t.Fatal(err)
	}
	return n
}

// adopted waits for a network that another node has made.
func (h *host) adopted(ctx context.Context, name string) cnm.Network {
	h.t.Helper()
	var n cnm.Network
	await.Done(h.t, "the network is here too", func() (err error) {
		n, err = h.Controller.Network(ctx, name)
		return err
	})
	return n
}

// attach makes a sandbox on a network.
func (h *host) attach(ctx context.Context, network string, addrs ...string) (cnm.Sandbox, cnm.Endpoint, error) {
	r := cnm.AttachRequest{Network: network}
	for _, a := range addrs {
		r.Addrs = append(r.Addrs, netip.MustParseAddr(a))
	}
	s, es, err := h.Controller.CreateSandbox(ctx, cnm.SandboxRequest{Name: "box", Attach: []cnm.AttachRequest{r}})
	if err != nil {
		return s, cnm.Endpoint{}, err
	}
	return s, es[0], nil
}

func (h *host) mustAttach(ctx context.Context, network string) (cnm.Sandbox, cnm.Endpoint) {
	h.t.Helper()
	s, e, err := h.attach(ctx, network)
	if err != nil {
		h.t.Fatal(err)
	}
	return s, e
}

// peers are the prefixes of the peers in the node's store, but for blocks, each with the node's address that it is
// reached by.
func (h *host) peers(ctx context.Context) map[string]string {
	h.t.Helper()
	all, err := cnm.ListPeers(ctx, h.store)
	if err != nil {
		h.t.Fatal(err)
	}
	out := map[string]string{}
	for _, p := range all {
		if p.Blocks {
			continue
		}
		for _, prefix := range p.Prefixes {
			out[prefix.String()] = p.Addr4.String()
		}
	}
	return out
}

func (h *host) put(ctx context.Context, key, value string) {
	h.t.Helper()
	if _, err := h.Client.Put(ctx, clustertest.Prefix+"/"+key, value); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) get(ctx context.Context, key string) string {
	h.t.Helper()
	r, err := h.Client.Get(ctx, clustertest.Prefix+"/"+key)
	if err != nil {
		h.t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return ""
	}
	return string(r.Kvs[0].Value)
}

// problem waits until the node tells of a problem with all of the words.
func (h *host) problem(words ...string) {
	h.t.Helper()
	await.True(h.t, fmt.Sprintf("a problem with the words %q", words), func() bool {
		return slices.ContainsFunc(h.Member.Problems(), func(p string) bool {
			return !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(p, w) })
		})
	})
}

func pair(t *testing.T, times cluster.Times) (context.Context, *arena, *host, *host) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	a := newArena(t)
	return ctx, a, a.host(ctx, times), a.host(ctx, times)
}

func TestANetworkIsEverywhereAndGoesEverywhere(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	for _, driver := range []string{"overlay", "vxlan"} {
		made := one.create(ctx, driver, driver, "10.1.0.0/16")
		there := two.adopted(ctx, driver)
		if there.ID != made.ID || there.Cluster.VNI != made.Cluster.VNI || there.Cluster.Port != made.Cluster.Port ||
			!slices.Equal(there.Cluster.Subnets, made.Cluster.Subnets) {
			t.Errorf("%s: made as %+v, known as %+v", driver, made.Cluster, there.Cluster)
		}
		if _, err := two.Controller.DeleteNetwork(ctx, driver); err != nil {
			t.Fatal(err)
		}
		await.True(t, "the network is gone here too", func() bool {
			_, err := one.Controller.Network(ctx, driver)
			return errors.Is(err, cnm.ErrNotFound)
		})
		if left := one.get(ctx, "network/"+made.ID); left != "" {
			t.Errorf("%s: etcd still has %s", driver, left)
		}
	}
}

func TestWhatIsTakenIsTakenEverywhere(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	request := func(name, driver, subnet string) error {
		_, err := two.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: name, Driver: driver,
			Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix(subnet)}}})
		return err
	}
	for name, err := range map[string]error{
		"name":             request("web", "overlay", "10.2.0.0/16"),
		"subnet":           request("db", "overlay", "10.1.128.0/17"),
		"subnet of leases": request("db", "vxlan", "10.0.0.0/8"),
	} {
		if !errors.Is(err, cnm.ErrExists) || !strings.Contains(err.Error(), "web") {
			t.Errorf("%s: %v, want that it exists, with the name web", name, err)
		}
	}
	_, e := one.mustAttach(ctx, "web")
	await.True(t, "the endpoint is known there", func() bool {
		return two.peers(ctx)[e.Addrs[0].Addr().String()+"/32"] != ""
	})
	_, err := two.Controller.DeleteNetwork(ctx, "web")
	if !errors.Is(err, cnm.ErrInUse) || !strings.Contains(err.Error(), "n0") {
		t.Errorf("removed while another node has a container on it: %v", err)
	}
}

// Nodes that make networks at the same moment give out each identifier once.
func TestIdentifiersAreGivenOutOnce(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	var mu sync.Mutex
	vnis := map[uint32]string{}
	var g sync.WaitGroup
	for i, h := range []*host{one, two} {
		for j := range 5 {
			g.Go(func() {
				name := fmt.Sprintf("net%d-%d", i, j)
				n, err := h.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: name, Driver: "overlay",
					Pools: []cnm.PoolRequest{{Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", 10*i+j+1))}}})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				if other, twice := vnis[n.Cluster.VNI]; twice {
					t.Errorf("%s and %s both have VNI %d", name, other, n.Cluster.VNI)
				}
				vnis[n.Cluster.VNI] = name
			})
		}
	}
	g.Wait()
	if len(vnis) != 10 {
		t.Errorf("%d networks of 10", len(vnis))
	}
}

func TestEndpointsAreKnownElsewhereAsLongAsTheyAreThere(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	s, e := one.mustAttach(ctx, "web")
	want := map[string]string{e.Addrs[0].Addr().String() + "/32": clustertest.Addr(0).String()}
	await.True(t, "the endpoint is a peer there", func() bool { return maps.Equal(two.peers(ctx), want) })
	if got := one.peers(ctx); len(got) != 0 {
		t.Errorf("its own node has the peers %v", got)
	}
	published, err := record.Decode[record.Endpoint]([]byte(one.get(ctx, "endpoint/"+e.Network+"."+e.ID)))
	if err != nil || published.MAC != e.MAC || published.Node != one.Member.ID() || published.Name != "box" {
		t.Errorf("published as %+v, %v", published, err)
	}
	if err := one.Controller.DeleteSandbox(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the peer is gone there", func() bool { return len(two.peers(ctx)) == 0 })
	if left := one.get(ctx, "endpoint/"+e.Network+"."+e.ID); left != "" {
		t.Errorf("etcd still has %s", left)
	}
}

// Nodes that attach at the same moment never give out an address twice, and no part of the subnet is two nodes'.
func TestBlocksNeverOverlap(t *testing.T) {
	ctx, a, one, two := pair(t, cluster.Times{})
	hosts := []*host{one, two, a.host(ctx, cluster.Times{})}
	one.create(ctx, "web", "overlay", "10.1.0.0/22")
	for _, h := range hosts {
		h.adopted(ctx, "web")
	}
	var mu sync.Mutex
	owner := map[netip.Addr]int{}
	var g sync.WaitGroup
	for i, h := range hosts {
		g.Go(func() {
			for range 80 { // more than one block of 64
				_, e, err := h.attach(ctx, "web")
				if err != nil {
					t.Errorf("node %d: %v", i, err)
					return
				}
				mu.Lock()
				if other, twice := owner[e.Addrs[0].Addr()]; twice {
					t.Errorf("nodes %d and %d both gave out %s", i, other, e.Addrs[0])
				}
				owner[e.Addrs[0].Addr()] = i
				mu.Unlock()
			}
		})
	}
	g.Wait()
	await.True(t, "every node knows the blocks of all", func() bool {
		n := 0
		for _, v := range one.Member.Nodes() {
			n += len(v.Blocks["web"])
		}
		return n >= 6
	})
	taken := map[netip.Prefix]string{}
	for _, v := range one.Member.Nodes() {
		for _, b := range v.Blocks["web"] {
			for p, name := range taken {
				if p.Overlaps(b) {
					t.Errorf("%s of %s and %s of %s overlap", b, v.Name, p, name)
				}
			}
			taken[b] = v.Name
		}
	}
}

func TestAnAddressOfAnotherNodesBlockIsRefusedByName(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	two.adopted(ctx, "web")
	_, e := one.mustAttach(ctx, "web")
	near := e.Addrs[0].Addr().Next() // in the same block of 64
	await.True(t, "the block is known there", func() bool {
		for _, v := range two.Member.Nodes() {
			if !v.Self && len(v.Blocks["web"]) > 0 {
				return true
			}
		}
		return false
	})
	_, _, err := two.attach(ctx, "web", near.String())
	if err == nil || !strings.Contains(err.Error(), "n0") || !strings.Contains(err.Error(), near.String()) {
		t.Errorf("an address of node n0's block: %v", err)
	}
	if _, got, err := two.attach(ctx, "web", "10.1.200.7"); err != nil || got.Addrs[0].Addr().String() != "10.1.200.7" {
		t.Errorf("a free address: %v, %v", got.Addrs, err)
	}
}

// A node that is gone without a message is away at once, and what it had goes once its lease is over.
func TestANodeThatVanishes(t *testing.T) {
	ctx, a, one, two := pair(t, short())
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	two.adopted(ctx, "web")
	_, e := two.mustAttach(ctx, "web")
	addr := e.Addrs[0].Addr().String() + "/32"
	await.True(t, "the endpoint and the lease are peers here", func() bool {
		return one.peers(ctx)[addr] != "" && len(one.peers(ctx)) == 2
	})
	id := two.Member.ID()
	if err := two.Stop(); err != nil {
		t.Fatal(err)
	}
	a.nodes = slices.DeleteFunc(a.nodes, func(n *clustertest.Node) bool { return n == two.Node })
	view := func() *cluster.NodeView {
		for _, v := range one.Member.Nodes() {
			if v.ID == id {
				return &v
			}
		}
		return nil
	}
	await.True(t, "the node is away, or forgotten", func() bool { return view() == nil || !view().Alive })
	await.True(t, "the node is forgotten", func() bool { return view() == nil })
	await.True(t, "its peers are gone", func() bool { return len(one.peers(ctx)) == 0 })
	for _, l := range one.Member.Leases() {
		if l.NodeID == id {
			t.Errorf("its lease of %s is still there", l.Subnet)
		}
	}
}

// Whatever is written over a node's own records is put right by the node.
func TestANodePutsItsOwnRecordsRight(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{Retry: 20 * time.Millisecond})
	id := one.Member.ID()
	right := func() bool {
		n, err := record.Decode[record.Node]([]byte(one.get(ctx, "node/"+id)))
		alive, aliveErr := record.Decode[record.Alive]([]byte(one.get(ctx, "alive/"+id)))
		return err == nil && aliveErr == nil && n.Name == "n0" && n.Addr4 == clustertest.Addr(0) &&
			alive.Addr == clustertest.Addr(0).String()
	}
	for name, damage := range map[string]func(){
		"garbage":        func() { one.put(ctx, "node/"+id, "\x00\xff{") },
		"another's ID":   func() { one.put(ctx, "node/"+id, `{"id":"someone else"}`) },
		"another name":   func() { one.put(ctx, "node/"+id, `{"id":"`+id+`","name":"impostor"}`) },
		"another moment": func() { one.put(ctx, "alive/"+id, `[]`) },
		"removed": func() {
			for _, kind := range []string{"node/", "alive/"} {
				if _, err := two.Client.Delete(ctx, clustertest.Prefix+"/"+kind+id); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		damage()
		await.True(t, name+": the records are right again", right)
	}
}

func TestWhatCannotBeReadIsToldAndLeftAlone(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{})
	one.create(ctx, "web", "overlay", "10.1.0.0/16")
	strange := strings.Repeat("ab", 32)
	for key, value := range map[string]string{
		"network/" + strange:                `{"id":"` + strange + `","name":"x"}`,
		"node/not-a-node":                   `{"id":"other"}`,
		"endpoint/n.e":                      `{"id":"e","network":"n","node":"x"}`,
		"block/" + strange + ".10.0.0.1-26": `{"node":"x"}`,
	} {
		two.put(ctx, key, value)
		one.problem("ignoring the record "+key, "in etcd")
		if got := two.get(ctx, key); got != value {
			t.Errorf("%s was changed to %q", key, got)
		}
		if _, err := two.Client.Delete(ctx, clustertest.Prefix+"/"+key); err != nil {
			t.Fatal(err)
		}
		await.True(t, key+" is told of no more", func() bool {
			return !slices.ContainsFunc(one.Member.Problems(), func(p string) bool { return strings.Contains(p, key) })
		})
	}
	one.mustAttach(ctx, "web") // and everything works
}

func TestNamesAndAddressesOfTwoNodesAreTold(t *testing.T) {
	ctx, _, one, _ := pair(t, cluster.Times{})
	other := "00000000-0000-4000-8000-000000000007"
	one.put(ctx, "alive/"+other, `{"instance":"i","boot":"b","addr":"10.9.9.9"}`)
	one.put(ctx, "node/"+other, `{"id":"`+other+`","name":"n0","addr4":"10.9.9.9","mtu":1500}`)
	one.problem(other, "has this node's name", "--node-name")
	one.put(ctx, "node/"+other, `{"id":"`+other+`","name":"x","addr4":"`+clustertest.Addr(0).String()+`"}`)
	one.problem("node x", "has this node's address", "--node-ip")
}

// Without etcd nothing that others must know of is made, and the error says so; nothing hangs.
func TestWithoutEtcd(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	a := &arena{t: t, dir: t.TempDir()}
	h := a.unconnected(ctx, "unix://"+filepath.Join(a.dir, "nobody"), cluster.Times{})
	defer func() {
		if err := h.Stop(); err != nil {
			t.Error(err)
		}
	}()
	_, err := h.Controller.CreateNetwork(ctx, cnm.NetworkRequest{Name: "web", Driver: "overlay"})
	if !errors.Is(err, cnm.ErrUnavailable) {
		t.Errorf("created without etcd: %v", err)
	}
	if s := h.Member.State(); s.Connected || s.Synced {
		t.Errorf("state %+v", s)
	}
	if n := h.Member.Nodes(); len(n) != 0 {
		t.Errorf("nodes %v", n)
	}
	if !h.Member.Expires().IsZero() {
		t.Errorf("holds something until %s", h.Member.Expires())
	}
	if _, err := h.Controller.Network(ctx, "web"); !errors.Is(err, cnm.ErrNotFound) {
		t.Errorf("a network that could not be made: %v", err)
	}
}

// A node whose lease was given to another one notices, and takes a subnet that is free.
func TestALeaseThatAnotherHasTaken(t *testing.T) {
	ctx, _, one, two := pair(t, cluster.Times{Retry: 20 * time.Millisecond})
	made := one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	own := func() (l cluster.LeaseView) {
		for _, x := range one.Member.Leases() {
			if x.Own {
				l = x
			}
		}
		return l
	}
	await.True(t, "the node has a lease", func() bool { return own().Subnet.IsValid() })
	first := own()
	key := made.Cluster.Leases + "/subnets/" + first.Key
	value := `{"PublicIP":"10.255.255.1","BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:09"}}`
	// In one step, as somebody does who thinks that it is free.
	_, err := two.Client.Txn(ctx).Then(clientv3.OpPut(key, value)).Commit()
	if err != nil {
		t.Fatal(err)
	}
	await.True(t, "the node has another subnet", func() bool {
		l := own()
		return l.Subnet.IsValid() && l.Subnet != first.Subnet
	})
	await.True(t, "its network is in that subnet", func() bool {
		n, err := one.Controller.Network(ctx, "leased")
		return err == nil && len(n.Pools) == 1 && n.Pools[0].Subnet == own().Subnet
	})
}

func TestNodesAreListedByName(t *testing.T) {
	ctx, a, one, _ := pair(t, cluster.Times{})
	a.host(ctx, cluster.Times{})
	one.create(ctx, "leased", "vxlan", "10.2.0.0/16")
	var names []string
	await.True(t, "every node has a subnet", func() bool {
		names = nil
		for _, n := range one.Member.Nodes() {
			if len(n.Subnets["leased"]) == 1 {
				names = append(names, n.Name)
			}
		}
		return len(names) == 3
	})
	if !slices.Equal(names, []string{"n0", "n1", "n2"}) {
		t.Errorf("listed as %v", names)
	}
	selves := 0
	for _, n := range one.Member.Nodes() {
		if n.Self {
			selves++
		}
	}
	if selves != 1 {
		t.Errorf("%d nodes are this one", selves)
	}
	if one.Member.Expires().Before(time.Now()) {
		t.Errorf("what the node holds is over since %s", one.Member.Expires())
	}
	if err := one.Member.Usable(one.adopted(ctx, "leased").ID); err != nil {
		t.Errorf("its share cannot be used: %v", err)
	}
}
