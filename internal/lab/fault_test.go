package lab_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/labtest"
)

func TestFaultsOfTheUnderlay(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdNone, IPv6: true, NoImage: true})
	const n2, n3 = "ping -c1 -W1 $n2", "ping -c1 -W1 $n3"

	do(t, l, "cut", "n2")
	fails(t, l, "n1", n2)
	ok(t, l, "n1", n3)
	if !strings.Contains(ok(t, l, "n2", "ip link show eth0"), "NO-CARRIER") {
		t.Error("a host whose cable is pulled has a carrier")
	}
	do(t, l, "heal", "n2")
	// The kernel asks for a neighbour that did not answer once a second.
	ok(t, l, "n1", "ping -c5 -i0.3 -W2 $n2; ping -c5 -i0.3 -W2 $n2_6")

	// A hole swallows large packets and says nothing; small ones pass.
	do(t, l, "mtu-hole", "n2", "1400")
	fails(t, l, "n1", n2+" -s 1450 -M do")
	ok(t, l, "n1", n2+" -s 1300 -M do")
	do(t, l, "heal")
	ok(t, l, "n1", n2+" -s 1450 -M do")
	do(t, l, "mtu", "n1", "1400")
	if out, err := sh(t, l, "n1", n2+" -s 1450 -M do"); err == nil || !strings.Contains(out, "mtu=1400") {
		t.Errorf("an MTU of 1400: %v: %s", err, out)
	}
	do(t, l, "heal")

	udp := func(port string) string {
		return "timeout 5 sh -c 'nsenter --net=" + "$LAB/ns/n2 socat -u UDP-RECV:" + port + ",readbytes=2 - & " +
			"until nsenter --net=$LAB/ns/n2 ss -Hlun | grep -q :" + port + "; do sleep 0.02; done; " +
			"for i in 1 2 3 4; do echo x | socat -u - UDP:$n2:" + port +
			"; sleep 0.05; done; kill %1 2>/dev/null; wait' | grep x"
	}
	ok(t, l, "n1", udp("8472"))
	do(t, l, "drop-udp", "n2", "8472")
	fails(t, l, "n1", udp("8472"))
	ok(t, l, "n1", udp("8285")+"; "+n2)
	do(t, l, "allow-udp", "n2", "8472")
	ok(t, l, "n1", udp("8472"))
}

func TestANodeWithoutEtcd(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdSingle, NoImage: true})
	const health = "curl -sf -m 1 http://$e1:2379/health"
	ok(t, l, "n1", health)
	do(t, l, "partition", "n1")
	fails(t, l, "n1", health)
	ok(t, l, "n2", health)
	ok(t, l, "n1", "ping -c1 -W1 $n2")
	do(t, l, "join", "n1")
	ok(t, l, "n1", health)
	do(t, l, "kill", "e1")
	fails(t, l, "n2", health)
	do(t, l, "start", "e1")
	ok(t, l, "n2", health)
}

func TestAClusterOfEtcdOutlivesAMember(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdCluster, NoImage: true})
	ok(t, l, "n1", "etcdctl put a b")
	do(t, l, "kill", "e2")
	// When it was the leader, the others choose another first.
	get := func(endpoints string) string {
		return ok(t, l, "n1", "export ETCDCTL_ENDPOINTS="+endpoints+"; timeout 30 sh -c 'until etcdctl get a "+
			"--print-value-only 2>/dev/null; do sleep 0.1; done'")
	}
	if got := get("http://$e1:2379,http://$e3:2379"); got != "b" {
		t.Errorf("without e2: %q", got)
	}
	do(t, l, "start", "e2")
	if got := get("http://$e2:2379"); got != "b" {
		t.Errorf("of e2, which was killed: %q", got)
	}
}

func TestTheEmbeddedEtcdServesALab(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdEmbedded, NoImage: true})
	ok(t, l, "n1", "etcdctl put a b && etcdctl get a")
	do(t, l, "stop", "e1")
	do(t, l, "start", "e1")
	if got := ok(t, l, "n1", "etcdctl get a --print-value-only"); got != "b" {
		t.Errorf("after a restart: %q", got)
	}
}

func TestDaemonsEndAndComeBack(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 2, Etcd: lab.EtcdNone})
	ok(t, l, "n1", "net run -d --name a busybox sleep 1000")
	for _, how := range []string{"kill", "stop"} {
		do(t, l, how, "n1")
		fails(t, l, "n1", "net status")
		if err := l.Fault(t.Context(), how, "n1"); err == nil || !strings.Contains(err.Error(), "not running") {
			t.Errorf("%s twice: %v", how, err)
		}
		do(t, l, "start", "n1")
		if out := ok(t, l, "n1", "net ps"); !strings.Contains(out, "Up ") {
			t.Errorf("the container has not outlived netd:\n%s", out)
		}
	}
	do(t, l, "power-off", "n1")
	if out, err := sh(t, l, "n2", "ping -c1 -W1 $n1"); err == nil {
		t.Errorf("a host without power answers: %s", out)
	}
	if _, err := l.Command("n1", "true"); err == nil {
		t.Error("a host without power runs commands")
	}
	do(t, l, "start", "n1")
	ok(t, l, "n2", "ping -c1 -W1 $n1")
	ok(t, l, "n1", "net ps -a; net run --rm busybox true")
}

func TestTwoSubnetsWithARouter(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 3, Etcd: lab.EtcdNone, IPv6: true, Routers: true, NoImage: true})
	ok(t, l, "n1", "ping -c1 -W2 $n2; ping -c1 -W2 $n3; ping -c1 -W2 $n3_6")
	if got := ok(t, l, "n1", "ip route get $n2"); strings.Contains(got, "via") {
		t.Errorf("n2 is beyond a router: %s", got)
	}
	if got := ok(t, l, "n1", "ip route get $n3"); !strings.Contains(got, "via 192.0.2.126") {
		t.Errorf("n3 is not beyond the router: %s", got)
	}
}

func TestUnknownFaults(t *testing.T) {
	l := labtest.Up(t, lab.Config{Nodes: 1, Etcd: lab.EtcdNone, NoImage: true})
	for want, words := range map[string]string{
		"there is none": "explode n1", `host "n7"`: "cut n7", "wants HOST BYTES": "mtu n1",
		"give a number": "drop-udp n1 http", "68 to 65535": "mtu n1 10",
	} {
		if err := l.Fault(t.Context(), strings.Fields(words)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %s", words, err, want)
		}
	}
}
