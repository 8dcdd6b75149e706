package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine/shim/shimtest"
	"github.com/vethloom/vethloom/internal/await"
)

// podman is Debian's Podman 4.3 with CNI, with state of its own.
type podman struct {
	*node
	dir string
}

// newPodman has the image bb and the network web, which is netd's.
func newPodman(n *node) *podman {
	t := n.t
	t.Helper()
	p := &podman{node: n, dir: t.TempDir()}
	if err := os.Mkdir(p.dir+"/net", 0o755); err != nil {
		t.Fatal(err)
	}
	// Locks in files, since those in memory are one set for the whole machine. netd holds published ports itself. The
	// limits are some that a test's machine lets Podman set.
	shimtest.Write(t, filepath.Join(p.dir, "containers.conf"), `[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "none"
lock_type = "file"
enable_port_reservation = false
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["`+filepath.Dir(program(t, "vethloom-cni"))+`", "/usr/lib/cni"]
network_config_dir = "`+p.dir+`/net"
`)
	for _, name := range []string{"web", "back"} {
		shimtest.Write(t, filepath.Join(p.dir, "net", name+".conflist"), `{"cniVersion": "1.0.0", "name":
			"`+name+`", "plugins": [{"type": "vethloom-cni", "socket": "`+filepath.Join(n.RunDir, "attach.sock")+`",
			"capabilities": {"portMappings": true, "ips": true, "mac": true, "aliases": true}}]}`)
	}
	t.Cleanup(func() {
		p.podman("rm", "-f", "-a", "-t", "0")
		// Programs that end a container's life for Podman may be on their way still.
		n.eventually("the supervisors have ended", func() bool { return !commandLines(t, p.dir) })
		n.call("", nil, "umount", "-R", filepath.Join(p.dir, "root", "vfs"))
	})
	p.ok("import", rootfs(t), "bb")
	return p
}

// commandLines reports whether a process has the text in its command line.
func commandLines(t *testing.T, text string) bool {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range lines {
		if b, err := os.ReadFile(l); err == nil && strings.Contains(string(b), text) {
			return true
		}
	}
	return false
}

func (p *podman) command(args ...string) []string {
	return append([]string{"--root", p.dir + "/root", "--runroot", p.dir + "/run", "--tmpdir", p.dir + "/tmp",
		"--storage-driver", "vfs"}, args...)
}

func (p *podman) env() []string { return []string{"CONTAINERS_CONF=" + p.dir + "/containers.conf"} }

// podman runs Podman.
func (p *podman) podman(args ...string) result {
	p.t.Helper()
	return p.call("", p.env(), "podman", p.command(args...)...)
}

