package fabric_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
)

// A host that is gone for good gives back what it had, once its lease is over; until then it is its own, also over
// a reboot.
func TestADeadNode(t *testing.T) {
	// Renewed every 15 s, so a lease outlasts the sign of life by 15 s at least: time to see that the node is away.
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle, Flags: []string{"--lease-ttl=45s"}})
	f.populate("n1", "n2", "n3")
	f.reach("n1", "n2")
	f.reach("n1", "n3")
	own := "net lease ls --filter node=n2 --format '{{.Subnet}}' | sort"
	before := f.run("n1", own)

	stop := f.pinging("n1", "n3")
	f.fault("power-off", "n2")
	f.until("n1", "net node ls | grep '^n2 .*away'")
	f.fault("start", "n2")
	f.until("n1", "net node ls | grep '^n2 .*ready'")
	if after := f.run("n1", own); after != before {
		t.Errorf("a node that was off for a moment had %s, and has %s", before, after)
	}
	f.fault("power-off", "n2")
	f.until("n1", "test $(net lease ls -q | wc -l) = 6 && test $(net node ls -q | wc -l) = 2")
	f.until("n1", "! { bridge fdb show; ip route; ip -6 route; } | grep -wE '192.0.2.2|2001:db8::2'")
	for driver, lost := range stop() {
		if lost > 1 { // the last may be on its way
			t.Errorf("%s: %d packets between the others were lost", driver, lost)
		}
	}
	f.converged("n1", "n3")
	f.reachNow("n3", "n1")
}

// A host whose disk is a copy of another's is not let in, and the other one notices nothing.
func TestACopiedDisk(t *testing.T) {
	f := up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle})
	f.populate("n1")
	f.fault("stop", "n2")
	root := func(n string) string { return filepath.Join(f.Dir, f.Name, n, "root", "node-id") }
	id, err := os.ReadFile(root("n1"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root("n2"), id, 0o600); err != nil {
		t.Fatal(err)
	}
	before := f.run("n1", "net lease ls --format '{{.Subnet}} {{.Address}}'")
	f.fault("start", "n2")
	f.until("n2", "net status | grep 'another host, 192.0.2.1' && net status | grep node-id")
	f.refused("n2", "net network create -d overlay more", "node-id")
	f.run("n2", "net run --rm --network bridge busybox true")
	if after := f.run("n1", "net lease ls --format '{{.Subnet}} {{.Address}}'"); after != before {
		t.Errorf("the leases were\n%s\nand are\n%s", before, after)
	}
	f.run("n1", "net network create -d overlay more && net network rm more")
	f.fault("stop", "n2")
	if err := os.Remove(root("n2")); err != nil {
		t.Fatal(err)
	}
	f.fault("start", "n2")
	// who it was before is still remembered
	f.until("n2", "net status | grep '2 ready' && test $(net node ls -q | wc -l) = 3")
}

// What keeps nodes apart is named by the doctor: a port that is dropped, an underlay that takes no large packets,
// a host that is off.
func TestTheDoctorNamesTheCause(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle})
	f.populate("n1", "n2")
	f.reach("n1", "n2")
	for _, c := range []struct {
		fault []string
		says  string
	}{
		{[]string{"drop-udp", "n2", "8472"}, "8472"},
		{[]string{"cut", "n2"}, "n2"},
		{[]string{"mtu-hole", "n2", "1400"}, "1400"},
	} {
		f.until("n1", "net node inspect n2 >/dev/null && ! net doctor | grep -E '(warning|error).*n2'")
		f.fault(c.fault...)
		f.until("n1", fmt.Sprintf(
			"net node inspect n2 >/dev/null; net doctor | grep -E -A1 '(warning|error)' | grep -A1 n2 | grep -e '%s'",
			c.says))
		if c.fault[0] == "drop-udp" {
			f.fault("allow-udp", "n2", "8472")
		} else {
			f.fault("heal", "n2")
		}
	}
}

// Routes to the nodes themselves end at a router: the doctor says so, and direct routing goes through a tunnel there.
func TestBeyondARouter(t *testing.T) {
	f := up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdSingle, Routers: true})
	f.run("n1", "net network create -d host-gw near && net network create -d host-gw -o direct-routing=true far")
	for _, n := range []string{"n1", "n3"} {
		f.until(n, "net network inspect near far")
		f.run(n, "net run -d --name c --network far busybox sleep 99999")
	}
	address := f.run("n3", "net inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' c")
	f.until("n1", "net exec c ping -c1 -W1 "+address)
	f.until("n1", "net node inspect n3 >/dev/null; net doctor | grep -A1 'is not on link eth0: a router is "+
		"between' | grep direct-routing")
	f.until("n1", "net status | grep 'not on the link eth0'")
}
