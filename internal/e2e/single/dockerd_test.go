package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// dockerd is a real one beside a netd, on the same host.
type dockerd struct {
	*node
	dir, socket, cgroup string
	cmd                 *exec.Cmd
	gone                chan error
	log                 *os.File // a pipe would be held by what outlives dockerd
}

// newDockerd starts a dockerd that asks netd for its networks, and has the image bb.
func newDockerd(n *node) *dockerd {
	t := n.t
	t.Helper()
	d := &dockerd{node: n, dir: t.TempDir(), cgroup: fmt.Sprintf("docker-test-%d", os.Getpid())}
	var err error
	if d.log, err = os.Create(filepath.Join(d.dir, "log")); err != nil {
		t.Fatal(err)
	}
	d.socket = filepath.Join(d.dir, "docker.sock")
	d.begin()
	t.Cleanup(func() {
		d.end(os.Interrupt)
		d.log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(d.log.Name())
			t.Logf("log of dockerd:\n%s", text)
		}
		n.Sh("find /sys/fs/cgroup -depth -type d -path '*" + d.cgroup + "*' -exec rmdir {} + 2>/dev/null || true; " +
			"awk '$5 ~ \"^" + d.dir + "\" {print $5}' /proc/self/mountinfo | sort -r | xargs -r umount -l")
	})
	d.docker("import", rootfs(t), "bb")
	return d
}

// begin starts dockerd, with a containerd that it starts: one that was killed leaves a number behind that dockerd takes
// for it. It is in a mount namespace of its own: there netd's socket is where it looks for plugins.
func (d *dockerd) begin() {
	d.t.Helper()
	script := fmt.Sprintf("mount --make-rprivate / && mount -t tmpfs tmpfs /run && mkdir -p /run/docker/plugins && "+
		"rm -f %[2]s/exec/containerd/containerd.pid && "+
		"ln -s %[1]s/docker-plugin.sock /run/docker/plugins/vethloom.sock && exec dockerd --data-root %[2]s/data "+
		"--exec-root %[2]s/exec --pidfile %[2]s/pid -H unix://%[3]s --cgroup-parent /%[4]s --bridge none "+
		"--log-level warn",
		d.RunDir, d.dir, d.socket, d.cgroup)
	d.cmd, d.gone = exec.Command("unshare", "-m", "sh", "-c", script), make(chan error, 1)
	d.cmd.Stderr, d.cmd.Stdout = d.log, d.log
	if err := d.Do("", d.cmd.Start); err != nil {
		d.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, gone chan<- error) { gone <- cmd.Wait() }(d.cmd, d.gone)
	d.eventually("dockerd answers", func() bool { return d.try("version").code == 0 })
}

// end ends dockerd and waits for it.
func (d *dockerd) end(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Error(err)
	}
	<-d.gone
}

// try runs docker.
func (d *dockerd) try(args ...string) result {
	d.t.Helper()
	return d.call("", []string{"DOCKER_HOST=unix://" + d.socket}, "docker", args...)
}

// docker runs docker, which must succeed.
func (d *dockerd) docker(args ...string) string {
	d.t.Helper()
	r := d.try(args...)
	if r.code != 0 {
		d.t.Fatalf("docker %s: %s%s", strings.Join(args, " "), r.out, r.err)
	}
	return r.out
}

const createWeb = "network create -d vethloom -o net=web --ipam-driver vethloom --ipam-opt net=web " +
	"--subnet 10.7.0.0/24 --ipv6 --subnet fd07::/64 web"

// Containers of a real dockerd are on a network with one of ours: addresses, ports, restarts of all that can restart.
func TestContainersOfDocker(t *testing.T) {
	n := withImage(t, "--docker-plugin", "RUN/docker-plugin.sock")
	d := newDockerd(n)
	far := n.outside("192.0.2.2/24", "2001:db8::2/64")
	n.ok("network", "create", "--subnet", "10.7.0.0/24", "--subnet", "fd07::/64", "web")
	for without, says := range map[string]string{
		" --ipam-driver vethloom --ipam-opt net=web": "add --ipam-driver vethloom --ipam-opt net=web",
		" -o net=web":           "add -o net=NAME",
		" --subnet 10.7.0.0/24": "10.7.0.0/24",
		" --ipam-opt net=web":   "--ipam-opt net=NAME",
	} {
		r := d.try(strings.Fields(strings.Replace(createWeb, without, "", 1))...)
		if r.code == 0 || !strings.Contains(r.err, says) {
			t.Errorf("docker network create without%s: %d, %s, want %q", without, r.code, r.err, says)
		}
	}
	d.docker(strings.Fields(createWeb)...)
	n.ok("run", "-d", "--name", "db", "--network", "web", "bb", "sleep", "1000")
	start := func() {
		t.Helper()
		d.docker("run", "-d", "--name", "shop", "--network", "web", "--ip", "10.7.0.77", "-p", "8080:80", "bb",
			"sleep", "1000")
	}
	start()
	shop := func() string { return "/proc/" + d.docker("inspect", "-f", "{{.State.Pid}}", "shop") + "/ns/net" }
	reach := func(when string) {
		t.Helper()
		v6 := d.docker("inspect", "-f", "{{.NetworkSettings.Networks.web.GlobalIPv6Address}}", "shop")
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
	r := d.try("run", "-d", "--name", "other", "--network", "web", "-p", "8080:80", "bb", "sleep", "1000")
	if r.code == 0 || !strings.Contains(r.err, "8080/tcp: taken by") {
		t.Errorf("a port that is taken: %d, %s", r.code, r.err)
	}
	d.docker("rm", "-f", "other")
	n.restart()
	is(t, "what differs", n.ok("diff"), "")
	reach("after netd was killed")
	d.docker("network", "disconnect", "web", "shop")
	d.docker("network", "connect", "--ip", "10.7.0.77", "web", "shop")
	d.docker("restart", "-t", "0", "shop")
	reach("after a restart of the container")
	d.end(os.Kill)
	d.begin()
	d.docker("rm", "-f", "shop")
	start()
	reach("after dockerd was killed")
	d.docker("rm", "-f", "shop")
	d.docker("network", "rm", "web")
	is(t, "containers on the network", n.attached(), "1")
	d.docker("network", "create", "-d", "vethloom", "--subnet", "10.9.0.0/24", "-o", "icc=false", "own")
	matches(t, "a network that was made for Docker", n.ok("network", "ls", "--format", "{{.Name}} {{.Subnets}}"),
		`(?m)^docker-[0-9a-f]{12} 10\.9\.0\.0/24$`)
	d.docker("run", "--rm", "--network", "own", "bb", "ping", "-c1", "-W3", "10.9.0.1")
	d.docker("network", "rm", "own")
	if got := n.ok("network", "ls", "-q", "--filter", "name=docker-"); got != "" {
		t.Errorf("networks that are left: %s", got)
	}
}