// ok is podman for what must succeed.
func (p *podman) ok(args ...string) string {
	p.t.Helper()
	r := p.podman(args...)
	if r.code != 0 {
		p.t.Fatalf("podman %s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// place is the path of a container's network namespace.
func (p *podman) place(name string) string {
	return p.ok("inspect", "-f", "{{.NetworkSettings.SandboxKey}}", name)
}

// on is a field of what a container has on a network.
func (p *podman) on(network, name, field string) string {
	return p.ok("inspect", "-f", fmt.Sprintf("{{(index .NetworkSettings.Networks %q).%s}}", network, field), name)
}

// A container of Podman's and one of ours are on one network.
func TestContainersOfPodman(t *testing.T) {
	n := withImage(t)
	far := n.outside("192.0.2.2/24")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	n.ok("network", "create", "--subnet", "10.8.0.0/24", "back")
	p := newPodman(n)
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sh", "-c", serve("db"))
	p.ok("run", "-d", "--name", "shop", "--network", "web", "--ip", "10.7.0.99", "--mac-address", "02:00:00:00:00:99",
		"--network-alias", "cart", "-p", "8080:80", "bb", "sh", "-c", serve("shop"))
	is(t, "address", p.on("web", "shop", "IPAddress"), "10.7.0.99")
	is(t, "hardware address", p.on("web", "shop", "MacAddress"), "02:00:00:00:00:99")
	talk := func(names ...string) {
		t.Helper()
		for _, name := range append(names, n.address("db", "web")) {
			n.eventually("ours answers as "+name, func() bool {
				return p.podman("exec", "shop", "sh", "-c", "echo | nc -w 3 "+name+" 80").out == "db"
			})
		}
		for _, name := range []string{"shop", "cart", "10.7.0.99", p.on("web", "shop", "GlobalIPv6Address")} {
			n.eventually("Podman's answers as "+name, func() bool {
				return n.net("exec", "db", "sh", "-c", "echo | nc -w 3 "+name+" 80").out == "shop"
			})
		}
		n.eventually("the port is published", func() bool {
			return n.call("", nil, "nsenter", "--net="+far, "sh", "-c", "echo | busybox nc -w 3 192.0.2.1 8080").out ==
				"shop"
		})
	}
	talk("db")
	n.restart()
	talk("db")
	p.ok("network", "connect", "--alias", "store", "back", "shop")
	is(t, "second address", p.on("back", "shop", "IPAddress"), "10.8.0.2")
	is(t, "links", p.ok("exec", "shop", "sh", "-c", "ip -o link | grep -c eth"), "2")
	p.ok("network", "disconnect", "back", "shop")
	is(t, "links", p.ok("exec", "shop", "sh", "-c", "ip -o link | grep -c eth"), "1")
	talk() // Podman has taken the resolver out of its resolv.conf, which both networks had
	first := p.place("shop")
	p.ok("restart", "-t", "0", "shop")
	is(t, "address after a restart", p.on("web", "shop", "IPAddress"), "10.7.0.99")
	talk("db")
	second := p.place("shop")
	p.ok("rm", "-f", "-t", "0", "shop")
	is(t, "containers on web", n.attached(), "1")
	for _, path := range []string{first, second} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("namespace %s is left: %v", path, err)
		}
	}
}

// Podman is killed while it starts a container, at different times. It can remove and start such containers, and what
// they had is removed with them.
func TestPodmanKilled(t *testing.T) {
	n := newNode(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	p := newPodman(n)
	before := places(t)
	for i := range 4 {
		name := fmt.Sprint("cut", i)
		p.ok("create", "--name", name, "--network", "web", "bb", "sleep", "1000")
		cmd := exec.Command("podman", p.command("start", name)...)
		cmd.Env = append(os.Environ(), p.env()...)
		if err := n.Do("", cmd.Start); err != nil {
			t.Fatal(err)
		}
		await.True(t, "the container is on its network", func() bool { return n.attached() != fmt.Sprint(i) })
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		n.eventually("it can be started", func() bool { return p.podman("start", name).code == 0 })
		is(t, "containers on web", n.attached(), fmt.Sprint(i+1))
		is(t, "links", p.ok("exec", name, "sh", "-c", "ip -o link | grep -c eth"), "1")
	}
	p.ok("rm", "-f", "-a", "-t", "0")
	is(t, "containers on web", n.attached(), "0")
	for path := range places(t) {
		if !before[path] { // Podman has forgotten it
			n.call("", nil, "umount", path)
			if err := os.Remove(path); err != nil {
				t.Error(err)
			}
		}
	}
}

// places are the namespaces that Podman makes.
func places(t *testing.T) map[string]bool {
	t.Helper()
	paths, err := filepath.Glob("/run/netns/netns-*")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, p := range paths {
		out[p] = true
	}
	return out
}

// netd is away while Podman removes a container: it is taken off the network later.
func TestPodmanWithoutNetd(t *testing.T) {
	n := newNode(t)
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "web")
	p := newPodman(n)
	p.ok("run", "-d", "--name", "c", "--network", "web", "bb", "sleep", "1000")
	if err := n.netd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-n.gone
	p.ok("rm", "-f", "-t", "0", "c")
	r := p.podman("run", "--name", "d", "--network", "web", "bb", "true")
	matches(t, "a start without netd", r.err, `netd does not answer at .*systemctl status netd`)
	p.ok("rm", "-f", "d")
	n.start()
	n.eventually("it is off the network", func() bool { return n.attached() == "0" })
	p.ok("run", "--rm", "--network", "web", "bb", "true")
	is(t, "containers on web", n.attached(), "0")
}
