package daemon_test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// wantError checks a refusal: its class, and what it must tell the reader.
func wantError(t *testing.T, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %v (%v), want %v", status.Code(err), err, code)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

func TestTwoHundredAttachesAtOnce(t *testing.T) {
	n := newNode(t)
	n.start()
	n.network("web")
	const count = 200
	ids := make([]string, count)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			s, err := n.client.Sandboxes.Create(t.Context(), &apiv1.CreateSandboxRequest{
				Networks: []*apiv1.ConnectRequest{{Network: "web"}},
				Ports:    []*apiv1.PortMapping{{Proto: "tcp", ContainerPort: 80}},
			})
			if err != nil {
				t.Errorf("attach %d: %v", i, err)
				return
			}
			ids[i] = s.Id
		})
	}
	wg.Wait()
	n.converged()
	list, err := n.client.Sandboxes.List(t.Context(), &apiv1.ListSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	addrs, ports := map[string]bool{}, map[uint32]bool{}
	for _, s := range list.Sandboxes {
		for _, e := range s.Endpoints {
			for _, a := range e.Addresses {
				addrs[a] = true
			}
			for _, p := range e.Ports {
				ports[p.HostPort] = true
			}
		}
	}
	if len(list.Sandboxes) != count || len(addrs) != 2*count || len(ports) != count {
		t.Errorf("%d sandboxes, %d addresses, %d ports", len(list.Sandboxes), len(addrs), len(ports))
	}
	last := list.Sandboxes[count-1]
	n.Run("nsenter", "--net="+last.NetnsPath, "ping", "-c1", "-W30", "-q", last.Endpoints[0].Gateways[0])
	for _, id := range ids {
		wg.Go(func() {
			if _, err := n.client.Sandboxes.Remove(t.Context(), &apiv1.RemoveSandboxRequest{Id: id}); err != nil {
				t.Errorf("remove: %v", err)
			}
		})
	}
	wg.Wait()
	n.converged()
	n.idle()
	n.removeNetwork("web")
}

// TestStrangersChangesAreRepaired undoes what other tools do to our objects.
func TestStrangersChangesAreRepaired(t *testing.T) {
	n := newNode(t)
	outside := n.outside()
	n.start()
	n.image()
	web := n.network("web")
	n.run(echoServer("server", &apiv1.PortMapping{Proto: "tcp", HostPort: 8080, ContainerPort: 80}))
	host := n.inspect("server").Sandbox.Endpoints[0].HostLink
	for _, c := range []struct{ name, script string }{
		{"flushed ruleset", "nft flush ruleset"},
		{"deleted table", "nft delete table inet vethloom"},
		{"deleted bridge", "ip link del " + web.Link},
		{"deleted veth", "ip link del " + host},
		{"veth taken off its bridge", "ip link set " + host + " nomaster"},
		{"bridge down", "ip link set " + web.Link + " down"},
		{"gateway address removed", "ip addr flush dev " + web.Link},
		{"element removed", "nft flush map inet vethloom range4; nft flush map inet vethloom any4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Sh(c.script)
			await.True(t, "the kernel is as recorded again", func() bool { return len(n.differences()) == 0 })
			await.True(t, "the server is reached", func() bool {
				conn, err := n.dialFrom(outside, "192.0.2.1:8080")
				if err == nil {
					conn.Close()
				}
				return err == nil
			})
		})
	}
	st, err := n.client.System.Status(t.Context(), &apiv1.StatusRequest{})
	if err != nil || st.Drifts == 0 {
		t.Errorf("%d drifts counted, %v", st.GetDrifts(), err)
	}
	n.removeContainer("server")
	n.removeNetwork("web")
	n.idle()
}

