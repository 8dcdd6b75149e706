package single

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/plugin/attach"
)

// runtime is an engine that knows CNI, by the library that engines use.
type runtime struct {
	*node
	*libcni.CNIConfig
	dir string // of namespaces
}

// newRuntime is one whose plugins are ours and the reference ones.
func newRuntime(n *node) *runtime {
	n.t.Helper()
	bin := filepath.Dir(program(n.t, "vethloom-cni"))
	r := &runtime{node: n, dir: n.t.TempDir()}
	r.CNIConfig = libcni.NewCNIConfigWithCacheDir([]string{bin, "/usr/lib/cni"}, n.t.TempDir(),
		&invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}})
	n.t.Cleanup(func() {
		pins, _ := filepath.Glob(filepath.Join(r.dir, "*"))
		for _, p := range pins {
			r.lose(filepath.Base(p))
		}
	})
	return r
}

// socket is netd's.
func (r *runtime) socket() string { return filepath.Join(r.RunDir, "attach.sock") }

// list reads a list of configurations; SOCKET in it is netd's.
func (r *runtime) list(text string) *libcni.NetworkConfigList {
	r.t.Helper()
	l, err := libcni.ConfListFromBytes([]byte(strings.ReplaceAll(text, "SOCKET",
		`"socket": "`+r.socket()+`"`)))
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// box makes a container's namespace.
func (r *runtime) box(id string) *libcni.RuntimeConf {
	r.t.Helper()
	path := filepath.Join(r.dir, id)
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		r.t.Fatal(err)
	}
	r.Run("unshare", "--net="+path, "true")
	return &libcni.RuntimeConf{ContainerID: id, NetNS: path, IfName: "eth0"}
}

// lose removes a namespace as an engine does.
func (r *runtime) lose(id string) {
	path := filepath.Join(r.dir, id)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		r.t.Errorf("unmount %s: %v", path, err)
	}
	if err := os.Remove(path); err != nil {
		r.t.Error(err)
	}
}

// in runs a script in a container's namespace.
func (r *runtime) in(id, script string) string {
	r.t.Helper()
	return r.Run("nsenter", "--net="+filepath.Join(r.dir, id), "sh", "-c", script)
}

// do calls the library in the node's namespace.
func (r *runtime) do(f func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return r.Do("", func() error { return f(ctx) })
}

// add attaches, and returns the result.
func (r *runtime) add(l *libcni.NetworkConfigList, c *libcni.RuntimeConf) *types100.Result {
	r.t.Helper()
	var got types.Result
	err := r.do(func(ctx context.Context) (err error) { got, err = r.AddNetworkList(ctx, l, c); return err })
	if err != nil {
		r.t.Fatalf("ADD %s: %v", c.ContainerID, err)
	}
	res, err := types100.NewResultFromResult(got)
	if err != nil {
		r.t.Fatal(err)
	}
	return res
}

func (r *runtime) del(l *libcni.NetworkConfigList, c *libcni.RuntimeConf) {
	r.t.Helper()
	if err := r.do(func(ctx context.Context) error { return r.DelNetworkList(ctx, l, c) }); err != nil {
		r.t.Errorf("DEL %s: %v", c.ContainerID, err)
	}
}

// code is the code of an error of a plugin.
func code(err error) uint {
	if e, ok := errors.AsType[*types.Error](err); ok {
		return e.Code
	}
	return 0
}

// addrOf is the first address of a family in a result.
func addrOf(t *testing.T, r *types100.Result, v4 bool) string {
	t.Helper()
	for _, ip := range r.IPs {
		if (ip.Address.IP.To4() != nil) == v4 {
			return ip.Address.IP.String()
		}
	}
	t.Fatalf("no such address in %v", r.IPs)
	return ""
}

const web = `{"cniVersion": "1.1.0", "name": "web", "plugins": [{"type": "vethloom-cni", SOCKET,
	"capabilities": {"portMappings": true, "ips": true, "mac": true, "aliases": true, "bandwidth": true}}]}`

