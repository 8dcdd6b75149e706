package daemon_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"google.golang.org/protobuf/types/known/durationpb"
)

// outside joins a second host to the node's by a link, without a route to anything else,
// and returns the path of its namespace.
func (n *node) outside() string {
	n.t.Helper()
	dir := n.t.TempDir()
	path := filepath.Join(dir, "outside")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		n.t.Fatal(err)
	}
	n.Run("unshare", "--net="+path, "true")
	n.t.Cleanup(func() {
		n.Run("umount", path)
	})
	n.Sh(fmt.Sprintf(`
		ip link add up0 type veth peer name up1 netns %[1]s
		ip addr add 192.0.2.1/24 dev up0
		ip -6 addr add 2001:db8::1/64 dev up0 nodad
		ip link set up0 up
		nsenter --net=%[1]s sh -ec '
			ip link set lo up
			ip addr add 192.0.2.2/24 dev up1
			ip -6 addr add 2001:db8::2/64 dev up1 nodad
			ip link set up1 up'`, path))
	n.t.Cleanup(func() { n.Run("ip", "link", "del", "up0") })
	return path
}

// dialFrom connects from a namespace; "" is the node's own.
func (n *node) dialFrom(path, address string) (conn net.Conn, err error) {
	err = n.Do(path, func() error {
		conn, err = net.DialTimeout("tcp", address, 5*time.Second)
		return err
	})
	return conn, err
}

func echoServer(name string, ports ...*apiv1.PortMapping) *apiv1.ContainerSpec {
	return &apiv1.ContainerSpec{
		Name: name, Command: []string{"nc", "-ll", "-p", "80", "-e", "cat"},
		Networks: []*apiv1.ConnectRequest{{Network: "web"}}, Ports: ports,
	}
}

// serving is a node with an echo server on port 8080, and the namespace of another host.
func serving(t *testing.T) (n *node, outside string) {
	t.Helper()
	n = newNode(t)
	outside = n.outside()
	n.start()
	n.image()
	n.network("web")
	n.run(echoServer("server", &apiv1.PortMapping{Proto: "tcp", HostPort: 8080, ContainerPort: 80}))
	return n, outside
}

// TestConnectionsOutliveNetd keeps connections open over a kill and a start, and
// over an orderly stop: from another host, from the host itself and between containers.
func TestConnectionsOutliveNetd(t *testing.T) {
	n, outside := serving(t)
	n.run(&apiv1.ContainerSpec{Name: "other", Command: []string{"sleep", "1000"},
		Networks: []*apiv1.ConnectRequest{{Network: "web"}}})

	var conns []net.Conn
	for _, c := range []struct{ from, to string }{
		{outside, "192.0.2.1:8080"}, {outside, "[2001:db8::1]:8080"},
		{"", "127.0.0.1:8080"}, {"", "[::1]:8080"},
		{n.inspect("other").Sandbox.NetnsPath, n.address("server") + ":80"},
	} {
		var conn net.Conn
		await.True(t, "the server listens for "+c.to, func() bool {
			var err error
			conn, err = n.dialFrom(c.from, c.to)
			return err == nil
		})
		defer conn.Close()
		conns = append(conns, conn)
	}
	talk := func(when string) {
		t.Helper()
		for _, c := range conns {
			c.SetDeadline(time.Now().Add(await.Patience))
			line := fmt.Sprintf("%s to %s\n", when, c.RemoteAddr())
			if _, err := c.Write([]byte(line)); err != nil {
				t.Errorf("%s: %v", when, err)
				continue
			}
			if back, err := bufio.NewReader(c).ReadString('\n'); err != nil || back != line {
				t.Errorf("%s: got %q, %v", when, back, err)
			}
		}
	}
	talk("before")
	n.kill()
	talk("while netd is dead")
	n.start()
	talk("after the restart")
	n.converged()
	n.stop()
	talk("while netd is stopped")
	n.start()
	talk("at the end")
	if s := n.inspect("server").Status; s != "running" {
		t.Errorf("the server is %s", s)
	}
	for _, c := range conns {
		c.Close()
	}
	n.removeContainer("server")
	n.removeContainer("other")
	n.removeNetwork("web")
	n.idle()
}

func (n *node) address(container string) string {
	n.t.Helper()
	e := n.inspect(container).Sandbox.Endpoints[0]
	addr, _, _ := strings.Cut(e.Addresses[0], "/")
	return addr
}

