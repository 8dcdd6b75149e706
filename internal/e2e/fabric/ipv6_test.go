package fabric_test

import (
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// Networks without IPv4 reach other nodes by every driver, keep no trace of IPv4, and come back with netd.
func TestIPv6OnlyNetworksAcrossNodes(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	nodes := []string{"n1", "n2"}
	for _, d := range drivers {
		f.run("n1", "net network create -d "+d+" --ipv4=false --ipv6 six-"+d)
	}
	for _, n := range nodes {
		for _, d := range drivers {
			f.until(n, "net network inspect six-"+d)
			f.until(n, "net run -d --name c-"+d+" --network six-"+d+" busybox sleep 99999 || { net rm -f c-"+d+
				"; false; }")
			f.run(n, "test -z \"$(net exec c-"+d+" ip -4 addr show eth0)\"")
			f.run(n, "test \"$(net network inspect -f '{{.EnableIPv4}} {{.EnableIPv6}}' six-"+d+")\" = 'false true'")
		}
	}
	reach := func() {
		t.Helper()
		for i, n := range nodes {
			for _, d := range drivers {
				to := f.run(nodes[1-i], "net inspect -f "+
					"'{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}' c-"+d)
				f.until(n, "net exec c-"+d+" ping -6 -c1 -W1 "+to)
			}
		}
	}
	reach()
	f.fault("kill", "n2")
	f.fault("start", "n2")
	f.converged(nodes...)
	reach()
}
