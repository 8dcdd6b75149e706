package fabric_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// Etcd goes away, comes back, and loses all it had; a netd is killed and comes back meanwhile. What is there
// goes on, and nothing new is promised that cannot be kept.
func TestOutagesOfEtcd(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle})
	f.populate("n1", "n2")
	f.reach("n1", "n2")
	f.reach("n2", "n1")

	stop := f.pinging("n2", "n1")
	f.fault("kill", "e1")
	f.reachNow("n1", "n2")
	f.fault("kill", "n1")
	f.fault("start", "n1")
	f.reach("n1", "n2")
	f.converged("n1")
	f.run("n1", "net network create local && net run --rm --network local busybox true && net network rm local")
	f.run("n1", "net run --rm --network web-vxlan busybox true") // the lease is this node's still
	f.refused("n1", "net network create -d overlay more", "more", "etcd", "--etcd")
	f.until("n1", "net status | grep 'no connection'")
	f.fault("start", "e1")
	f.until("n1", "net network create -d overlay more")
	f.until("n2", "net network inspect more")

	// All of it is lost.
	f.fault("kill", "e1")
	if err := os.RemoveAll(filepath.Join(f.Dir, f.Name, "e1", "data")); err != nil {
		t.Fatal(err)
	}
	f.fault("start", "e1")
	for _, n := range []string{"n1", "n2", "n3"} {
		f.until(n, "test $(net lease ls -q | wc -l) = 9 && test $(net node ls -q | wc -l) = 3")
		f.converged(n)
	}
	f.reachNow("n1", "n2")
	for driver, lost := range stop() {
		// A tunnel in userspace rests while netd is not there.
		if limit := max(map[string]int{"udp": 150}[driver], 1); lost > limit { // the last may be on its way
			t.Errorf("%s: %d packets were lost, at most %d may be", driver, lost, limit)
		}
	}
	f.until("n3", "net network rm more")
	f.until("n1", "! net network inspect more")
}

// A node cannot reach etcd for longer than its lease lasts, and others take its subnets. When it is back it
// gives way: no subnet has two owners, and its containers have other addresses.
func TestAPartitionBeyondTheLease(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle, Flags: []string{"--lease-ttl=6s"}})
	for _, d := range []string{"vxlan", "host-gw", "udp"} {
		f.run("n1", fmt.Sprintf("net network create -d %s --subnet 10.%d.0.0/21 -o subnet-length=24 web-%s", d,
			60+len(d), d))
	}
	f.run("n1", "net network create -d overlay --subnet 10.90.0.0/24 web-overlay")
	for _, n := range []string{"n1", "n2"} {
		for _, d := range drivers {
			f.until(n, fmt.Sprintf("net run -d --name c-%s --network web-%s busybox sleep 99999 || { net rm -f "+
				"c-%s; false; }", d, d, d))
		}
	}
	before := map[string]string{}
	for _, d := range drivers {
		before[d], _ = f.addrs("n2", d)
		f.until("n1", fmt.Sprintf("net exec c-%s ping -c1 -W1 %s", d, before[d]))
	}
	f.fault("partition", "n2")
	// Etcd forgets the node; another takes each of its subnets, for good.
	for _, d := range []string{"vxlan", "host-gw", "udp"} {
		key := f.run("n2", fmt.Sprintf("net lease ls --filter network=web-%s --format '{{if eq .Own "+
			"\"true\"}}{{.Subnet}}{{end}}' | grep . | tr / -", d))
		path := fmt.Sprintf("/vethloom/flannel/web-%s/subnets/%s", d, key)
		f.until("n1", "! etcdctl get --print-value-only "+path+" | grep .")
		f.run("n1", fmt.Sprintf(`etcdctl put %s `+
			`'{"PublicIP":"192.0.2.77","BackendType":"%s","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}'`,
			path, d))
	}
	f.refused("n2", "net run --rm --network web-vxlan busybox true", "over")
	block := f.run("n2", "net network inspect -f '{{json .}}' web-overlay | grep -o '10[.]90[.]0[.][0-9]*/28' | "+
		"head -1 | tr / -")
	id := f.run("n2", "net network inspect -f '{{.Id}}' web-overlay")
	key := fmt.Sprintf("/vethloom/block/%s.%s", id, block)
	f.until("n1", "! etcdctl get --print-value-only "+key+" | grep .")
	f.run("n1", fmt.Sprintf(`etcdctl put %s '{"node":"a stranger"}'`, key))
	f.fault("join", "n2")
	for _, d := range drivers {
		f.until("n2", fmt.Sprintf("a=$(net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "+
			"c-%s); test -n \"$a\" && test $a != %s && net exec c-%s ip addr show eth0 | grep \"$a/\"",
			d, before[d], d))
		now, _ := f.addrs("n2", d)
		f.until("n1", fmt.Sprintf("net exec c-%s ping -c1 -W1 %s", d, now))
	}
	f.converged("n1", "n2", "n3")
}
