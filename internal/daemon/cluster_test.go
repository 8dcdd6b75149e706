package daemon_test

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/etcd"
	"github.com/vethloom/vethloom/internal/etcd/embedded"
)

// clusterDrivers are those whose networks have several nodes.
var clusterDrivers = []string{"vxlan", "udp", "host-gw", "overlay"}

// world is a cluster of the node under test, what is put into etcd by hand, and
// maybe a second node on the other side of the underlay.
type world struct {
	*node
	etcd *clientv3.Client
	far  string // path of the namespace at the underlay's other end
	url  string // of etcd
	srv  *embedded.Server
	data string // etcd's
}

// newWorld starts an etcd on a unix socket, which every network namespace reaches, and
// joins a node that has not started yet to it. The underlay is up0, 192.0.2.1 and 2001:db8::1.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{node: newNode(t)}
	dir := t.TempDir()
	w.url, w.data = "unix://"+filepath.Join(dir, "etcd.sock"), filepath.Join(dir, "data")
	w.serve()
	var err error
	w.etcd, err = etcd.Dial(etcd.Config{Endpoints: []string{w.url}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.stop()
		w.etcd.Close()
		if err := w.srv.Close(); err != nil {
			t.Error(err)
		}
	})
	w.far = w.outside()
	w.cfg.Etcd, w.cfg.Iface, w.cfg.NodeName = w.url, "up0", "here"
	return w
}

// serve starts etcd with the data that there are.
func (w *world) serve() {
	w.t.Helper()
	var err error
	w.srv, err = embedded.Start(w.t.Context(), embedded.Config{Dir: w.data, ClientURLs: []string{w.url}})
	if err != nil {
		w.t.Fatal(err)
	}
}

// join starts netd and waits until it is a member.
func (w *world) join() {
	w.t.Helper()
	w.start()
	w.joined()
}

func (w *world) joined() {
	w.t.Helper()
	ctx := w.t.Context()
	await.True(w.t, "the node is a member and has the cluster's networks", func() bool {
		nodes, err := w.client.Nodes.List(ctx, &apiv1.ListNodesRequest{})
		if err != nil {
			w.t.Fatal(err)
		}
		networks, err := w.client.Networks.List(ctx, &apiv1.ListNetworksRequest{})
		if err != nil {
			w.t.Fatal(err)
		}
		var local []string
		for _, n := range networks.Networks {
			if n.Scope == "cluster" {
				local = append(local, "/vethloom/network/"+n.Id)
			}
		}
		slices.Sort(local)
		return slices.ContainsFunc(nodes.Nodes, func(n *apiv1.Node) bool { return n.Self && n.Alive }) &&
			slices.Equal(local, w.list("/vethloom/network/"))
	})
}

// second starts another netd at the far end of the underlay, on the same etcd.
func (w *world) second() *node {
	w.t.Helper()
	b := &node{Env: w.Env, t: w.t, root: w.t.TempDir(), place: w.far, kernel: w.kernel}
	run := w.t.TempDir()
	b.cfg = w.cfg
	b.cfg.Root, b.cfg.Run, b.cfg.Host = b.root, run, "unix://"+filepath.Join(run, "netd.sock")
	b.cfg.Iface, b.cfg.NodeName = "up1", "there"
	b.start()
	w.t.Cleanup(func() {
		b.stop()
		if w.t.Failed() && b.log != nil {
			w.t.Logf("log of the second netd:\n%s", tail(b.log.String(), 4000))
		}
	})
	return b
}

// pair is a world with a second node, and on each a sandbox with a network of each driver; the one there echoes.
func pair(t *testing.T) (w *world, far *node, here, there *apiv1.Sandbox) {
	t.Helper()
	return pairWith(t, "")
}

// pairWith is a pair with --fastpath.
func pairWith(t *testing.T, fastpath string) (w *world, far *node, here, there *apiv1.Sandbox) {
	t.Helper()
	w = newWorld(t)
	if fastpath != "" {
		w.cfg.FastPath = fastpath
	}
	w.join()
	far = w.second()
	for _, d := range clusterDrivers {
		w.shared(d)
	}
	here, there = w.attach(clusterDrivers...), far.attach(clusterDrivers...)
	far.echo(there)
	return w, far, here, there
}

// dismantle removes what pair has made, after which nothing may be left.
func (w *world) dismantle(far *node, here, there *apiv1.Sandbox) {
	w.t.Helper()
	w.dismantleAll(far, here, there, clusterDrivers)
}

// dismantleAll removes the networks of these drivers, and what is on them.
func (w *world) dismantleAll(far *node, here, there *apiv1.Sandbox, drivers []string) {
	w.t.Helper()
	w.detach(here)
	far.detach(there)
	for _, d := range drivers {
		w.discard(d)
	}
	w.converged()
	w.barren()
}

