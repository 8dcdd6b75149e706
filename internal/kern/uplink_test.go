package kern_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/host"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

func TestUplink(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	ctx := context.Background()
	if u, err := k.Uplink(ctx, host.UplinkConfig{}); err != nil || fmt.Sprint(u) != fmt.Sprint(host.Uplink{}) {
		t.Errorf("an isolated host: %v, %v", u, err)
	}
	if _, err := k.Uplink(ctx, host.UplinkConfig{Link: "up0"}); err == nil ||
		!strings.Contains(err.Error(), "no link of this host has a global address") {
		t.Errorf("a link that an isolated host does not have: %v", err)
	}
	converge(t, k, plan.Union(network(), endpoint(), spanning()))
	env.Sh(`
		ip link add up0 mtu 1400 type veth peer name far0; ip link set up0 up; ip link set far0 up
		ip link add up1 type veth peer name far1; ip link set up1 up; ip link set far1 up
		ip addr add 192.0.2.10/24 dev up0
		ip addr add 192.0.2.11/24 dev up0; ip addr add 2001:db8:a::10/64 dev up0 nodad
		ip addr add 169.254.7.7/16 scope link dev up1
		ip addr add 198.51.100.10/24 dev up1
		ip addr add 2001:db8:b::10/64 dev up1 nodad preferred_lft 0
		ip addr add 2001:db8:b::11/64 dev up1 nodad
		ip route add 203.0.113.0/25 dev up1
		ip route add default via 192.0.2.1 src 192.0.2.11
		ip route add 203.0.113.128/25 via 198.51.100.1
		ip -6 route add default via 2001:db8:b::1
		ip route add unreachable 10.250.0.0/16
		ip link add dead type bridge
	`)
	const (
		up0 = "{up0 1400 192.0.2.%d 2001:db8:a::10 [192.0.2.0/24 2001:db8:a::/64]}"
		up1 = "{up1 1500 198.51.100.10 2001:db8:b::11 [198.51.100.0/24 203.0.113.0/25 2001:db8:b::/64]}"
	)
	const all = "links with global addresses: up0 [192.0.2.10 192.0.2.11 2001:db8:a::10], up1 [198.51.100.10 " +
		"2001:db8:b::11]"
	for _, c := range []struct {
		ask  host.UplinkConfig
		want string // the link, or part of the error
	}{
		{host.UplinkConfig{}, fmt.Sprintf(up0, 11)},
		{host.UplinkConfig{Link: "up0"}, fmt.Sprintf(up0, 10)},
		{host.UplinkConfig{Link: "up1"}, up1},
		{host.UplinkConfig{Addr: addr("192.0.2.11")}, fmt.Sprintf(up0, 11)},
		{host.UplinkConfig{Addr: addr("2001:db8:b::11")}, up1},
		{host.UplinkConfig{CanReach: addr("203.0.113.200")}, up1},
		{host.UplinkConfig{CanReach: addr("2001:db8:c::1")}, up1},
		{host.UplinkConfig{CanReach: addr("192.0.2.99"), Link: "up0", Addr: addr("192.0.2.11")}, fmt.Sprintf(up0, 11)},
		{host.UplinkConfig{Link: "eth9"}, "--iface eth9: there is no such link; " + all},
		{host.UplinkConfig{Link: "dead"}, "--iface dead: the link has no global address; " + all},
		{host.UplinkConfig{Link: "vlb-1"}, "--iface vlb-1 is link vlb-1 of the fabric itself; " + all},
		{host.UplinkConfig{Addr: addr("10.1.0.1")}, "--node-ip 10.1.0.1: no link of this host has that address; " +
			all},
		{host.UplinkConfig{Link: "up0", Addr: addr("198.51.100.10")},
			"--iface up0 is link up0, but --node-ip 198.51.100.10 is link up1"},
		{host.UplinkConfig{CanReach: addr("192.0.2.10")}, "that is an address of this host itself"},
		{host.UplinkConfig{CanReach: addr("10.250.0.1")},
			"--iface-can-reach 10.250.0.1: this host has no route to it; " + all},
		{host.UplinkConfig{CanReach: addr("10.2.2.7")}, "is link vlf-2 of the fabric itself"},
	} {
		u, err := k.Uplink(ctx, c.ask)
		got := fmt.Sprint(u)
		if err != nil {
			got = err.Error()
		}
		if err == nil && got != c.want || !strings.Contains(got, c.want) {
			t.Errorf("%+v:\n got %s\nwant %s", c.ask, got, c.want)
		}
	}
	// What was chosen before stays, with its addresses, while it has one of them; an address that came later is no
	// reason to be another node.
	was := host.Uplink{Link: "up0", Addr4: addr("192.0.2.10"), Addr6: addr("2001:db8:a::10")}
	for _, c := range []struct {
		last host.Uplink
		want string
	}{
		{was, fmt.Sprintf(up0, 10)},
		{host.Uplink{Link: "up1", Addr4: addr("198.51.100.10")}, up1},
		{host.Uplink{Link: "up1", Addr4: addr("198.51.100.77")}, fmt.Sprintf(up0, 11)}, // it has none of them now
		{host.Uplink{Link: "eth9", Addr4: addr("192.0.2.10")}, fmt.Sprintf(up0, 11)},
		{host.Uplink{Link: "vlb-1", Addr4: addr("10.1.0.1")}, fmt.Sprintf(up0, 11)},
	} {
		if u, err := k.Uplink(ctx, host.UplinkConfig{Last: c.last}); err != nil || fmt.Sprint(u) != c.want {
			t.Errorf("after %+v: %v, %v, want %s", c.last, u, err, c.want)
		}
	}
	env.Sh("ip route del default")
	if u, err := k.Uplink(ctx, host.UplinkConfig{Last: was}); err != nil || fmt.Sprint(u) != fmt.Sprintf(up0, 10) {
		t.Errorf("without a default route: %v, %v", u, err)
	}
	env.Sh("ip route add default via 192.0.2.1 src 192.0.2.11")

	changed, err := k.HostChanged(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range []string{"ip addr del 192.0.2.11/24 dev up0", "ip addr add 192.0.2.12/24 dev up0",
		"ip link set up0 name up9", "ip link set up9 mtu 1300",
		"ip route add default nexthop via 192.0.2.1 nexthop via 198.51.100.1"} {
		env.Sh(change)
		woken(t, changed, change)
		calm(t, changed, change)
	}
	if u, err := k.Uplink(ctx, host.UplinkConfig{}); err != nil || u.Link != "up9" || u.MTU != 1300 ||
		u.Addr4 != addr("192.0.2.10") {
		t.Errorf("after the change: %v, %v", u, err)
	}
	env.Sh("ip link del up9; ip link del up1; ip link del dead")
}

// A link that comes when the host forwards takes no configuration from a router, and the kernel says nothing.
func TestLinksThatHearNoRouter(t *testing.T) {
	env := kerntest.New(t)
	k := open(t, env)
	env.Sh("ip link add early type veth peer name e1; ip link set early up; ip link set e1 up; " +
		"echo 1 > /proc/sys/net/ipv6/conf/early/accept_ra; echo 2 > /proc/sys/net/ipv6/conf/e1/accept_ra; " +
		"echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; " +
		"ip link add late link early type macvlan mode private; ip link set late up; " +
		"ip link add br0 type bridge; ip link set br0 up; ip link add port type veth peer name p1; " +
		"ip link set port up master br0; ip link set p1 up; ip addr add fd00:5::1/64 dev p1; true")
	defer env.Sh("ip link del late; ip link del early; ip link del port; ip link del br0")
	converge(t, k, network())
	got, err := k.DeafLinks(t.Context())
	if err != nil || !slices.Equal(got, []string{"early", "late"}) {
		t.Errorf("%v, %v", got, err)
	}
	converge(t, k, plan.State{})
}
