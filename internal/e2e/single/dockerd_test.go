package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/e2e/dockerdtest"
)

// newDockerd starts a dockerd that asks netd for its networks, and has the image bb.
func newDockerd(n *node, args ...string) *dockerdtest.Dockerd {
	n.t.Helper()
	return withBB(n, dockerdtest.New(n.t, dockerdOf(n, args...)))
}

func dockerdOf(n *node, args ...string) dockerdtest.Config {
	return dockerdtest.Config{Plugin: filepath.Join(n.RunDir, "docker-plugin.sock"),
		Socket: filepath.Join(n.RunDir, "dockerd.sock"), Args: args,
		Start: func(cmd *exec.Cmd) error { return n.Do("", cmd.Start) }}
}

func withBB(n *node, d *dockerdtest.Dockerd) *dockerdtest.Dockerd {
	n.t.Helper()
	d.Docker("import", rootfs(n.t), "bb")
	return d
}

// asksNetd are the flags of a netd that dockerd asks, and that follows it.
var asksNetd = []string{"--docker-plugin", "RUN/docker-plugin.sock", "--docker", "unix://RUN/dockerd.sock"}

const createWeb = "network create -d vethloom -o net=web --ipam-driver vethloom --ipam-opt net=web " +
	"--subnet 10.7.0.0/24 --ipv6 --subnet fd07::/64 web"

// Containers of a real dockerd are on a network with one of ours: addresses, ports, restarts of all that can restart.
func TestContainersOfDocker(t *testing.T) {
	n := withImage(t, asksNetd...)
	containersOfDocker(n, newDockerd(n))
}

// The same with an engine of today.
func TestContainersOfDockerToday(t *testing.T) {
	n := withImage(t, asksNetd...)
	containersOfDocker(n, withBB(n, dockerdtest.New(t, dockerdOf(n).Current(t))))
}