// A container of a CNI engine and one of ours are on one network: addresses of both families, names, ports, repair.
func TestContainersOfCNI(t *testing.T) {
	n := withImage(t)
	r := newRuntime(n)
	far := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sh", "-c", serve("db"))
	l, c := r.list(web), r.box("pod1")
	c.Args = [][2]string{{"IgnoreUnknown", "1"}, {"K8S_POD_NAME", "shop"}}
	c.CapabilityArgs = map[string]any{
		"ips": []string{"10.7.0.99"}, "mac": "02:00:00:00:00:99", "aliases": map[string][]string{"web": {"cart"}},
		"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}},
	}
	res := r.add(l, c)
	is(t, "address", addrOf(t, res, true), "10.7.0.99")
	is(t, "hardware address", res.Interfaces[1].Mac, "02:00:00:00:00:99")
	is(t, "sandbox", res.Interfaces[1].Sandbox, c.NetNS)
	is(t, "name server", res.DNS.Nameservers[0], "127.0.0.11")
	db := n.address("db", "web")
	ours := func() string { return r.in("pod1", "echo | busybox nc -w 3 "+db+" 80") }
	n.eventually("ours answers", func() bool { return ours() == "db\n" })
	if msg, err := n.exchangeIn(c.NetNS, "udp", "127.0.0.11:53", "db", dns.TypeA); err != nil || len(msg.Answer) != 1 ||
		!strings.HasSuffix(msg.Answer[0].String(), db) {
		t.Errorf("the address of db, asked for in the container: %v, %v", msg, err)
	}
	v6 := addrOf(t, res, false)
	n.says(c.NetNS, "pod")
	for _, name := range []string{"shop", "cart", v6} {
		is(t, "what "+name+" answers", n.ok("exec", "db", "sh", "-c", "echo | nc -w 3 "+name+" 80"), "pod")
	}
	n.eventually("the port is published", func() bool {
		r := n.call("", nil, "nsenter", "--net="+far, "sh", "-c", "echo | busybox nc -w 3 192.0.2.1 8080")
		return r.out == "pod"
	})
	matches(t, "who is on the network", n.ok("endpoint", "ls", "web", "--format",
		"{{.Name}} {{.Engine}} {{.ContainerID}} {{.Addresses}} {{.Since}}"),
		`(?s)^db vethloom .*shop cni pod1 10\.7\.0\.99, fd07::\S+ .* ago$`)
	r.in("pod1", "ip addr flush dev eth0 scope global; ip route flush table all; true")
	if err := r.do(func(ctx context.Context) error { return r.CheckNetworkList(ctx, l, c) }); err != nil {
		t.Errorf("CHECK: %v", err)
	}
	is(t, "what ours answers after the repair", ours(), "db\n")
	n.restart()
	again := r.add(l, c)
	is(t, "address of the second ADD", addrOf(t, again, true), "10.7.0.99")
	if _, err := attach.Do(t.Context(), r.socket(), attach.Request{Call: attach.Detach, Key: key(c)}); err != nil {
		t.Error(err)
	}
	if err := r.do(func(ctx context.Context) error { return r.CheckNetworkList(ctx, l, c) }); code(err) != 3 {
		t.Errorf("CHECK after it was detached: %v, want code 3", err)
	}
	r.del(l, c)
	r.del(l, c)
	is(t, "links in the namespace", r.in("pod1", "ip -o link | wc -l"), "1\n")
	is(t, "tables in the namespace", r.in("pod1", "nft list tables"), "")
}

func key(c *libcni.RuntimeConf) attach.Key {
	return attach.Key{Engine: "cni", Container: c.ContainerID, Interface: c.IfName}
}

// attached are the endpoints of engines' containers.
func (n *node) attached() string {
	return n.ok("network", "inspect", "-f", "{{len .Containers}}", "web")
}

