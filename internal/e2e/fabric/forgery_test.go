package fabric_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// A container that sends a tunnel's outer packets, to its own node or through the masquerade to another one, gets
// nothing into a network that it is not on. That it would, is shown by taking the rule away.
func TestNoContainerSpeaksForANode(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	f.run("n1", "net network create -d overlay mine && net network create -d overlay --ipv6 theirs && net network "+
		"create -d vxlan theirs-too")
	f.run("n1", "net run -d --name thief --network mine busybox sleep 99999")
	for _, n := range []string{"n1", "n2"} {
		for _, network := range []string{"theirs", "theirs-too"} {
			f.until(n, "net network inspect "+network)
			f.run(n, fmt.Sprintf("net run -d --name c-%s --network %s busybox sleep 99999", network, network))
		}
	}
	attack := func() map[string]bool {
		in := map[string]bool{}
		for _, n := range []string{"n1", "n2"} {
			for _, network := range []string{"theirs", "theirs-too"} {
				before := f.pingsSeen(n, "c-"+network)
				f.forge(n, network)
				in[n+" "+network] = f.pingsSeen(n, "c-"+network) > before
			}
		}
		return in
	}
	for where, in := range attack() {
		if in {
			t.Errorf("%s: a forged packet got in", where)
		}
	}
	for _, n := range []string{"n1", "n2"} {
		f.fault("stop", n)
		f.run(n, "nft flush chain inet vethloom input")
	}
	f.run("n1", "nft flush chain inet vethloom forward")
	for where, in := range attack() {
		if !in {
			t.Errorf("%s: the packet does not get in without the rules either, so that it did not with them "+
				"proves nothing", where)
		}
	}
	for _, n := range []string{"n1", "n2"} {
		f.fault("start", n)
	}
	f.converged("n1", "n2")
	for where, in := range attack() {
		if in {
			t.Errorf("%s: a forged packet got in after a restart", where)
		}
	}
}

// once asks netd, and goes by its first answer: netd may be stopped by then.
func (f fabric) once(host, command string) string {
	f.t.Helper()
	key := host + " " + command
	if f.seen[key] == "" {
		f.seen[key] = f.run(host, command)
	}
	return f.seen[key]
}

// pid is the process ID of a container's first process.
func (f fabric) pid(host, container string) string {
	f.t.Helper()
	return f.once(host, "net inspect -f '{{.State.Pid}}' "+container)
}

// pingsSeen is how many ICMP messages a container has received.
func (f fabric) pingsSeen(host, container string) int {
	f.t.Helper()
	n, err := strconv.Atoi(f.run(host, "awk '/^Icmp:/ && ++n == 2 { print $2 }' /proc/"+f.pid(host,
		container)+"/net/snmp"))
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// forge sends pings to the container on a node, as a node of its network would, from the thief on n1.
func (f fabric) forge(node, network string) {
	f.t.Helper()
	dev := f.run(node, fmt.Sprintf("ip -o -d link show type vxlan | grep -w %s", f.device(node, network)))
	word := func(name string) string {
		fields := strings.Fields(dev)
		for i, w := range fields[:len(fields)-1] {
			if w == name {
				return fields[i+1]
			}
		}
		f.t.Fatalf("no %s in %s", name, dev)
		return ""
	}
	victim := "nsenter -t " + f.pid(node, "c-"+network) + " -n ip -o "
	address := strings.Fields(f.run(node, victim+"-4 addr show eth0"))[3]
	mac := f.run(node, victim+"link show eth0 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'")
	if network == "theirs-too" { // routed: frames are for the device itself
		mac = word("link/ether")
	}
	address, _, _ = strings.Cut(address, "/")
	f.run("n1", fmt.Sprintf(`nsenter -t %s -n sh -ec '
		ip link add forged type vxlan id %s remote %s dstport %s nolearning
		ip addr add %s0/8 dev forged
		ip link set forged up
		ip neigh replace %s lladdr %s dev forged
		ping -c 3 -i 0.2 -W 1 -I forged %s >/dev/null || true
		ip link del forged'`, f.pid("n1", "thief"), word("id"), f.run(node, "printenv "+node), word("dstport"),
		address[:strings.LastIndexByte(address, '.')+1]+"25", address, mac, address))
}

// device is the VXLAN link of a network on a node.
func (f fabric) device(host, network string) string {
	f.t.Helper()
	return "vlx-" + f.once(host, "net network inspect -f '{{.ID}}' "+network)[:8]
}