func containersOfDocker(n *node, d *dockerdtest.Dockerd) {
	t := n.t
	far := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	for without, says := range map[string]string{
		" --ipam-driver vethloom --ipam-opt net=web": "add --ipam-driver vethloom --ipam-opt net=web",
		" -o net=web":           "add -o net=NAME",
		" --subnet 10.7.0.0/24": "10.7.0.0/24",
		" --ipam-opt net=web":   "--ipam-opt net=NAME",
	} {
		_, errs, err := d.Try(strings.Fields(strings.Replace(createWeb, without, "", 1))...)
		if err == nil || !strings.Contains(errs, says) {
			t.Errorf("docker network create without%s: %v, %s, want %q", without, err, errs, says)
		}
	}
	d.Docker(strings.Fields(createWeb)...)
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	start := func() {
		t.Helper()
		d.Docker("run", "-d", "--name", "shop", "--network", "web", "--ip", "10.7.0.77", "-p", "8080:80", "bb",
			"sleep", "1000")
	}
	start()
	shop := func() string { return "/proc/" + d.Docker("inspect", "-f", "{{.State.Pid}}", "shop") + "/ns/net" }
	reach := func(when string) {
		t.Helper()
		v6 := d.Docker("inspect", "-f", "{{.NetworkSettings.Networks.web.GlobalIPv6Address}}", "shop")
		defer n.says(shop(), "shop")()
		for _, a := range []string{"10.7.0.77", v6} {
			is(t, when+": what "+a+" answers", n.ok("exec", "db", "sh", "-c", "echo | nc -w 3 "+a+" 80"), "shop")
		}
		for _, a := range []string{"192.0.2.1", "2001:db8::1"} {
			is(t, when+": what the port answers at "+a, n.call("", nil, "nsenter", "--net="+far, "sh", "-c",
				"echo | busybox nc -w 3 "+a+" 8080").out, "shop")
		}
	}
	reach("at first")
	matches(t, "who is on the network", n.ok("endpoint", "ls", "web", "--format", "{{.Engine}} {{.Addresses}}"),
		`(?m)^docker 10\.7\.0\.77, fd07::\S+$`)
	ports := func(want string) {
		t.Helper()
		await.Done(t, "the ports are "+want, func() error {
			got := n.ok("port", "ls", "--format", "{{.Container}} {{.Port}} {{.Address}}")
			if !regexp.MustCompile(want).MatchString(got) {
				return fmt.Errorf("they are\n%s", got)
			}
			return nil
		})
	}
	ports(`(?m)^shop 80/tcp 0\.0\.0\.0:8080\nshop 80/tcp \[::\]:8080$`)
	d.Docker("run", "-d", "--name", "range", "--network", "web", "-p", "8080-8082:81", "-p", "82/udp",
		"-p", "0.0.0.0:8090:90", "bb", "sleep", "1000")
	ports(`(?m)^range 90/tcp 0\.0\.0\.0:8090$`)
	if all := n.ok("port", "ls"); strings.Contains(all, "[::]:8090") {
		t.Errorf("a port of IPv4 alone: %s", all)
	}
	ports(`(?m)^range 81/tcp 0\.0\.0\.0:8081\n(.*\n)?range 82/udp 0\.0\.0\.0:\d+$`)
	d.Docker("rm", "-f", "range")
	_, errs, err := d.Try("run", "-d", "--name", "other", "--network", "web", "-p", "8080:80", "bb", "sleep", "1000")
	if err == nil || !strings.Contains(errs, "8080/tcp: taken by") {
		t.Errorf("a port that is taken: %v, %s", err, errs)
	}
	d.Docker("rm", "-f", "other")
	rival := make(chan result, 1)
	go func() {
		rival <- n.net("run", "-d", "--name", "rival", "--network", "web", "--ip", "10.7.0.50", "bb", "sleep", "9")
	}()
	_, errs, err = d.Try("run", "-d", "--name", "other", "--network", "web", "--ip", "10.7.0.50", "bb", "sleep", "9")
	if r := <-rival; (r.code == 0) == (err == nil) {
		t.Errorf("two engines ask for one address at once: %d, %s and %v, %s", r.code, r.err, err, errs)
	}
	d.Docker("rm", "-f", "other")
	n.net("rm", "-f", "rival") // it may not be there
	n.restart()
	is(t, "what differs", n.ok("diff"), "")
	reach("after netd was killed")
	d.Docker("network", "disconnect", "web", "shop")
	d.Docker("network", "connect", "--ip", "10.7.0.77", "web", "shop")
	d.Docker("restart", "-t", "0", "shop")
	reach("after a restart of the container")
	d.End(os.Kill)
	d.Begin()
	d.Docker("rm", "-f", "shop")
	start()
	reach("after dockerd was killed")
	d.Docker("rm", "-f", "shop")
	d.Docker("network", "rm", "web")
	is(t, "containers on the network", n.attached(), "1")
	d.Docker(append(strings.Fields(createWeb), "--aux-address", "printer=10.7.0.150")...)
	for _, run := range []func() string{
		func() string {
			_, errs, _ := d.Try("run", "--rm", "--network", "web", "--ip", "10.7.0.150", "bb", "true")
			return errs
		},
		func() string { return n.net("run", "--rm", "--network", "web", "--ip", "10.7.0.150", "bb", "true").err },
	} {
		matches(t, "an address that is kept", run(), "10.7.0.150")
	}
	d.Docker("network", "rm", "web")
	n.ok("run", "--rm", "--network", "web", "--ip", "10.7.0.150", "bb", "true")
	_, errs, err = d.Try("network", "create", "-d", "vethloom", "-o", "driver=macvlan", "--subnet", "10.9.0.0/24",
		"own")
	if err == nil || !strings.Contains(errs, "no end on the host") {
		t.Errorf("a network of macvlan: %v, %s", err, errs)
	}
	d.Docker("network", "create", "-d", "vethloom", "--subnet", "10.9.0.0/24", "-o", "icc=false", "own")
	matches(t, "a network that was made for Docker", n.ok("network", "ls", "--format", "{{.Name}} {{.Subnets}}"),
		`(?m)^docker-[0-9a-f]{12} 10\.9\.0\.0/24$`)
	d.Docker("run", "--rm", "--network", "own", "bb", "ping", "-c1", "-W3", "10.9.0.1")
	d.Docker("network", "rm", "own")
	if got := n.ok("network", "ls", "-q", "--filter", "name=docker-"); got != "" {
		t.Errorf("networks that are left: %s", got)
	}
}