// Many at once, on two networks each, and all of them gone again.
func TestContainersOfCNIAtOnce(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "web")
	l := r.list(web)
	back := r.list(`{"cniVersion": "0.4.0", "name": "back", "plugins": [{"type": "vethloom-cni", SOCKET,
		"driver": "bridge", "subnets": ["10.8.0.0/24"], "options": {"icc": "false"}}]}`)
	var boxes []*libcni.RuntimeConf
	for i := range 20 {
		boxes = append(boxes, r.box(fmt.Sprint("pod", i)))
	}
	each := func(what string, f func(c *libcni.RuntimeConf) error) {
		t.Helper()
		var group errgroup.Group
		for _, c := range boxes {
			group.Go(func() error { return f(c) })
		}
		if err := group.Wait(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	second := func(c *libcni.RuntimeConf) *libcni.RuntimeConf {
		return &libcni.RuntimeConf{ContainerID: c.ContainerID, NetNS: c.NetNS, IfName: "eth1"}
	}
	var mu sync.Mutex
	seen := map[string]string{}
	each("ADD", func(c *libcni.RuntimeConf) error {
		return r.do(func(ctx context.Context) error {
			got, err := r.AddNetworkList(ctx, l, c)
			if err != nil {
				return err
			}
			res, err := types100.NewResultFromResult(got)
			if err != nil {
				return err
			}
			mu.Lock()
			a := res.IPs[0].Address.IP.String()
			if other := seen[a]; other != "" {
				t.Errorf("%s: given to %s and %s", a, other, c.ContainerID)
			}
			seen[a] = c.ContainerID
			mu.Unlock()
			_, err = r.AddNetworkList(ctx, back, second(c))
			return err
		})
	})
	is(t, "containers on web", n.attached(), "20")
	is(t, "driver of the network that was made", n.ok("network", "inspect", "-f", "{{.Driver}}", "back"), "bridge")
	each("DEL", func(c *libcni.RuntimeConf) error {
		return r.do(func(ctx context.Context) error {
			return errors.Join(r.DelNetworkList(ctx, back, second(c)), r.DelNetworkList(ctx, l, c))
		})
	})
	is(t, "containers on web", n.attached(), "0")
}

// What CNI engines do wrong, or is taken from them, is an error with the code that is theirs, and leaves nothing.
func TestFaultsOfCNI(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/29", "web")
	l, c := r.list(web), r.box("pod")
	file := filepath.Join(r.dir, "../file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r.in("pod", "ip link add taken type bridge")
	host := fmt.Sprintf("/proc/%d/ns/net", n.netd.Process.Pid)
	with := func(change func(*libcni.RuntimeConf)) *libcni.RuntimeConf {
		o := *c
		change(&o)
		return &o
	}
	other := r.list(strings.Replace(web, `"name": "web"`, `"name": "none"`, 1))
	pool := r.list(strings.Replace(web, "SOCKET", `SOCKET, "ipam": {"type": "host-local"}`, 1))
	cases := []struct {
		what string
		list *libcni.NetworkConfigList
		conf *libcni.RuntimeConf
		code uint
		says string
	}{
		{"a namespace that is gone", l, with(func(c *libcni.RuntimeConf) { c.NetNS += "x" }), 8, "does not exist"},
		{"a file", l, with(func(c *libcni.RuntimeConf) { c.NetNS = file }), 8, "is no namespace"},
		{"the host's", l, with(func(c *libcni.RuntimeConf) { c.NetNS = host }), 8, "the host's own"},
		{"another kind", l, with(func(c *libcni.RuntimeConf) { c.NetNS = "/proc/self/ns/uts" }), 8, "another kind"},
		{"a path that is not absolute", l, with(func(c *libcni.RuntimeConf) { c.NetNS = "pod" }), 8, "absolute"},
		{"a link that is there", l, with(func(c *libcni.RuntimeConf) { c.IfName = "taken" }), 100, "has a link"},
		{"no such network", other, c, 7, "none"},
		{"another IPAM", pool, c, 7, "leave ipam out"},
		{"an address outside", l, with(func(c *libcni.RuntimeConf) {
			c.CapabilityArgs = map[string]any{"ips": []string{"10.9.0.1"}}
		}), 7, "10.9.0.1"},
		{"a port that is none", l, with(func(c *libcni.RuntimeConf) {
			c.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
				{"hostPort": 70000, "containerPort": 80}}}
		}), 7, "70000"},
	}
	for _, k := range cases {
		err := r.do(func(ctx context.Context) error { _, err := r.AddNetworkList(ctx, k.list, k.conf); return err })
		if code(err) != k.code || !strings.Contains(fmt.Sprint(err), k.says) {
			t.Errorf("%s: code %d, %v; want code %d with %q", k.what, code(err), err, k.code, k.says)
		}
	}
	r.in("pod", "ip link del taken")
	is(t, "containers", n.attached(), "0")
	// An interface is on one network, and a container on a network by one interface.
	r.add(l, c)
	n.ok("network", "create", "back")
	for _, k := range []struct{ network, link, says string }{
		{"web", "eth1", `network "web": container pod is on it by interface eth0 already; choose another network`},
		{"back", "eth0", `"eth0": it is the link to network web in the same container; choose another name`},
	} {
		other := r.list(`{"cniVersion": "1.1.0", "name": "other", "plugins": [{"type": "vethloom-cni", SOCKET,
			"network": "` + k.network + `"}]}`)
		err := r.do(func(ctx context.Context) error {
			_, err := r.AddNetworkList(ctx, other, with(func(c *libcni.RuntimeConf) { c.IfName = k.link }))
			return err
		})
		if code(err) != 100 || !strings.Contains(fmt.Sprint(err), k.says) {
			t.Errorf("%s on %s: code %d, %v; want code 100 with %q", k.link, k.network, code(err), err, k.says)
		}
	}
	is(t, "containers", n.attached(), "1")
	is(t, "links in the namespace", r.in("pod", "ip -o link | wc -l"), "2\n")
	r.del(l, c)
	var more []*libcni.RuntimeConf
	for i := range 5 {
		more = append(more, r.box(fmt.Sprint("full", i)))
		r.add(l, more[i])
	}
	status := func() error { return r.do(func(ctx context.Context) error { return r.GetStatusNetworkList(ctx, l) }) }
	if err := status(); code(err) != 51 {
		t.Errorf("STATUS of a full network: %v, want code 51", err)
	}
	err := r.do(func(ctx context.Context) error { _, err := r.AddNetworkList(ctx, l, c); return err })
	if code(err) != 11 {
		t.Errorf("ADD to a full network: %v, want code 11", err)
	}
	// GC keeps what it is told of, and what is another configuration's.
	gc := func(valid ...types.GCAttachment) {
		t.Helper()
		if err := r.do(func(ctx context.Context) error {
			return r.GCNetworkList(ctx, l, &libcni.GCArgs{ValidAttachments: valid})
		}); err != nil {
			t.Error(err)
		}
	}
	gc(types.GCAttachment{ContainerID: "full0", IfName: "eth0"}, types.GCAttachment{ContainerID: "x", IfName: "eth0"})
	is(t, "containers that are left", n.attached(), "1")
	if err := status(); err != nil {
		t.Errorf("STATUS: %v", err)
	}
	// A namespace that its engine removes takes its endpoint with it.
	r.lose("full0")
	n.eventually("the endpoint of a namespace that is gone is removed", func() bool { return n.attached() == "0" })
	// netd is away: a detach waits for it, all else fails.
	r.add(l, c)
	if err := n.netd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	if err := status(); code(err) != 50 {
		t.Errorf("STATUS without netd: %v, want code 50", err)
	}
	if err := r.do(func(ctx context.Context) error { return r.CheckNetworkList(ctx, l, c) }); code(err) != 11 {
		t.Errorf("CHECK without netd: %v, want code 11", err)
	}
	r.del(l, c)
	n.start()
	n.eventually("what was left to be detached is", func() bool { return n.attached() == "0" })
	r.add(l, c)
	r.lose("pod")
	r.del(l, c)
	is(t, "containers", n.attached(), "0")
}

