package single

import (
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// bridgedLAN makes the network lan, whose bridge has the node's link lan0 as a port. The host's addresses go from it.
func bridgedLAN(n *node, more ...string) {
	n.Sh("ip addr flush dev lan0 scope global")
	n.ok(append([]string{"network", "create", "-d", "bridge", "-o", "parent=lan0", "--subnet", "192.0.2.0/24",
		"--ip-range", "192.0.2.32/27", "--gateway", "192.0.2.100", "--subnet", "2001:db8::/64", "--gateway",
		"2001:db8::100", "lan"}, more...)...)
}

// Containers on a bridge that has the host's link to a LAN as a port are on the LAN itself, with addresses of it that
// nobody else there has. The host lends its link, and has it back when the network goes.
func TestContainersOnABridgedLAN(t *testing.T) {
	n, far := withLAN(t)
	far.Sh("ip addr add 192.0.2.33/24 dev lan0; ip addr add 203.0.113.1/32 dev lo; " +
		"ip -6 addr add 2001:db8:1::1/128 dev lo nodad")
	n.refuses(refusal{"network create -d bridge -o parent=lan0 --subnet 192.0.2.0/24 lan", 1,
		`"lan0": it has the host's address .*, which would be cut off.*-d macvlan.*-o unmanaged=true`})
	is(t, "networks", n.ok("network", "ls", "-q", "--filter", "name=lan"), "")
	bridgedLAN(n)
	n.ok("run", "-d", "--name", "a", "--network", "lan", "bb", "sleep", "1000")
	n.ok("run", "-d", "--name", "b", "--network", "lan", "bb", "sleep", "1000")
	const addrs = "{{.NetworkSettings.Networks.lan.IPAddress}} {{.NetworkSettings.Networks.lan.GlobalIPv6Address}}"
	a4, a6, _ := strings.Cut(n.ok("inspect", "-f", addrs, "a"), " ")
	b4, b6, _ := strings.Cut(n.ok("inspect", "-f", addrs, "b"), " ")
	is(t, "addresses", a4+" "+b4, "192.0.2.32 192.0.2.34")
	for _, there := range []string{a4, a6, b4, b6} {
		far.Run("ping", "-c1", "-W5", there)
	}
	// What is behind the LAN's router hears the container's own address: it has no other way back.
	for _, there := range []string{"203.0.113.1", "2001:db8:1::1", b4, b6} {
		n.ok("exec", "a", "ping", "-c1", "-W5", there)
	}
	is(t, "addresses of the host on it", n.Sh("ip -o addr show master lan0; ip -o addr show type bridge | "+
		"grep -c 192.0.2 || true"), "0\n")
	n.refuses(
		refusal{"run --rm --network lan -p 80:80 bb true", 125, `none of the sandbox's networks can publish ports`},
		refusal{"network create -d bridge -o parent=lan0 other", 1, `"lan0": network "lan" has`},
		refusal{"network create -d macvlan -o parent=lan0 other", 1, `"lan0": network "lan" has`},
		refusal{"network create -d bridge -o parent=nope other", 1, `"nope": the host has no link of this name`},
		refusal{"network create -d bridge -o parent=lan0.9 --internal other", 1, `which is not internal`},
		refusal{"network create -d bridge -o parent=lan0.9 -o masquerade=true other", 1, `nothing is translated`},
		refusal{"network create -d bridge -o parent=lan0.9 -o bridge-name=br9 other", 1, `-o unmanaged=true`},
		refusal{"network create -d bridge -o vlan=9 other", 1, `-o parent=eth1`},
	)
	// What others take apart is put together again.
	for _, change := range []string{
		"ip link set lan0 nomaster",
		"ip link del $(ip -o link show type bridge | grep -o 'vlb-[0-9a-f]*' | tail -1)",
	} {
		n.Sh(change)
		await.True(t, change+" is repaired", func() bool {
			return n.net("diff").code == 0 &&
				strings.Contains(n.Sh("ip -o link show lan0"), "master vlb-")
		})
		far.Run("ping", "-c1", "-W5", a4)
	}
	n.end(syscall.SIGKILL)
	far.Run("ping", "-c1", "-W5", a6)
	n.Sh("ip link set lan0 nomaster")
	n.start()
	await.True(t, "netd has the link again", func() bool {
		return strings.Contains(n.Sh("ip -o link show lan0"), "master vlb-")
	})
	far.Run("ping", "-c1", "-W5", a6)
	n.ok("rm", "-f", "a", "b")
	n.ok("network", "rm", "lan")
	matches(t, "the host's link", n.Sh("ip -o link show lan0"), `<BROADCAST,MULTICAST,UP,LOWER_UP> mtu 1500 qdisc .*`)
	// A pair of links goes with its namespace, in the kernel's own time.
	n.eventually("no bridge and no port is left", func() bool {
		return n.Sh("ip -o link show master lan0; ip -o link | grep -c 'vle-\\|master' || true") == "0\n"
	})
}

// A bridge that an administrator has made gets ports, and stays as it is; a container speaks for nobody else on it.
func TestContainersOnABridgeOfSomebodyElse(t *testing.T) {
	n, far := withLAN(t)
	n.Sh("ip link add br0 type bridge; ip link set br0 up; ip addr flush dev lan0 scope global; " +
		"ip link set lan0 master br0; ip addr add 192.0.2.1/24 dev br0; ip -6 addr add 2001:db8::1/64 dev br0 nodad")
	defer n.Sh("ip link del br0")
	const asItIs = "ip -d link show br0 | sed 's/gc_timer *[0-9.]*//'; ip -o addr show br0 scope global"
	before := n.Sh(asItIs)
	n.ok("network", "create", "-o", "bridge-name=br0", "-o", "unmanaged=true", "--subnet", "192.0.2.0/24",
		"--ip-range", "192.0.2.32/27", "--gateway", "192.0.2.100", "--subnet", "2001:db8::/64", "theirs")
	n.refuses(refusal{"network create -o bridge-name=br0 -o unmanaged=true other", 1, `"br0": network "theirs" has`},
		refusal{"network create -d macvlan -o parent=br0 other", 1, `"br0": network "theirs" has`},
		refusal{"network create -o unmanaged=true other", 1, `-o bridge-name=br0`})
	n.ok("run", "-d", "--name", "a", "--network", "theirs", "--cap-add", "NET_ADMIN", "bb", "sleep", "1000")
	const addrs = "{{.NetworkSettings.Networks.theirs.IPAddress}} " +
		"{{.NetworkSettings.Networks.theirs.GlobalIPv6Address}}"
	a4, a6, _ := strings.Cut(n.ok("inspect", "-f", addrs, "a"), " ")
	for _, there := range []string{a4, a6} {
		far.Run("ping", "-c1", "-W5", there)
		n.Run("ping", "-c1", "-W5", there)
	}
	inside := n.inside("a")
	inside("ip addr add 192.0.2.77/24 dev eth0")
	if r := n.net("exec", "a", "ping", "-c1", "-W1", "-I", "192.0.2.77", "192.0.2.100"); r.code == 0 {
		t.Error("the container speaks with an address that is not its own")
	}
	n.ok("exec", "a", "ping", "-c1", "-W5", "-I", a4, "192.0.2.100")
	n.ok("rm", "-f", "a")
	n.ok("network", "rm", "theirs")
	is(t, "the bridge afterwards", n.Sh(asItIs), before)
}
