package single

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// withLAN joins a node to a LAN with another host on it, which has the addresses .100 of 192.0.2.0/24 and ::100 of
// 2001:db8::/64. The node's link is lan0.
func withLAN(t *testing.T) (*node, *kerntest.Env) {
	t.Helper()
	far := kerntest.New(t)
	n := withImage(t)
	n.Sh(fmt.Sprintf("ip link add lan0 type veth peer name lan0 netns /proc/%d/fd/%d", os.Getpid(), far.NetNS()))
	t.Cleanup(func() { n.Sh("ip link del lan0") })
	n.Sh("ip addr add 192.0.2.1/24 dev lan0; ip -6 addr add 2001:db8::1/64 dev lan0 nodad; ip link set lan0 up")
	far.Sh("ip link set lan0 up; ip addr add 192.0.2.100/24 dev lan0; ip -6 addr add 2001:db8::100/64 dev lan0 nodad")
	return n, far
}

// Containers on a LAN have addresses of it: other hosts reach them, and the host itself with host-access.
func TestContainersOnALAN(t *testing.T) {
	n, far := withLAN(t)
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "-o", "host-access=true",
		"--subnet", "192.0.2.0/24", "--ip-range", "192.0.2.32/27", "--gateway", "192.0.2.100",
		"--subnet", "2001:db8::/64", "lan")
	n.ok("run", "-d", "--name", "a", "--network", "lan", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "lan", "--mac-address", "02:00:00:00:00:0b", "bb", "sleep", "1000")
	a := n.ok("inspect", "-f", "{{.NetworkSettings.Networks.lan.IPAddress}}", "a")
	is(t, "the first address", a, "192.0.2.32")
	far.Run("ping", "-c1", "-W5", a)
	far.Run("ping", "-c1", "-W5", n.ok("inspect", "-f", "{{.NetworkSettings.Networks.lan.GlobalIPv6Address}}", "a"))
	await.True(t, "netd knows the host's address, which came after it", func() bool {
		return strings.Contains(n.Run("ip", "route", "get", a), "src 192.0.2.1 ")
	})
	n.Run("ping", "-c1", "-W5", a)
	n.ok("exec", "a", "ping", "-c1", "-W5", "192.0.2.1") // the host
	n.ok("exec", "a", "ping", "-c1", "-W5", "192.0.2.33")
	matches(t, "b", n.inside("b")("ip -d link show eth0"), `macvlan mode bridge(.|\n)*`)
	matches(t, "b", n.inside("b")("ip link show eth0"), `02:00:00:00:00:0b`)
	n.refuses(
		refusal{"run --rm --network lan -p 80:80 bb true", 125, `networks can publish ports`},
		refusal{"network create -d macvlan -o parent=lan0 other", 1, `"lan0": network "lan" has`},
		refusal{"network create -d macvlan other", 1, `-o parent=eth0`},
		refusal{"network create -d macvlan -o parent=lan0 -o vlan=4095 other", 1, `1 to 4094`},
		refusal{"network create -d macvlan -o parent=lan0.9 -o mode=l2 other", 1, `bridge, private, vepa, passthru`},
		refusal{"network create -d macvlan -o parent=lan0.9 -o mode=vepa -o host-access=true other", 1, `mode=vepa`},
		refusal{"network create -d macvlan -o parent=lan0.9 -o host-access=10.1.0.9 --subnet 10.1.0.0/24 other", 1,
			`--aux-address host=10.1.0.9`},
		refusal{"network create -d macvlan -o parent=nope.9 other", 1, `"nope": the host has no link of this name`},
	)
	// What is lost comes back, and netd finds everything again.
	n.Sh("ip link del " + strings.TrimSpace(n.Sh("ip -o link | grep -o 'vlm-[0-9a-f]*' | head -1")))
	await.True(t, "the host's way is back", func() bool { return n.net("diff").code == 0 })
	n.Run("ping", "-c1", "-W5", a)
	n.restart()
	far.Run("ping", "-c1", "-W5", a)
	n.ok("rm", "-f", "a", "b")
	n.ok("network", "rm", "lan")
	is(t, "left on the host", n.Sh("ip -o link | grep -c 'vl[mv]-' || true"), "0\n")
}

