package kern_test

import (
	"context"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// woken fails unless c is woken soon.
func woken(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	await.From(t, "a wake by "+what, c)
}

// quiet fails if c is woken while a watcher has had the time to judge several times.
func quiet(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
		t.Fatalf("woken by %s", what)
	case <-time.After(150 * time.Millisecond):
	}
}

// calm fails if wakes go on and on: a late word about our own change may wake once
// more on a busy machine, but what that leads to must not.
func calm(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	for range 5 {
		select {
		case <-c:
		case <-time.After(150 * time.Millisecond):
			return
		}
	}
	t.Fatalf("woken again and again by %s", what)
}

func TestDrift(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	want := plan.Union(network(), endpoint())
	converge(t, k, want)
	calm(t, drift, "our own creation")
	env.RunIn("sb", "ping", "-c1", "-W2", "10.1.0.1")
	env.Run("ip", "link", "add", "foreign", "type", "bridge")
	env.Run("ip", "addr", "add", "192.0.2.1/24", "dev", "foreign")
	env.Run("ip", "link", "set", "foreign", "up")
	env.Run("ip", "link", "del", "foreign")
	env.Sh("nft add table inet other; nft add chain inet other c; nft delete table inet other")
	quiet(t, drift, "what is none of our business")

	for _, change := range []string{
		"ip link del vlb-1",
		"ip addr del 10.1.0.1/16 dev vlb-1",
		"ip addr add 10.1.0.9/16 dev vlb-1",
		"ip route del 10.1.0.0/16 dev vlb-1",
		"ip -6 route del fd00:1::/64 dev vlb-1",
		"ip link set vle-1 nomaster",
		"ip link set vle-1 mtu 1400",
		"ip link set vlb-1 down",
		"ip link set vle-1 alias mine",
		"ip link del vle-1",
		"ip route add 198.51.100.0/24 dev vlb-1 proto 117",
		"ip -6 route del local ::1 dev vlb-1 table local metric 4096",
		"nft add table inet vethloom",
		"echo 0 > /proc/sys/net/ipv4/ip_forward",
		"echo 0 > /proc/sys/net/ipv4/conf/vlb-1/route_localnet",
	} {
		t.Run(change, func(t *testing.T) {
			env.Sh(change)
			woken(t, drift, change)
			if ops := converge(t, k, want); len(ops) == 0 && change != "nft add table inet vethloom" {
				t.Error("nothing to repair")
			}
			settled(t, k, want)
			calm(t, drift, "the repair")
		})
	}
	converge(t, k, plan.State{})
	calm(t, drift, "our own removal")
}

// Below 1280 bytes the kernel gives a link no IPv6: its values are away, and attributes of that family are refused.
func TestLinksTooSmallForIPv6ComeBack(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	sysctls := plan.State{Sysctls: []plan.Sysctl{
		{Path: "ipv6/conf/vlb-1/accept_ra", Value: "0"},
		{NS: "sb", Path: "ipv6/conf/eth0/accept_ra", Value: "0"},
	}}
	want := plan.Union(network(), endpoint(), sysctls)
	converge(t, k, want)
	const host = "ip link set vlb-1 mtu 1200; ip link set vle-1 mtu 1000;"
	inside := "nsenter --net=" + env.RunDir + "/netns/sb ip link set eth0 mtu 1000"
	for _, change := range []string{host, inside, host + inside} {
		env.Sh(change)
		if ops := converge(t, k, want); len(ops) == 0 {
			t.Error("nothing to repair")
		}
		settled(t, k, want)
	}
	converge(t, k, plan.State{})
}

// A network without IPv6 follows the host's MTU down and up again.
func TestLinkWithoutIPv6OfAnySize(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	const path = "ipv6/conf/vlb-1/disable_ipv6"
	want := network()
	want.Addrs, want.Routes = want.Addrs[:1], nil
	want.Sysctls = append(want.Sysctls, plan.Sysctl{Path: path, Value: "1"})
	for _, mtu := range []int{1500, 1000, 576, 1500} {
		want.Links[0].MTU = mtu
		converge(t, k, want)
		settled(t, k, want)
	}
	if got := strings.TrimSpace(env.Run("cat", "/proc/sys/net/"+path)); got != "1" {
		t.Errorf("%s is %s after the MTU was large again", path, got)
	}
	converge(t, k, plan.State{})
}

// A link of the host that goes down takes routes of ours along, and the kernel tells nobody of those of IPv4.
func TestRoutesAreBackAfterALinkFlapped(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh("ip link add up0 type veth peer name far0; ip link set far0 up; ip link set up0 up; " +
		"ip addr add 192.0.2.1/24 dev up0")
	defer env.Sh("ip link del up0")
	want := plan.State{Routes: []plan.Route{{Dst: netip.MustParsePrefix("10.9.0.0/24"), Via: addr("192.0.2.2"),
		Link: "up0"}}}
	converge(t, k, want)
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, flap := range []string{
		"ip link set up0 down; ip link set up0 up", // within one burst
		"ip link set up0 down; sleep 0.1; ip link set up0 up",
	} {
		env.Sh(flap)
		woken(t, drift, flap)
		converge(t, k, want)
		settled(t, k, want)
		calm(t, drift, "the repair")
	}
}

