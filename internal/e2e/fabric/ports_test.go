package fabric_test

import (
	"fmt"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// A port of mode cluster is reached at every node's address, from outside, from nodes and from containers, on networks
// of each driver. It comes and goes with its container, gives way to what a node has already, and needs neither etcd
// nor netd for what it leads on.
func TestPortsOfEveryNode(t *testing.T) {
	for _, firewall := range []string{"nftables", "iptables"} {
		t.Run(firewall, func(t *testing.T) {
			flags := []string{"--firewall", firewall}
			portsOfEveryNode(t, up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle, Flags: flags}))
		})
	}
}

func portsOfEveryNode(t *testing.T, f fabric) {
	nodes := []string{"n1", "n2", "n3"}
	get := func(node int, port int) string {
		return fmt.Sprintf("wget -qO- -T2 -t1 http://192.0.2.%d:%d/ | grep -qx %d && "+
			"wget -qO- -T2 -t1 http://[2001:db8::%d]:%d/ | grep -qx %d", node, port, port, node, port, port)
	}
	port := map[string]int{}
	for i, d := range drivers {
		port[d] = 8080 + i
		// iptables has no validation of IPv6's sources.
		f.run("n1", fmt.Sprintf("net network create -d %s --ipv6 -o source-validation=false web-%s", d, d))
		f.until("n1", fmt.Sprintf("net run -d --name web-%s -p %d:80,mode=cluster --network web-%s busybox "+
			"sh -c 'mkdir /w; echo %d > /w/index.html; httpd -f -p 80 -h /w' || { net rm -f web-%[1]s; false; }", d,
			port[d], d, port[d]))
	}
	everywhere := func() {
		t.Helper()
		for _, d := range drivers {
			for n := range nodes {
				f.until("e1", get(n+1, port[d])) // from outside of the cluster
			}
		}
	}
	everywhere()
	f.run("n1", "net port ls web-overlay | grep cluster")
	for _, d := range drivers {
		f.run("n3", get(3, port[d]))
		f.run("n3", get(2, port[d]))
	}
	f.run("n2", `net run --rm busybox sh -c 'printf "GET / HTTP/1.0\r\n\r\n" | nc -w2 192.0.2.2 8080' | grep -qx 8080`)
	f.refused("n2", "wget -O- -T2 -t1 http://127.0.0.1:8080/", "refused")
	f.refused("n2", "net run --rm -p 8080:80 busybox true", "8080/tcp", "taken")
	f.refused("n2", "net run --rm -p 9000:80,mode=cluster busybox true", "of this host alone", "mode=cluster")
	f.refused("n1", "net port add web-overlay -p 80,mode=cluster", "name the host port")

	// What a node has already stays its own; it has the port once that has gone.
	f.run("n3", "net run -d --name own -p 8090:80 busybox sh -c 'mkdir /w; "+
		"echo own > /w/index.html; httpd -f -p 80 -h /w'")
	f.run("n1", "net port add web-overlay -p 8090:80,mode=cluster")
	f.until("e1", "wget -qO- -T2 -t1 http://192.0.2.2:8090/ | grep -qx 8080")
	f.run("e1", "wget -qO- -T2 -t1 http://192.0.2.3:8090/ | grep -qx own")
	f.until("n3", "net status | grep 8090")
	f.run("n3", "net rm -f own")
	f.until("e1", "wget -qO- -T2 -t1 http://192.0.2.3:8090/ | grep -qx 8080")
	f.run("n1", "net port rm web-overlay 8090:80")
	f.until("e1", "! nc -w2 192.0.2.2 8090 < /dev/null && ! nc -w2 192.0.2.3 8090 < /dev/null")

	f.fault("kill", "n2")
	f.fault("partition", "n3")
	for _, d := range drivers {
		f.run("e1", get(2, port[d]))
	}
	f.fault("start", "n2")
	f.fault("join", "n3")
	everywhere()
	f.run("n2", "net network leave web-vxlan")
	f.until("e1", fmt.Sprintf("! nc -w2 192.0.2.2 %d < /dev/null", port["vxlan"]))
	f.run("n2", "net network join web-vxlan")
	everywhere()
	f.converged(nodes...)
	for _, d := range drivers {
		f.run("n1", "net rm -f web-"+d)
		f.until("e1", fmt.Sprintf("! nc -w2 192.0.2.2 %d < /dev/null", port[d]))
	}
	f.until("n2", "! { nft list table inet vethloom; iptables-save; ip6tables-save; } 2>&1 | grep -E '808[0-3]'")
	f.converged(nodes...)
}
