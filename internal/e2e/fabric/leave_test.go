package fabric_test

import (
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// Etcd is away, and a node gets rid of networks all the same: nothing of them is left in its kernel, also after a
// restart. The others keep them, and it can join again.
func TestANodeLeavesNetworksWhileEtcdIsAway(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	f.populate("n1", "n2")
	f.reach("n1", "n2")
	f.fault("kill", "e1")
	f.until("n2", "net status | grep 'no connection'")
	for _, d := range drivers {
		f.refused("n2", "net network leave web-"+d, "web-"+d, "in use by c-"+d, "--force")
		f.run("n2", "net network leave --force web-"+d)
	}
	nothing := func() {
		t.Helper()
		f.converged("n2")
		f.run("n2", "test -z \"$(ip -o link show type vxlan; ip -o link show type tun; ip route show proto 117; "+
			"ip -6 route show proto 117)\" || { ip -o link; ip route; false; }")
		// The host's own are docker0's like: the builtin bridge.
		f.run("n2", "test $(ip -o link show type bridge | wc -l) -le 1")
		f.until("n2", "! nft list table inet vethloom | grep -E '192.0.2.1|2001:db8::1[^0-9]'")
		for _, d := range drivers {
			f.refused("n2", "net run --rm --network web-"+d+" busybox true", "this node has left network web-"+d,
				"net network join web-"+d)
			f.run("n2", "net network ls | grep 'web-"+d+" .*(left)'")
			f.run("n2", "net status | grep 'net network join web-"+d+"'")
			f.run("n2", "test \"$(net network inspect -f '{{.Cluster.Left}} {{.Cluster.Remedy}}' web-"+d+
				")\" = 'true net network join web-"+d+"'")
		}
	}
	nothing()
	f.fault("kill", "n2")
	f.fault("start", "n2")
	nothing()
	f.fault("start", "e1")
	// Of three networks n1 alone has leases.
	f.until("n1", "test $(net lease ls -q | wc -l) = 3")
	nothing()
	for _, d := range drivers {
		f.run("n1", "net run --rm --network web-"+d+" busybox true")
		f.run("n2", "net network join web-"+d)
		f.until("n2", "net run -d --name d-"+d+" --network web-"+d+" busybox sleep 99999 || { net rm -f d-"+d+
			"; false; }")
		v4 := f.run("n2", "net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' d-"+d)
		f.until("n1", "net exec c-"+d+" ping -c1 -W1 "+v4)
	}
	f.run("n2", "! net status | grep left")
	f.converged("n1", "n2")
}