// The kernel looks the next hop of an IPv6 route up by the routes there are: one whose next hop moves to another link
// cannot be put in the place of the old one.
func TestRouteMovesToAnotherLink(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	for _, link := range []string{"up0", "up1"} {
		env.Sh("ip link add " + link + " type veth peer name far" + link + "; ip link set far" + link +
			" up; ip link set " + link + " up")
		defer env.Sh("ip link del " + link)
	}
	for _, subnet := range []string{"fd00:20::/64", "10.20.0.0/24"} {
		p := netip.MustParsePrefix(subnet)
		for _, link := range []string{"up0", "up1", "up0"} {
			want := plan.State{Routes: []plan.Route{{Dst: p, Via: p.Addr(), Link: link, OnLink: true}}}
			converge(t, k, want)
			settled(t, k, want)
		}
	}
	converge(t, k, plan.State{})
}

// A route of somebody else's to a bridge's subnet on that bridge is as good as the kernel's: it is left alone, and is
// no drift that a pass would repair again and again.
func TestRouteOfOthersToOurSubnet(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	want := plan.Union(network(), endpoint())
	converge(t, k, want)
	for _, replace := range []string{
		"ip route replace 10.1.0.0/16 dev vlb-1 proto static",
		"ip -6 route replace fd00:1::/64 dev vlb-1 proto static metric 256",
	} {
		env.Sh(replace)
		converge(t, k, want)
		settled(t, k, want)
	}
	for _, family := range []string{"-4", "-6"} {
		if routes := env.Sh("ip " + family + " route show dev vlb-1"); !strings.Contains(routes, "proto static") {
			t.Errorf("the route of others is gone:\n%s", routes)
		}
	}
}

func TestHostChanged(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	ctx := context.Background()
	mtu := func(want int) {
		t.Helper()
		if got, err := k.EgressMTU(ctx); err != nil || got != want {
			t.Errorf("egress MTU %d, %v; want %d", got, err, want)
		}
	}
	changed, err := k.HostChanged(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mtu(1500)
	converge(t, k, plan.Union(network(), endpoint()))
	calm(t, changed, "our own creation")
	env.Sh("ip link add uplink mtu 1400 type veth peer name far; ip link set uplink up; ip addr add 192.0.2.2/24 " +
		"dev uplink")
	woken(t, changed, "a new link")
	calm(t, changed, "nothing")
	env.Sh("ip route add default via 192.0.2.1; ip route add 198.51.100.0/24 via 192.0.2.1 table 77; " +
		"ip route add 128.0.0.0/1 dev uplink; ip -6 route add 2000::/3 dev uplink")
	woken(t, changed, "a default route")
	mtu(1400)
	env.Sh("ip link set uplink mtu 1300")
	woken(t, changed, "another MTU")
	mtu(1300)
	got, err := k.HostPrefixes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range got {
		have[p.String()] = true
	}
	for p, want := range map[string]bool{"192.0.2.0/24": true, "198.51.100.0/24": true, "127.0.0.0/8": true,
		"10.1.0.0/16": false, "0.0.0.0/0": false, "fd00:1::/64": false, "128.0.0.0/1": false, "2000::/3": false} {
		if have[p] != want {
			t.Errorf("%s among the host's prefixes: %t; all: %v", p, have[p], got)
		}
	}
	env.Sh("ip route add 0.0.0.0/1 via 192.0.2.9; ip route add 203.0.113.0/24 dev uplink; " +
		"ip route add blackhole 198.18.0.0/15")
	links, routes, err := k.Networks(ctx)
	want := []string{"127.0.0.0/8", "127.0.0.1/32", "192.0.2.0/24", "192.0.2.1/32", "192.0.2.2/32", "192.0.2.9/32"}
	if got := texts(links); err != nil || !slices.Equal(slices.DeleteFunc(got, isV6), want) {
		t.Errorf("the host's own subnets: %v, %v, want %v", got, err, want)
	}
	want = []string{"192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24"}
	if got := texts(routes); !slices.Equal(slices.DeleteFunc(got, isV6), want) {
		t.Errorf("the host's routes: %v, want %v", got, want)
	}
	env.Sh("ip link del uplink")
	woken(t, changed, "the end of the link")
}

func TestWatchesEndWithTheKernel(t *testing.T) {
	env := kerntest.New(t)
	k, err := kern.Open(kern.Config{RunDir: env.RunDir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Drift(context.Background()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := k.HostChanged(ctx); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	if _, err := k.Drift(context.Background()); err == nil {
		t.Error("a closed kernel can be watched")
	}
}

// TestNamespaceKeptAlive deletes a namespace that a process still has: the end of
// its pair on our side goes by itself.
func TestNamespaceKeptAlive(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	drift, err := k.Drift(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	converge(t, k, plan.Union(network(), endpoint()))
	var held *os.File
	if held, err = os.Open(k.NetNSPath("sb")); err != nil {
		t.Fatal(err)
	}
	converge(t, k, network())
	woken(t, drift, "the link that stayed behind")
	if ops := converge(t, k, network()); len(ops) != 1 || ops[0].Verb != plan.Delete {
		t.Errorf("did %v", ops)
	}
	if links := env.Run("ip", "-o", "link"); strings.Contains(links, "vle-") {
		t.Errorf("still there:\n%s", links)
	}
	held.Close()
	converge(t, k, plan.State{})
}

func texts(prefixes []netip.Prefix) (out []string) {
	for _, p := range prefixes {
		out = append(out, p.String())
	}
	return out
}

func isV6(s string) bool { return strings.Contains(s, ":") }