// An address that somebody else on the LAN has is passed over, and refused to who asks for it; of each family.
func TestAddressesThatOthersHave(t *testing.T) {
	n, far := withLAN(t)
	far.Sh("ip addr add 192.0.2.33/24 dev lan0; ip -6 addr add 2001:db8::2/64 dev lan0 nodad")
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "--subnet", "192.0.2.0/24",
		"--ip-range", "192.0.2.32/27", "--gateway", "192.0.2.100", "--subnet", "2001:db8::/64", "lan")
	const addrs = "{{.NetworkSettings.Networks.lan.IPAddress}} {{.NetworkSettings.Networks.lan.GlobalIPv6Address}}"
	run := func(name string, args ...string) string {
		n.ok(append(append([]string{"run", "-d", "--name", name, "--network", "lan"}, args...), "bb", "sleep",
			"1000")...)
		return n.ok("inspect", "-f", addrs, name)
	}
	is(t, "the first", run("a"), "192.0.2.32 2001:db8::3")
	is(t, "the next", run("b"), "192.0.2.34 2001:db8::4")
	_, mac, _ := strings.Cut(strings.TrimSpace(far.Sh("ip -o link show lan0 | grep -o 'ether [0-9a-f:]*'")), " ")
	n.refuses(
		refusal{"run --rm --network lan --ip 192.0.2.33 bb true", 125, `"192.0.2.33": the host with MAC address ` +
			mac + ` has it already, on the LAN of link lan0; ask for another address`},
		refusal{"run --rm --network lan --ip6 2001:db8::2 bb true", 125, `"2001:db8::2": the host with MAC address`},
		refusal{"run --rm --network lan --ip 192.0.2.1 bb true", 125, `"192.0.2.1": the host itself has it`},
	)
	n.ok("network", "update", "-o", "duplicate-detection=false", "lan")
	matches(t, "without detection", run("c", "--ip", "192.0.2.33"), `192\.0\.2\.33 2001:db8::.`)
	n.ok("rm", "-f", "a", "b", "c")
	n.ok("network", "rm", "lan")
}

// A VLAN of the parent is made for the network, and goes with it; a kernel without VLANs is told of.
func TestContainersOnAVLAN(t *testing.T) {
	n, far := withLAN(t)
	create := []string{"network", "create", "-d", "macvlan", "-o", "parent=lan0.7", "-o", "host-access=198.51.100.9",
		"--aux-address", "host=198.51.100.9", "--subnet", "198.51.100.0/24", "seven"}
	if r := far.Sh("ip link add lan7 link lan0 type vlan id 7 2>&1 || true"); strings.Contains(r, "Unknown device") {
		n.refuses(refusal{strings.Join(create, " "), 1,
			`"lan0": this kernel has no links of kind vlan.*modprobe 8021q`})
		is(t, "networks", n.ok("network", "ls", "-q", "--filter", "name=seven"), "")
		return
	}
	far.Sh("ip addr add 198.51.100.100/24 dev lan7; ip link set lan7 up")
	n.ok(create...)
	n.ok("run", "-d", "--name", "a", "--network", "seven", "bb", "sleep", "1000")
	a := n.ok("inspect", "-f", "{{.NetworkSettings.Networks.seven.IPAddress}}", "a")
	far.Run("ping", "-c1", "-W5", a)
	n.Run("ping", "-c1", "-W5", a)
	n.ok("exec", "a", "ping", "-c1", "-W5", "198.51.100.9")
	n.Sh("ip link add mine link lan0 type vlan id 8")
	defer n.Sh("ip link del mine")
	n.refuses(refusal{"network create -d macvlan -o parent=lan0.8 eight", 1, `VLAN 8 of it that netd did not make`})
	n.ok("rm", "-f", "a")
	n.ok("network", "rm", "seven")
	is(t, "left on the host", n.Sh("ip -o link | grep -c 'vl[mv]-' || true"), "0\n")
}

// In mode passthru one container has the link for itself.
func TestAContainerThatHasALinkForItself(t *testing.T) {
	n, far := withLAN(t)
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "-o", "mode=passthru", "--subnet", "192.0.2.0/24",
		"--ip-range", "192.0.2.32/27", "--gateway", "192.0.2.100", "alone")
	n.ok("run", "-d", "--name", "p", "--network", "alone", "bb", "sleep", "1000")
	far.Run("ping", "-c1", "-W5", "192.0.2.32")
	const ether = "ip -o link show %s | grep -o 'link/ether [0-9a-f:]*'"
	is(t, "hardware address", n.inside("p")(fmt.Sprintf(ether, "eth0")), n.Sh(fmt.Sprintf(ether, "lan0")))
	n.refuses(refusal{"run --rm --network alone bb true", 125, `passthru there is one only`})
}

// Containers on an ipvlan network share the link's hardware address. A kernel without ipvlan is told of when the
// network is made.
func TestContainersOnAnIPvlan(t *testing.T) {
	n, far := withLAN(t)
	const create = "network create -d ipvlan -o parent=lan0 --subnet 192.0.2.0/24 --ip-range 192.0.2.32/27 " +
		"--gateway 192.0.2.100 ip"
	n.refuses(refusal{"network create -d ipvlan -o parent=lan0 -o ipvlan_mode=l4 ip", 1, `want l2, l3, l3s`})
	r := far.Sh("ip link add ipv0 link lan0 type ipvlan mode l2 2>&1 && ip link del ipv0 || true")
	if strings.Contains(r, "Unknown device") {
		n.refuses(refusal{create, 1, `"lan0": this kernel has no links of kind ipvlan.*modprobe ipvlan`})
		is(t, "networks", n.ok("network", "ls", "-q", "--filter", "name=ip"), "")
		return
	}
	n.ok(strings.Fields(create)...)
	n.ok("run", "-d", "--name", "a", "--network", "ip", "bb", "sleep", "1000")
	far.Run("ping", "-c1", "-W5", "192.0.2.32")
	n.refuses(refusal{"run --rm --network ip --mac-address 02:00:00:00:00:0b bb true", 125, `that of the parent`})
	n.ok("rm", "-f", "a")
	n.ok("network", "rm", "ip")
}
