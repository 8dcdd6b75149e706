package single

import (
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
)

// dhcpServer is dnsmasq on the other host of a LAN.
type dhcpServer struct {
	cmd *exec.Cmd

	mu   sync.Mutex
	text strings.Builder
}

// Write takes what the server logs.
func (s *dhcpServer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// times counts a text in the server's log.
func (s *dhcpServer) times(text string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Count(s.text.String(), text)
}

// serveDHCP has the other host of a LAN give addresses until the test's end.
func serveDHCP(t *testing.T, far *kerntest.Env, args ...string) *dhcpServer {
	t.Helper()
	s := &dhcpServer{}
	s.cmd = exec.Command("dnsmasq", append([]string{"--keep-in-foreground", "--conf-file=/dev/null", "--port=0",
		"--interface=lan0", "--bind-interfaces", "--dhcp-authoritative", "--no-ping", "--user=root", "--pid-file=",
		"--log-facility=-", "--dhcp-leasefile=" + filepath.Join(t.TempDir(), "leases"),
		"--dhcp-option=option:router,192.0.2.100"}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s, s
	if err := far.Do("", s.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.stop()
		if t.Failed() {
			t.Logf("log of dnsmasq:\n%s", s.text.String())
		}
	})
	return s
}

// stop ends the server.
func (s *dhcpServer) stop() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // which says that it was killed
	}
}

const (
	leasedAddr = "{{.NetworkSettings.Networks.lan.IPAddress}}"
	longLeases = "--dhcp-range=192.0.2.50,192.0.2.60,255.255.255.0,1h"
)

// Containers have addresses of the LAN's DHCP server, and give them back.
func TestAddressesOfADHCPServer(t *testing.T) {
	n, far := withLAN(t)
	server := serveDHCP(t, far, longLeases, "--dhcp-host=02:00:00:00:00:0b,192.0.2.77",
		"--dhcp-option=option:classless-static-route,198.51.100.0/24,192.0.2.99,0.0.0.0/0,192.0.2.98")
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "--ipam-driver", "dhcp", "lan")
	learned := n.ok("network", "inspect", "-f",
		"{{.IPAM.Driver}}{{range .IPAM.Config}} {{.Subnet}} {{.Gateway}}{{end}}", "lan")
	is(t, "subnet and router", learned, "dhcp 192.0.2.0/24 192.0.2.98")
	n.ok("run", "-d", "--name", "a", "--network", "lan", "bb", "sleep", "1000")
	a := n.ok("inspect", "-f", leasedAddr, "a")
	matches(t, "address", a, `192\.0\.2\.(5[0-9]|60)`)
	far.Run("ping", "-c1", "-W5", a)
	routes := n.inside("a")("ip route")
	for _, want := range []string{"default via 192.0.2.98 dev eth0", "198.51.100.0/24 via 192.0.2.99 dev eth0"} {
		if !strings.Contains(routes, want) {
			t.Errorf("routes are\n%swant %s", routes, want)
		}
	}
	mac := n.ok("inspect", "-f", "{{.NetworkSettings.Networks.lan.MacAddress}}", "a")
	if server.times("DHCPACK(lan0) "+a+" "+mac+" a\n") != 1 {
		t.Errorf("the server has not given %s to %s, named a", a, mac)
	}
	n.ok("run", "-d", "--name", "b", "--network", "lan", "--mac-address", "02:00:00:00:00:0b", "bb", "sleep", "1000")
	is(t, "what is kept for b", n.ok("inspect", "-f", leasedAddr, "b"), "192.0.2.77")
	asked := "192.0.2.59"
	if a == asked { // the server chooses by the hardware address
		asked = "192.0.2.58"
	}
	n.ok("run", "-d", "--name", "c", "--network", "lan", "--ip", asked, "bb", "sleep", "1000")
	is(t, "what c asks for", n.ok("inspect", "-f", leasedAddr, "c"), asked)
	n.ok("stop", "-t", "0", "a")
	n.ok("start", "a")
	is(t, "after a restart of the container", n.ok("inspect", "-f", leasedAddr, "a"), a)
	far.Run("ping", "-c1", "-W5", a)
	n.refuses(
		refusal{"run --rm --network lan --ip " + asked + " bb true", 125, asked + ` is asked for`},
		refusal{"network create --ipam-driver dhcp other", 1,
			`on no LAN; choose the driver macvlan without mode=passthru, or bridge with -o parent=LINK`},
		refusal{"network create -d macvlan -o parent=lan0.9 --ipam-driver dhcp --ipv6 other", 1, `leave IPv6 out`},
		refusal{"network create -d macvlan -o parent=lan0.9 --ipam-driver dhcp other", 1, `--subnet and --gateway`},
		refusal{"network create -d macvlan -o parent=lan1 -o mode=passthru --ipam-driver dhcp --subnet 10.9.0.0/24 " +
			"--gateway 10.9.0.1 other", 1, `without mode=passthru`},
		refusal{"network create -d macvlan -o parent=lan1 --ipam-driver dhcp --subnet 10.9.0.0/24 --ip-range " +
			"10.9.0.0/25 other", 1, `the DHCP server chooses`},
	)
	n.ok("rm", "-f", "a", "b", "c")
	for _, addr := range []string{a, "192.0.2.77", asked} {
		await.True(t, "the server has "+addr+" back", func() bool {
			return server.times("DHCPRELEASE(lan0) "+addr+" ") > 0
		})
	}
	n.ok("network", "rm", "lan")
}