// list is etcd's keys below a prefix, sorted.
func (w *world) list(prefix string) (out []string) {
	w.t.Helper()
	got, err := w.etcd.Get(w.t.Context(), prefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		w.t.Fatal(err)
	}
	for _, kv := range got.Kvs {
		out = append(out, string(kv.Key))
	}
	slices.Sort(out)
	return out
}

// keys lists what is in etcd besides nodes and their daemons.
func (w *world) keys() string {
	w.t.Helper()
	return strings.Join(slices.DeleteFunc(w.list("/vethloom/"),
		regexp.MustCompile(`^/vethloom/(node|alive|guard)/`).MatchString), "\n")
}

func (w *world) put(key, value string) {
	w.t.Helper()
	if _, err := w.etcd.Put(w.t.Context(), key, value); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) drop(keys ...string) {
	w.t.Helper()
	for _, k := range keys {
		if _, err := w.etcd.Delete(w.t.Context(), k); err != nil {
			w.t.Fatal(err)
		}
	}
}

// shared makes a network of the driver and the driver's name.
func (w *world) shared(driver string, edit ...func(*apiv1.CreateNetworkRequest)) *apiv1.Network {
	w.t.Helper()
	return w.network(driver,
		append([]func(*apiv1.CreateNetworkRequest){func(r *apiv1.CreateNetworkRequest) { r.Driver = driver }},
			edit...)...)
}

// barren fails the test when something of cluster networks stays in the kernel or in etcd.
func (w *world) barren() {
	w.t.Helper()
	w.idle()
	await.Value(w.t, "nothing is left of cluster networks", "", w.remains)
}

// remains is what there is of cluster networks in the kernel and in etcd.
func (w *world) remains() string {
	w.t.Helper()
	return strings.TrimSpace(w.keys() + "\n" + w.Sh(`
		ip -o link | grep -o 'vl[xt]-[0-9a-f]*' || true
		ip route show table main proto 117; ip -6 route show table main proto 117
		ip neigh show nud permanent; bridge fdb show | grep 'dev vlx' || true
		nft list ruleset | grep -o 'comment "peer/[^"]*"' | sort -u || true
		ss -Hlnu | awk '{print $4}' | grep -v '%vlb-[0-9a-f]*\]*:53$' || true
		ip -o link | grep -o 'vlb-[0-9a-f]*' | sort -u | tail -n +2`))
}

// code is an error's class.
func code(err error) codes.Code { return status.Code(err) }

// attach makes a sandbox on the networks.
func (n *node) attach(networks ...string) *apiv1.Sandbox {
	n.t.Helper()
	r := &apiv1.CreateSandboxRequest{}
	for _, name := range networks {
		r.Networks = append(r.Networks, &apiv1.ConnectRequest{Network: name})
	}
	var s *apiv1.Sandbox
	await.True(n.t, fmt.Sprintf("a sandbox on %v is made", networks), func() (done bool) {
		var err error
		s, err = n.client.Sandboxes.Create(n.t.Context(), r)
		if err != nil && code(err) != codes.NotFound && code(err) != codes.Unavailable {
			n.t.Fatalf("attach to %v: %v", networks, err)
		}
		return err == nil
	})
	return s
}

func (n *node) detach(s *apiv1.Sandbox) {
	n.t.Helper()
	if _, err := n.client.Sandboxes.Remove(n.t.Context(), &apiv1.RemoveSandboxRequest{Id: s.Id}); err != nil {
		n.t.Fatalf("remove sandbox: %v", err)
	}
}

// discard removes a network once other nodes' endpoints have left it.
func (n *node) discard(name string) {
	n.t.Helper()
	await.True(n.t, "network "+name+" is removed", func() bool {
		_, err := n.client.Networks.Remove(n.t.Context(), &apiv1.RemoveNetworkRequest{Network: name})
		if err != nil && code(err) != codes.FailedPrecondition {
			n.t.Fatalf("remove network %s: %v", name, err)
		}
		return err == nil
	})
}

// addressOn is the sandbox's address of a family on a network.
func addressOn(t *testing.T, s *apiv1.Sandbox, network string, is4 bool) netip.Addr {
	t.Helper()
	for _, e := range s.Endpoints {
		for _, a := range e.Addresses {
			if p := netip.MustParsePrefix(a); e.Network == network && p.Addr().Is4() == is4 {
				return p.Addr()
			}
		}
	}
	t.Fatalf("sandbox has no such address on %s: %v", network, s.Endpoints)
	return netip.Addr{}
}
