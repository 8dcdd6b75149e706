package bridge_test

import (
	"context"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// world is a host with networks and containers, and a machine outside it.
type world struct {
	tb       testing.TB
	env      *kerntest.Env
	kernel   *kern.Kernel
	networks map[string]cnm.Network
	want     plan.State
	boxes    int
}

// newWorld makes the fabric and the machine "outside", which has a route to
// every container and addresses 192.0.2.2 and 2001:db8::2. The host has 192.0.2.1,
// 192.0.2.9 and 2001:db8::1 there.
func newWorld(tb testing.TB, bridgeNetfilter bool) *world {
	return newWorldOf(tb, kern.Config{}, bridgeNetfilter)
}

// newWorldOf makes it with another firewall.
func newWorldOf(tb testing.TB, cfg kern.Config, bridgeNetfilter bool) *world {
	tb.Helper()
	env := kerntest.New(tb)
	cfg.RunDir = env.RunDir
	k, err := kern.Open(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	w := &world{tb: tb, env: env, kernel: k, networks: map[string]cnm.Network{}}
	tb.Cleanup(func() {
		// Links first: those that go with their namespace go in the kernel's own time.
		w.want = plan.State{Namespaces: w.want.Namespaces}
		w.converge()
		w.want = plan.State{}
		w.converge()
		if err := k.Close(); err != nil {
			tb.Error(err)
		}
	})
	w.add(firewall.Base(firewall.Config{BridgeNetfilterOff: !bridgeNetfilter}))
	if bridgeNetfilter { // publishing on ::1 needs IPv6's to be off all the same
		w.want.Sysctls = append(w.want.Sysctls,
			plan.Sysctl{Path: "bridge/bridge-nf-call-iptables", Value: "1"},
			plan.Sysctl{Path: "bridge/bridge-nf-call-ip6tables", Value: "0"})
	}
	w.add(outside())
	w.converge()
	return w
}

func outside() plan.State {
	up := func(link, prefix string, ns plan.NetNS) plan.Addr {
		return plan.Addr{NS: ns, Link: link, Prefix: netip.MustParsePrefix(prefix)}
	}
	via := func(dst, gw string) plan.Route {
		return plan.Route{NS: "outside", Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(gw), Link: "eth0"}
	}
	return plan.State{
		Namespaces: []plan.Namespace{{Name: "outside"}},
		Links: []plan.Link{{Name: "up0", Owner: "test", Kind: plan.Veth, Up: true,
			Peer: plan.VethPeer{NS: "outside", Name: "eth0"}}},
		Addrs: []plan.Addr{
			up("up0", "192.0.2.1/24", ""), up("up0", "192.0.2.9/24", ""), up("up0", "2001:db8::1/64", ""),
			up("up0", "fe80::1/64", ""),
			up("eth0", "192.0.2.2/24", "outside"), up("eth0", "2001:db8::2/64", "outside"),
		},
		Routes: []plan.Route{via("10.0.0.0/8", "192.0.2.1"), via("fd00::/8", "2001:db8::1")},
	}
}

// onHost is what networks are rendered for.
func onHost() cnm.Host { return cnm.Host{MTU: 1500, Fast: kerntest.FastPath() == "auto"} }

func (w *world) add(s plan.State) { w.want = w.want.Merge(s) }

// network adds a network with 10.<n>.0.0/24 and fd0<n>::/64.
func (w *world) network(name string, change func(*cnm.Network)) {
	w.tb.Helper()
	i := len(w.networks) + 1
	pool := func(subnet, gw string) cnm.Pool {
		return cnm.Pool{Subnet: netip.MustParsePrefix(subnet), Range: netip.MustParsePrefix(subnet),
			Gateway: netip.MustParseAddr(gw)}
	}
	n := cnm.Network{
		ID: fmt.Sprintf("%08x%056x", i, 0), Name: name, Driver: "bridge", IPv4: true, IPv6: true, Phase: cnm.Active,
		Pools: []cnm.Pool{
			pool(fmt.Sprintf("10.%d.0.0/24", i), fmt.Sprintf("10.%d.0.1", i)),
			pool(fmt.Sprintf("fd0%d::/64", i), fmt.Sprintf("fd0%d::1", i)),
		},
	}
	if change != nil {
		change(&n)
	}
	if err := (bridge.Driver{}).CheckNetwork(n); err != nil {
		w.tb.Fatal(err)
	}
	s, err := bridge.Driver{}.RenderNetwork(n, onHost())
	if err != nil {
		w.tb.Fatal(err)
	}
	w.networks[name] = n
	w.add(s)
}

// box adds a container whose addresses end in host, on the network.
func (w *world) box(name, network string, host int, ports ...cnm.PortMapping) {
	w.tb.Helper()
	w.add(plan.State{Namespaces: []plan.Namespace{{Name: plan.NetNS(name)}}})
	w.add(w.endpoint(network, host, cnm.Endpoint{NetNS: plan.NetNS(name), Ports: ports}))
}

// endpoint completes an endpoint on the network and renders it.
func (w *world) endpoint(network string, host int, e cnm.Endpoint) plan.State {
	w.tb.Helper()
	n := w.networks[network]
	w.boxes++
	e.ID, e.Network, e.Phase = fmt.Sprintf("%08x%056x", w.boxes, 0), n.ID, cnm.Active
	e.MAC = plan.MAC{2, 0x42, 0, 0, n.ID[7] - '0', byte(host)}
	for _, p := range n.Pools[:min(2, len(n.Pools))] {
		if len(e.Addrs) > 1 {
			break // given
		}
		b := p.Subnet.Addr().AsSlice()
		b[len(b)-1] = byte(host)
		a, _ := netip.AddrFromSlice(b)
		e.Addrs = append(e.Addrs, netip.PrefixFrom(a, p.Subnet.Bits()))
	}
	s, err := bridge.Driver{}.RenderEndpoint(n, e, onHost())
	if err != nil {
		w.tb.Fatal(err)
	}
	return s
}

// converge makes the kernel agree and checks that it then does.
func (w *world) converge() {
	w.tb.Helper()
	diff := func() []plan.Op {
		have, err := w.kernel.Observe(context.Background(), w.want.Sysctls)
		if err != nil {
			w.tb.Fatal(err)
		}
		return plan.Diff(w.want, have)
	}
	if err := w.kernel.Apply(context.Background(), diff()); err != nil {
		w.tb.Fatal(err)
	}
	for _, op := range diff() {
		w.tb.Errorf("still to do after a pass: %s", op)
	}
}

// path is where a box's namespace is pinned; "" is the host's.
func (w *world) path(box string) string {
	if box == "" {
		return ""
	}
	return w.kernel.NetNSPath(plan.NetNS(box))
}

// try runs a command in a box and tells whether it succeeded.
func (w *world) try(box string, args ...string) (string, bool) {
	var out []byte
	err := w.env.Do(w.path(box), func() (err error) {
		out, err = exec.Command(args[0], args[1:]...).CombinedOutput()
		return err
	})
	return string(out), err == nil
}

// must runs a command in a box.
func (w *world) must(box string, args ...string) string {
	w.tb.Helper()
	out, ok := w.try(box, args...)
	if !ok {
		w.tb.Fatalf("%s in %q failed: %s", strings.Join(args, " "), box, out)
	}
	return out
}

func (w *world) pings(from, to string, want bool) {
	w.tb.Helper()
	wait := "5"
	if !want {
		wait = "0.3"
	}
	if out, ok := w.try(from, "ping", "-n", "-c1", "-W"+wait, to); ok != want {
		w.tb.Errorf("ping from %q to %s: got %v, want %v\n%s", from, to, ok, want, out)
	}
}
