package routed_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/backend/hostgw"
	"github.com/vethloom/vethloom/backend/udp"
	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/routed"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

func drivers() []routed.Driver {
	return []routed.Driver{{Backend: hostgw.Backend{}}, {Backend: vxlan.Backend{}}, {Backend: udp.Backend{}}}
}

// world is hosts 1 and 2 on one link, host 3 behind a router, and the router itself, called
// outside: 192.0.2.0/24 and 2001:db8::/64, 198.51.100.0/24 and 2001:db8:3::/64, with n as host n and 254 (::fe) as
// the router. Every host's reverse path filter is strict.
type world struct {
	tb    testing.TB
	env   *kerntest.Env
	wires *kern.Kernel // has the hosts' namespaces
	hosts map[int]*node
}

// node is one host.
type node struct {
	id      int
	path    string // of its namespace
	kernel  *kern.Kernel
	tunnels *udp.Host
	host    cnm.Host
	want    plan.State
}

func newWorld(tb testing.TB) *world {
	tb.Helper()
	w := &world{tb: tb, env: kerntest.New(tb), hosts: map[int]*node{}}
	tid := unix.Gettid() // names the namespace of the test to ip(8)
	k, err := kern.Open(kern.Config{RunDir: filepath.Join(w.env.RunDir, "wires")})
	if err != nil {
		tb.Fatal(err)
	}
	w.wires = k
	spaces := plan.State{Namespaces: []plan.Namespace{{Name: "h1"}, {Name: "h2"}, {Name: "h3"}, {Name: "outside"}}}
	tb.Cleanup(func() { w.close() })
	converge(tb, k, spaces)
	w.env.Sh("for i in 1 2; do ip link add lan$i type bridge; ip link set lan$i up; done")
	for id, lan := range map[int]int{1: 1, 2: 1, 3: 2} {
		w.plug(tid, fmt.Sprintf("h%d", id), "eth0", lan, id)
		n := &node{id: id, path: k.NetNSPath(plan.NetNS(fmt.Sprintf("h%d", id)))}
		w.hosts[id] = n
		w.in(n.path, "sh", "-ec", fmt.Sprintf(`ip route add default via %s; ip -6 route add default via %s
			for f in all default eth0; do echo 1 > /proc/sys/net/ipv4/conf/$f/rp_filter; done`,
			lan4(lan, 254), lan6(lan, 0xfe)))
		n.open(w)
		n.host = cnm.Host{MTU: 1500, Fast: kerntest.FastPath() == "auto", Node: fmt.Sprintf("node-%d", id),
			Uplink: cnm.Uplink{Link: "eth0", MTU: 1500, Addr4: lan4(lan, id), Addr6: lan6(lan, id),
				OnLink: []netip.Prefix{netip.PrefixFrom(lan4(lan, 0), 24).Masked(),
					netip.PrefixFrom(lan6(lan, 0), 64).Masked()}}}
		n.want = firewall.Base(firewall.Config{})
	}
	w.plug(tid, "outside", "eth0", 1, 254)
	w.plug(tid, "outside", "eth1", 2, 254)
	w.in(k.NetNSPath("outside"), "sh", "-ec",
		"echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding")
	return w
}

func lan4(lan, n int) netip.Addr {
	return netip.MustParseAddr(fmt.Sprintf([]string{"", "192.0.2.%d", "198.51.100.%d"}[lan], n))
}

func lan6(lan, n int) netip.Addr {
	if n == 254 {
		n = 0xfe
	}
	return netip.MustParseAddr(fmt.Sprintf([]string{"", "2001:db8::%x", "2001:db8:3::%x"}[lan], n))
}

// plug connects a namespace to a link.
func (w *world) plug(tid int, space, name string, lan, n int) {
	w.tb.Helper()
	port := fmt.Sprintf("p%s-%d", space, lan)
	w.in(w.wires.NetNSPath(plan.NetNS(space)), "sh", "-ec", fmt.Sprintf(`ip link set lo up
		ip link add %[1]s type veth peer name %[2]s netns %[3]d
		ip addr add %[4]s/24 dev %[1]s; ip addr add %[5]s/64 dev %[1]s nodad; ip link set %[1]s up`,
		name, port, tid, lan4(lan, n), lan6(lan, n)))
	w.env.Sh(fmt.Sprintf("ip link set %s master lan%d up", port, lan))
}