// An engine that was killed while it started a container starts it again in another namespace. A container that is put
// on a second network publishes its ports once.
func TestCNIStartedAgain(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	n.ok("network", "create", "back")
	l, c := r.list(web), r.box("pod")
	back := r.list(strings.Replace(web, `"name": "web"`, `"name": "back"`, 1))
	ports := map[string]any{"portMappings": []map[string]any{{"hostPort": 8080, "containerPort": 80}}}
	c.CapabilityArgs = ports
	r.add(l, c)
	again := r.box("again")
	again.ContainerID, again.CapabilityArgs = c.ContainerID, ports
	res := r.add(l, again)
	is(t, "sandbox", res.Interfaces[1].Sandbox, again.NetNS)
	is(t, "containers on web", n.attached(), "1")
	is(t, "links in the first namespace", r.in("pod", "ip -o link | wc -l"), "1\n")
	second := *again
	second.IfName = "eth1"
	r.add(back, &second)
	n.says(again.NetNS, "pod")
	n.eventually("the port is published", func() bool {
		return n.Sh("echo | busybox nc -w 3 127.0.0.1 8080 || true") == "pod\n"
	})
	r.del(back, &second)
	r.del(l, again)
	is(t, "containers on web", n.attached(), "0")
}

// The reference plugins come after ours, and after theirs ours has a second link.
func TestCNIChains(t *testing.T) {
	n := newNode(t)
	r := newRuntime(n)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	n.Sh("sysctl -qw net.ipv4.ip_forward=1")
	for _, version := range []string{"0.3.0", "0.3.1", "0.4.0", "1.0.0"} {
		id, firewall := "pod"+version, ""
		if version >= "0.4.0" {
			firewall = `{"type": "firewall"}, `
		}
		l := r.list(`{"cniVersion": "` + version + `", "name": "web", "plugins": [{"type": "vethloom-cni", SOCKET},
			{"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
			` + firewall + `{"type": "tuning", "sysctl": {"net.core.somaxconn": "500"}}]}`)
		c := r.box(id)
		c.CapabilityArgs = map[string]any{"portMappings": []map[string]any{
			{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}}}
		res := r.add(l, c)
		is(t, "addresses", fmt.Sprint(len(res.IPs)), "1")
		is(t, "somaxconn", r.in(id, "sysctl -n net.core.somaxconn"), "500\n")
		n.says(c.NetNS, version)
		is(t, "the port of portmap", n.Sh("echo | busybox nc -w 3 127.0.0.1 8080 || true; echo | busybox nc -w 3 "+
			addrOf(t, res, true)+" 80"), version+"\n"+version+"\n")
		r.del(l, c)
	}
	l := r.list(`{"cniVersion": "1.0.0", "name": "pair", "plugins": [{"type": "ptp",
		"ipam": {"type": "host-local", "ranges": [[{"subnet": "10.6.0.0/24"}]], "dataDir": "` + t.TempDir() + `"}},
		{"type": "vethloom-cni", "network": "web", SOCKET}]}`)
	c := r.box("both")
	err := r.do(func(ctx context.Context) error { _, err := r.AddNetworkList(ctx, l, c); return err })
	if code(err) != 100 || !strings.Contains(fmt.Sprint(err), `interface "eth0"`) {
		t.Errorf("two plugins that make eth0: %v", err)
	}
	r.del(l, c)
}

// serve is a script that answers at port 80, a connection after the other.
func serve(what string) string { return "while echo " + what + " | nc -l -p 80 >/dev/null; do :; done" }

// says answers at port 80 of a namespace until it is stopped, or the test ends.
func (n *node) says(place, what string) (stop func()) {
	n.t.Helper()
	var l net.Listener
	err := n.Do(place, func() (err error) {
		l, err = new(net.ListenConfig).Listen(n.t.Context(), "tcp", ":80")
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	stop = func() { l.Close() }
	n.t.Cleanup(stop)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte(what + "\n"))
			c.Close()
		}
	}()
	return stop
}
