package fabric_test

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// What a container of an overlay says to everybody goes to the nodes that have containers of that network, for as long
// as they have some and the network wants it: with etcd and netd there or not, and to no other network.
func TestGroupsOfAnOverlay(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle})
	for _, n := range []string{"web", "other"} {
		f.run("n1", "net network create -d overlay --ipv6 "+n)
	}
	box := func(node, name, network string) (v4, v6 string) {
		f.until(node, fmt.Sprintf("net run -d --name %s --network %s --sysctl net.ipv4.icmp_echo_ignore_broadcasts=0 "+
			"busybox sleep 99999 || { net rm -f %[1]s; false; }", name, network))
		const of = "{{range .NetworkSettings.Networks}}{{.%s}}{{end}}"
		return f.run(node, fmt.Sprintf("net inspect -f '"+of+"' %s", "IPAddress", name)),
			f.run(node, fmt.Sprintf("net inspect -f '"+of+"' %s", "GlobalIPv6Address", name))
	}
	box("n1", "a", "web")
	b4, b6 := box("n2", "b", "web")
	o4, o6 := box("n2", "o", "other")
	c4, c6 := box("n3", "c", "web")
	// Each host is a member of these groups, and answers.
	ask := "asked=$(net exec a ping -c2 -i0.2 -W1 224.0.0.1; net exec a ping -6 -c2 -i0.2 -W1 ff02::1%eth0); " +
		"echo \"$asked\"; "
	answers := func(addrs ...string) (tests string) {
		for _, a := range addrs {
			tests += fmt.Sprintf("echo \"$asked\" | grep 'from %s:' && ", a)
		}
		return tests
	}
	silence := func(v4, v6 string) string {
		return fmt.Sprintf("! echo \"$asked\" | grep -e 'from %s:' -e 'from %s:'", v4, v6)
	}
	all := ask + answers(b4, b6, c4, c6) + silence(o4, o6)
	f.until("n1", all)

	f.fault("kill", "n1")
	f.fault("start", "n1")
	f.until("n1", "net status")
	f.run("n1", all)

	device := "ip -br link show type vxlan | sed -n 's/^\\(vlx-[^ @]*\\).*/\\1/p'"
	copies := "for d in $(" + device + "); do bridge fdb show dev $d | grep ^00:00:00:00:00:00; done"
	f.run("n3", "net rm -f c")
	f.until("n1", "! { "+copies+"; } | grep -w 192.0.2.3")
	f.until("n1", ask+answers(b4, b6)+silence(c4, c6))

	f.run("n3", "net network update -o multicast=false web")
	f.until("n1", ask+silence(b4, b6))
	f.run("n1", fmt.Sprintf("net exec a ping -c1 -W2 %s && net exec a ping -6 -c1 -W2 %s", b4, b6))
	f.run("n3", "net network update --opt-rm multicast web")
	f.until("n1", ask+answers(b4, b6)+silence(o4, o6))
}