// A lease is renewed by whichever netd there is. Where the server refuses to, the container has another address.
func TestALeaseIsRenewed(t *testing.T) {
	n, far := withLAN(t)
	renewing := []string{"--dhcp-option=option:T1,3s", "--dhcp-option=option:T2,12s"}
	server := serveDHCP(t, far, append(renewing, longLeases)...)
	n.ok("network", "create", "-d", "macvlan", "-o", "parent=lan0", "--ipam-driver", "dhcp", "lan")
	n.ok("run", "-d", "--name", "a", "--network", "lan", "bb", "sleep", "1000")
	a := n.ok("inspect", "-f", leasedAddr, "a")
	asked := "DHCPREQUEST(lan0) " + a + " "
	await.True(t, "it is renewed", func() bool { return server.times(asked) > 2 })
	n.restart()
	before := server.times(asked)
	is(t, "after a kill of netd", n.ok("inspect", "-f", leasedAddr, "a"), a)
	far.Run("ping", "-c1", "-W5", a)
	await.True(t, "it is renewed by the next netd", func() bool { return server.times(asked) > before+1 })
	if got := server.times("DHCPOFFER"); got != 2 { // one of them for the network
		t.Errorf("%d offers, want 2: the lease was not renewed", got)
	}
	server.stop()
	await.True(t, "the status tells of it", func() bool {
		return strings.Contains(n.ok("status"), " leases of DHCP could not be renewed so far, such as that of "+a)
	})
	serveDHCP(t, far, append(renewing, "--dhcp-range=192.0.2.80,192.0.2.90,255.255.255.0,1h")...)
	var b string
	await.True(t, "it has an address of the new range", func() bool {
		b = n.ok("inspect", "-f", leasedAddr, "a")
		return strings.HasPrefix(b, "192.0.2.8") || b == "192.0.2.90"
	})
	far.Run("ping", "-c1", "-W5", b)
	await.True(t, "the container's own name has it", func() bool {
		return strings.Contains(n.ok("exec", "a", "cat", "/etc/hosts"), b+"\t")
	})
	if out := n.inside("a")("ip addr show eth0"); strings.Contains(out, a+"/") {
		t.Errorf("the old address is still there:\n%s", out)
	}
	await.True(t, "nothing differs", func() bool { return n.net("diff").code == 0 })
}

// Without a server, networks and containers fail soon, and the error says what to look at.
func TestNoDHCPServer(t *testing.T) {
	n, far := withLAN(t)
	create := "network create -d macvlan -o parent=lan0 --ipam-driver dhcp lan"
	n.refuses(refusal{create, 1, `no DHCP server answers on the LAN of link lan0; see that the LAN has a DHCP server`})
	server := serveDHCP(t, far, longLeases)
	n.ok(strings.Fields(create)...)
	server.stop()
	n.refuses(refusal{"run --rm --network lan bb true", 125, `no DHCP server answers on the LAN of link lan0`})
	is(t, "endpoints", n.ok("network", "inspect", "-f", "{{len .Containers}}", "lan"), "0")
}