func (n *node) open(w *world) {
	w.tb.Helper()
	n.tunnels = udp.New(udp.Config{})
	err := w.env.Do(n.path, func() (err error) {
		n.kernel, err = kern.Open(kern.Config{RunDir: filepath.Join(w.env.RunDir, fmt.Sprint(n.id)),
			Tunnels: tunnelsIn{n.tunnels, w.env, n.path}})
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}

// tunnelsIn opens tunnels in a host's namespace; a netd has one of its own.
type tunnelsIn struct {
	*udp.Host
	env  *kerntest.Env
	path string
}

func (t tunnelsIn) Open(ctx context.Context, tunnel plan.Tunnel) error {
	return t.env.Do(t.path, func() error { return t.Host.Open(ctx, tunnel) })
}

func (w *world) close() {
	for _, n := range w.hosts {
		if n.kernel == nil {
			continue
		}
		converge(w.tb, n.kernel, plan.State{Namespaces: n.want.Namespaces})
		converge(w.tb, n.kernel, plan.State{})
		n.tunnels.Shutdown()
		if err := n.kernel.Close(); err != nil {
			w.tb.Error(err)
		}
	}
	w.env.Sh(deleteLinks("lan|p"))
	converge(w.tb, w.wires, plan.State{})
	if err := w.wires.Close(); err != nil {
		w.tb.Error(err)
	}
}

// deleteLinks is a shell command that deletes the links whose names begin so, of which there is one at least.
func deleteLinks(prefixes string) string {
	return fmt.Sprintf("links=$(ip -o link | awk -F'[ :@]+' '$2 ~ /^(%s)/ {print $2}'); test -n \"$links\"; for l "+
		"in $links; do ip link del $l; done", prefixes)
}

// converge makes a kernel agree and checks that it then does.
func converge(tb testing.TB, k *kern.Kernel, want plan.State) {
	tb.Helper()
	diff := func() []plan.Op {
		have, err := k.Observe(context.Background(), want.Sysctls)
		if err != nil {
			tb.Fatal(err)
		}
		return plan.Diff(want, have)
	}
	if err := k.Apply(context.Background(), diff()); err != nil {
		tb.Fatal(err)
	}
	for _, op := range diff() {
		tb.Errorf("still to do after a pass: %s", op)
	}
}

// in runs a command in the namespace at a path.
func (w *world) in(path string, args ...string) string {
	w.tb.Helper()
	out, err := w.try(path, args...)
	if err != nil {
		w.tb.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

func (w *world) try(path string, args ...string) (string, error) {
	var out []byte
	err := w.env.Do(path, func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	return string(out), err
}

// network puts a network on hosts: 10.<i>.0.0/16 and fd0<i>::/48, of which host n has 10.<i>.<n>.0/24 and
// fd0<i>:0:0:<n>::/64. Each host learns of the others by what their leases say.
func (w *world) network(d routed.Driver, i int, on []int, change func(*cnm.Network)) map[int]cnm.Network {
	w.tb.Helper()
	networks := map[int]cnm.Network{}
	for _, id := range on {
		n := cnm.Network{
			ID: fmt.Sprintf("%08x%056x", i, 0), Name: fmt.Sprintf("net%d", i), Driver: d.Name(), Scope: cnm.Cluster,
			IPv4: true, IPv6: true, Phase: cnm.Active, Options: map[string]string{},
			Cluster: &cnm.ClusterNetwork{
				Subnets: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i)),
					netip.MustParsePrefix(fmt.Sprintf("fd0%d::/48", i))},
				VNI: uint32(i), Port: uint16(8284 + i),
			},
		}
		for _, s := range subnets(i, id) {
			n.Pools = append(n.Pools, cnm.Pool{Subnet: s, Range: s, Gateway: s.Addr().Next()})
		}
		if change != nil {
			change(&n)
		}
		networks[id] = n
		if err := d.CheckNetwork(n); err != nil {
			w.tb.Fatal(err)
		}
	}
	for _, id := range on {
		s, err := d.RenderNetwork(networks[id], w.hosts[id].host)
		if err != nil {
			w.tb.Fatal(err)
		}
		w.hosts[id].add(s)
		for _, other := range on {
			if other != id {
				w.hosts[id].add(w.way(d, i, networks[id], networks[other], w.hosts[id], w.hosts[other]))
			}
		}
	}
	return networks
}

func (w *world) way(d routed.Driver, i int, n, theirs cnm.Network, self, other *node) plan.State {
	w.tb.Helper()
	attrs, err := d.Attrs(theirs, other.host)
	if err != nil {
		w.tb.Fatal(err)
	}
	s := subnets(i, other.id)
	p, err := d.Peer(n, subnet.Lease{Subnet: s[0], Subnet6: s[1], Key: subnet.Subnets{V4: s[0], V6: s[1]}.Key(),
		Attrs: attrs})
	if err != nil {
		w.tb.Fatal(err)
	}
	state, err := d.RenderPeer(n, p, self.host)
	if err != nil {
		w.tb.Fatal(err)
	}
	return state
}

func subnets(i, id int) []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("10.%d.%d.0/24", i, id)),
		netip.MustParsePrefix(fmt.Sprintf("fd0%d:0:0:%d::/64", i, id))}
}

// box adds a container with addresses that end in 9 to the network's part on a host.
func (w *world) box(d routed.Driver, n cnm.Network, id int, ports ...cnm.PortMapping) box {
	w.tb.Helper()
	b := box{node: w.hosts[id], name: n.Name}
	e := cnm.Endpoint{
		ID: n.ID[:8] + fmt.Sprintf("%056x", id), Network: n.ID, NetNS: plan.NetNS(b.name), Phase: cnm.Active,
		Ports: ports,
		MAC:   plan.MAC{2, 0x42, 0, n.ID[7] - '0', byte(id), 9},
	}
	for _, p := range n.Pools {
		a := p.Subnet.Addr()
		for range 9 {
			a = a.Next()
		}
		e.Addrs = append(e.Addrs, netip.PrefixFrom(a, p.Subnet.Bits()))
		b.addrs = append(b.addrs, a)
	}
	s, err := d.RenderEndpoint(n, e, b.node.host)
	if err != nil {
		w.tb.Fatal(err)
	}
	b.node.add(plan.State{Namespaces: []plan.Namespace{{Name: e.NetNS}}})
	b.node.add(s)
	return b
}

// box is a container on a host.
type box struct {
	node  *node
	name  string
	addrs []netip.Addr
}

func (b box) path() string { return b.node.kernel.NetNSPath(plan.NetNS(b.name)) }

func (b box) String() string { return fmt.Sprintf("%s on host %d", b.name, b.node.id) }

func (n *node) add(s plan.State) { n.want = n.want.Merge(s) }

func (w *world) converge() {
	w.tb.Helper()
	for _, n := range w.hosts {
		converge(w.tb, n.kernel, n.want)
	}
}