// A start whose record was not on disk yet when netd was killed has its addresses all the same, now and the next time.
func TestKilledRightAfterAStart(t *testing.T) {
	n := newNode(t)
	n.start()
	n.image()
	n.network("web")
	n.run(&apiv1.ContainerSpec{Name: "server", Command: []string{"sleep", "1000"},
		Networks: []*apiv1.ConnectRequest{{Network: "web"}}})
	n.restart()
	before := n.address("server")
	for _, change := range []func() error{
		func() (err error) {
			_, err = n.client.Containers.Stop(t.Context(), &apiv1.StopContainerRequest{Container: "server",
				Timeout: durationpb.New(0)})
			return err
		},
		func() (err error) {
			_, err = n.client.Containers.Start(t.Context(), &apiv1.StartContainerRequest{Container: "server"})
			return err
		},
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
	}
	if after := n.address("server"); after != before {
		t.Errorf("address %s, was %s", after, before)
	}
	n.removeContainer("server")
	n.removeNetwork("web")
}

// TestExitWhileNetdIsDead wants the exit code of a container that ended when
// nobody watched, and nothing left of its network.
func TestExitWhileNetdIsDead(t *testing.T) {
	n := newNode(t)
	n.start()
	n.image()
	fifo := filepath.Join(t.TempDir(), "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	n.run(&apiv1.ContainerSpec{
		Name: "job", Command: []string{"sh", "-c", "read line </go/go; exit 42"},
		Mounts: []*apiv1.Mount{{Source: filepath.Dir(fifo), Target: "/go"}},
	})
	pid := int(n.inspect("job").Pid)
	n.kill()
	if err := os.WriteFile(fifo, []byte("now\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	await.True(t, "the job has ended", func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	n.start()
	await.True(t, "the job is known to have ended", func() bool { return n.inspect("job").Status == "exited" })
	if c := n.inspect("job"); c.ExitCode != 42 {
		t.Errorf("exit code %d, want 42 (%s)", c.ExitCode, c.Error)
	}
	n.converged()
	n.idle()
	n.removeContainer("job")
}

// TestReboot pulls the plug: every process and all kernel state is gone, the boot ID
// is another, and the files are as they were, even those on the tmpfs.
func TestReboot(t *testing.T) {
	n := newNode(t)
	n.cfg.BootID = "first"
	n.start()
	n.image()
	n.network("web", func(r *apiv1.CreateNetworkRequest) { r.Pools = []*apiv1.Pool{{Subnet: "10.70.0.0/29"}} })
	port := &apiv1.PortMapping{Proto: "tcp", HostPort: 8080, ContainerPort: 80}
	n.run(echoServer("server", port))
	if _, err := n.client.Sandboxes.Create(t.Context(), &apiv1.CreateSandboxRequest{
		Id: sandboxID, Networks: []*apiv1.ConnectRequest{{Network: "web"}}}); err != nil {
		t.Fatal(err)
	}
	before, pid := n.address("server"), int(n.inspect("server").Pid)
	// A container that has only just started is written down a moment later, or
	// when netd stops.
	n.stop()
	n.start()
	n.kill()
	n.powerCut(pid)

	n.cfg.BootID = "second"
	n.start()
	n.converged()
	n.idle()
	c := n.inspect("server")
	if c.Status != "exited" || c.ExitCode == 0 || c.Error == "" {
		t.Errorf("after the reboot: status %s, code %d, error %q", c.Status, c.ExitCode, c.Error)
	}
	// Five addresses remain of the /29: ghosts would exhaust it.
	for i := range 4 {
		n.run(&apiv1.ContainerSpec{Name: fmt.Sprint("new", i), Command: []string{"sleep", "1000"},
			Networks: []*apiv1.ConnectRequest{{Network: "web"}}})
	}
	if _, err := n.client.Containers.Start(t.Context(), &apiv1.StartContainerRequest{Container: "server"}); err != nil {
		t.Fatalf("start again: %v", err)
	}
	t.Logf("address before %s, after %s", before, n.address("server"))
	n.converged()
	for i := range 4 {
		n.removeContainer(fmt.Sprint("new", i))
	}
	n.removeContainer("server")
	n.removeNetwork("web")
	n.idle()
}

// powerCut removes processes, namespaces and links the way a reboot does.
func (n *node) powerCut(pid int) {
	n.t.Helper()
	shims := n.shims()
	if len(shims) == 0 {
		n.t.Fatal("there is no supervisor to cut the power of")
	}
	n.Run("kill", append([]string{"-9"}, shims...)...)
	await.True(n.t, "the container's process is gone", func() bool {
		err := syscall.Kill(pid, syscall.SIGKILL)
		return err == syscall.ESRCH
	})
	n.kernelCut()
}

// kernelCut removes what the kernel has of a netd that has ended.
func (n *node) kernelCut() {
	n.t.Helper()
	n.Sh(fmt.Sprintf(`
		for pin in %[1]s/netns/*; do umount "$pin"; rm "$pin"; done
		nft flush ruleset
		for l in $(ip -o link | grep -o 'vl[be]-[0-9a-f]*' | sort -u); do
			ip link del $l 2>/dev/null || true
		done`, n.RunDir))
}
