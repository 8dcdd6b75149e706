package single

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// tool is another firewall of the host.
type tool struct {
	// start puts its rules in place: by the tool itself, or those that it was seen to make.
	start func(*node)
	// reload is what its administrator does later; nil where it changes nothing.
	reload func(*node)
	// closed reports that containers do not get out until the administrator lets them, by what the doctor says.
	closed bool
}

func tools() map[string]tool {
	docker := func(n *node) { n.Sh("iptables-restore " + testdata(n.t, "dockerd.rules")) }
	ufw := func(command string) func(*node) {
		return func(n *node) {
			n.Sh("unshare -m sh -ec 'mount --bind " + n.root + "/ufw /etc/ufw; mount -t tmpfs t /run; " + command + "'")
		}
	}
	return map[string]tool{
		"dockerd": {start: docker, reload: docker},
		"podman":  {start: startPodman},
		"ufw": {reload: ufw("ufw reload"), start: func(n *node) {
			n.Sh("cp -a /etc/ufw " + n.root + "/ufw")
			ufw("ufw --force enable")(n)
		}},
		"firewalld": {closed: true, start: func(n *node) { n.Sh("nft -f " + testdata(n.t, "firewalld.nft")) }},
	}
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// podmanNetwork is what Podman hands to netavark for a container with a published port.
const podmanNetwork = `{"container_id": "c1", "container_name": "c1",
"networks": {"podman": {"static_ips": ["10.88.0.2"], "interface_name": "eth0"}},
"network_info": {"podman": {"name": "podman", "id": "2f259bab93aa", "driver": "bridge", "network_interface": "podman0",
	"subnets": [{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}], "ipv6_enabled": false, "internal": false,
	"dns_enabled": false, "ipam_options": {"driver": "host-local"}}},
"port_mappings": [{"host_ip": "", "container_port": 80, "host_port": 8099, "range": 1, "protocol": "tcp"}]}`

// startPodman makes a container's network as Podman does, without the container.
func startPodman(n *node) {
	file, pin := filepath.Join(n.root, "podman.json"), filepath.Join(n.root, "podman")
	for _, f := range []string{file, pin} {
		if err := os.WriteFile(f, []byte(podmanNetwork), 0o600); err != nil {
			n.t.Fatal(err)
		}
	}
	n.Sh("unshare --net=" + pin + " ip link set lo up")
	netavark := "/usr/lib/podman/netavark --config " + n.root + "/netavark --file " + file
	n.Sh(netavark + " setup " + pin)
	n.t.Cleanup(func() {
		n.Sh(netavark + " teardown " + pin)
		n.Sh("umount " + pin)
	})
	n.echoes(pin, ":80")
}

// Other tools set their policies before netd starts, and again while it runs: containers go on to reach the outside
// and to be reached, and other networks stay closed.
func TestBesideOtherFirewalls(t *testing.T) {
	for name, other := range tools() {
		for _, firewall := range []string{"nftables", "iptables"} {
			t.Run(name+"/"+firewall, func(t *testing.T) { beside(t, name, other, firewall) })
		}
	}
}

func beside(t *testing.T, name string, other tool, firewall string) {
	n := withImage(t, "--firewall", firewall)
	ns := n.outside("192.0.2.2/24")
	n.echoes(ns, "192.0.2.2:90")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "other")
	n.ok("run", "-d", "--name", "s", "--network", "web", "-p", "8080:80", "bb", "sh", "-c", echoServer)
	n.ok("run", "-d", "--name", "o", "--network", "other", "bb", "sleep", "1000")
	box := "/proc/" + n.ok("inspect", "-f", "{{.State.Pid}}", "s") + "/ns/net"
	works := func(when string) {
		t.Helper()
		n.talks(ns, "192.0.2.1:8080").lives(when)
		n.talks(box, "192.0.2.2:90").lives(when)
		if got := n.inside("o")("ping -c1 -W0.3 10.7.0.2 >/dev/null && echo reached || echo not"); got != "not\n" {
			t.Errorf("%s: another network is %s", when, got)
		}
		if name == "podman" {
			n.talks(ns, "192.0.2.1:8099").lives(when + ", Podman's own port")
		}
	}
	other.start(n)
	if other.closed {
		n.opens(box)
	}
	works("beside " + name)
	n.restart()
	if other.reload != nil {
		other.reload(n)
	}
	works("after a restart and a reload")
	n.settled()
}

// opens does what the doctor says against a firewall that stops what containers send.
func (n *node) opens(box string) {
	n.t.Helper()
	if c, err := n.dial(box, "", "192.0.2.2:90"); err == nil && c.echo() == nil {
		n.t.Error("the firewall lets containers out by itself")
	}
	var remedy string
	await.True(n.t, "the doctor names it", func() bool {
		for line := range strings.Lines(n.net("doctor", "--format", "{{.Check}}|{{.Remedy}}").out) {
			if check, text, _ := strings.Cut(strings.TrimSpace(line), "|"); check == "foreign forward policy" {
				remedy = text
			}
		}
		return strings.Contains(remedy, "nft insert rule")
	})
	n.Sh(remedy)
}