// TestHostPortTaken wants an error at once when another process has the port, and
// nothing left of the attempt.
func TestHostPortTaken(t *testing.T) {
	n := newNode(t)
	n.start()
	n.image()
	n.network("web")
	var l net.Listener
	if err := n.Do("", func() (err error) { l, err = net.Listen("tcp", "0.0.0.0:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	idle := n.traces()
	_, err := n.client.Sandboxes.Create(t.Context(), &apiv1.CreateSandboxRequest{
		Networks: []*apiv1.ConnectRequest{{Network: "web"}},
		Ports:    []*apiv1.PortMapping{{Proto: "tcp", HostPort: 8080, ContainerPort: 80}},
	})
	wantError(t, err, codes.FailedPrecondition, "8080", "tcp", fmt.Sprint("pid ", os.Getpid()))
	_, err = n.tryRun(echoServer("server", &apiv1.PortMapping{Proto: "tcp", HostPort: 8080, ContainerPort: 80}))
	wantError(t, err, codes.FailedPrecondition, "8080")
	if left := n.traces(); left != idle {
		t.Errorf("left behind:\n%s\nbefore:\n%s", left, idle)
	}
	n.converged()
	l.Close()
	if _, err := n.client.Containers.Start(t.Context(), &apiv1.StartContainerRequest{Container: "server"}); err != nil {
		t.Errorf("start once the port is free: %v", err)
	}
	n.removeContainer("server")
	n.removeNetwork("web")
	n.idle()
}

// TestFullDisk lets the disk of the records fill up.
func TestFullDisk(t *testing.T) {
	n := newNode(t)
	if err := unix.Mount("tmpfs", n.root, "tmpfs", 0, "size=16m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		n.stop()
		if err := unix.Unmount(n.root, 0); err != nil {
			t.Error(err)
		}
	})
	n.start()
	n.network("before")
	full, err := os.Create(filepath.Join(n.root, "ballast"))
	if err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 1<<16); err == nil; {
		_, err = full.Write(chunk)
	}
	for len(chunkOf(full)) > 0 { // the last bytes too
	}
	full.Close()
	var refused error
	for i := 0; i < 200 && refused == nil; i++ { // free pages inside the file may serve a few
		_, refused = n.client.Networks.Create(t.Context(), &apiv1.CreateNetworkRequest{
			Name: fmt.Sprint("n", i), Labels: map[string]string{"big": strings.Repeat("x", 64<<10)},
			Pools: []*apiv1.Pool{{Subnet: fmt.Sprintf("10.80.%d.0/24", i)}}})
	}
	wantError(t, refused, codes.ResourceExhausted, n.root)
	n.converged()
	if err := os.Remove(full.Name()); err != nil {
		t.Fatal(err)
	}
	n.network("after")
	n.restart()
	n.converged()
	list, err := n.client.Networks.List(t.Context(), &apiv1.ListNetworksRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, net := range list.Networks {
		if !net.Builtin {
			n.removeNetwork(net.Name)
		}
	}
	n.converged()
}

func chunkOf(f *os.File) []byte {
	if _, err := f.Write([]byte{0}); err != nil {
		return nil
	}
	return []byte{0}
}

// TestDamagedRecords cuts the file of records short between two lives.
func TestDamagedRecords(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(path string) error
	}{
		{"truncated", func(p string) error { return os.Truncate(p, 5000) }},
		{"empty", func(p string) error { return os.Truncate(p, 0) }},
		{"garbage", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("garbage ", 8192)), 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t)
			n.start()
			n.network("web")
			n.stop()
			if err := c.damage(filepath.Join(n.root, "state.db")); err != nil {
				t.Fatal(err)
			}
			n.start()
			if _, err := n.client.Networks.Inspect(t.Context(),
				&apiv1.InspectNetworkRequest{Network: "web"}); err != nil {
				t.Errorf("the network is gone: %v", err)
			}
			st, err := n.client.System.Status(t.Context(), &apiv1.StatusRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if len(st.Notices) == 0 || !strings.Contains(strings.Join(st.Notices, "\n"), "state.db") {
				t.Errorf("status says nothing about it: %q", st.Notices)
			}
			if kept, _ := filepath.Glob(filepath.Join(n.root, "state.db.corrupt-*")); len(kept) != 1 {
				t.Errorf("the damaged file is not kept: %v", kept)
			}
			n.converged()
			n.removeNetwork("web")
		})
	}
}

// TestForeignForwardDrop lets another tool drop what it does not know, after the
// container was started and reached, as dockerd does when it starts.
func TestForeignForwardDrop(t *testing.T) {
	n, outside := serving(t)
	reach := func() bool {
		conn, err := n.dialFrom(outside, "192.0.2.1:8080")
		if err == nil {
			conn.Close()
		}
		return err == nil
	}
	await.True(t, "the server is reached", reach)
	n.Sh("iptables-nft -N DOCKER-USER; iptables-nft -I FORWARD -j DOCKER-USER; iptables-nft -P FORWARD DROP")
	await.True(t, "the server is reached again", reach)
	n.converged()
	if rules := n.Sh("iptables-nft -S DOCKER-USER"); strings.Count(rules, "vethloom") != 2 {
		t.Errorf("the accepts are not where that tool looks for them:\n%s", rules)
	}
	n.Sh("iptables-nft -P FORWARD ACCEPT")
	await.True(t, "the accepts are gone", func() bool {
		return !strings.Contains(n.Sh("iptables-nft -S"), "vethloom")
	})
	n.converged()
	n.removeContainer("server")
	n.removeNetwork("web")
	n.idle()
}

// TestBridgeIsFull takes every port a Linux bridge has.
func TestBridgeIsFull(t *testing.T) {
	n := newNode(t)
	n.start()
	web := n.network("web", func(r *apiv1.CreateNetworkRequest) { r.Ipv6 = false })
	n.Sh("for i in $(seq 1022); do echo link add full$i group 77 type ifb; echo link set full$i master " + web.Link +
		"; done | ip -batch -")
	t.Cleanup(func() { n.Run("ip", "link", "del", "group", "77") })
	sandbox := func() (*apiv1.Sandbox, error) {
		return n.client.Sandboxes.Create(t.Context(),
			&apiv1.CreateSandboxRequest{Networks: []*apiv1.ConnectRequest{{Network: "web"}}})
	}
	last, err := sandbox()
	if err != nil {
		t.Fatal(err)
	}
	_, err = sandbox()
	wantError(t, err, codes.ResourceExhausted, web.Link, "1023", "another network")
	n.converged()
	if _, err := n.client.Sandboxes.Remove(t.Context(), &apiv1.RemoveSandboxRequest{Id: last.Id}); err != nil {
		t.Fatal(err)
	}
	n.converged()
	n.idle()
	n.removeNetwork("web")
}
