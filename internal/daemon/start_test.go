package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"golang.org/x/sys/unix"
)

// A mount that somebody makes private, as a script's mount --make-rprivate does, must not keep a namespace from being
// removed, nor the next netd from starting.
func TestStartAfterMountsWereMadePrivate(t *testing.T) {
	n := newNode(t)
	n.start()
	one, two := n.attach("bridge"), n.attach("bridge")
	n.stop()
	if err := unix.Mount("", filepath.Join(n.RunDir, "netns"), "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.detach(one)
	n.stop()
	n.start()
	n.detach(two)
}

// The name in the abstract namespace is everybody's: bound by another user, listening or not, it keeps no netd out.
func TestAnotherUserHasTheClaim(t *testing.T) {
	for _, listen := range []bool{true, false} {
		t.Run(fmt.Sprintf("listens=%v", listen), func(t *testing.T) {
			n := newNode(t)
			squat(t, n, listen)
			n.start()
			n.stop() // its log is whole then
			if log := n.log.String(); !strings.Contains(log, "another user has the name") {
				t.Errorf("the log does not say so:\n%s", log)
			}
		})
	}
}

// squat binds the name as user 65534, until the test ends.
func squat(t *testing.T, n *node, listen bool) {
	t.Helper()
	fds := make([]int, 0, 8)
	t.Cleanup(func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	})
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		fds = append(fds, fd)
		return fd
	}
	name := &unix.SockaddrUnix{Name: "@vethloom/netd"}
	err := n.Do("", func() error { // on a thread of its own, the user of which is that of listen(2)
		self := ^uintptr(0)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, self, 65534, self); e != 0 {
			return e
		}
		defer unix.RawSyscall(unix.SYS_SETRESUID, self, 0, self)
		s := socket()
		if err := unix.Bind(s, name); err != nil || !listen {
			return err
		}
		return unix.Listen(s, 0)
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 4 { // more than it has room for
		if s := socket(); listen {
			_ = n.Do("", func() error { return unix.Connect(s, name) })
		}
	}
}

// State below a directory that other users can write is refused, with what to do; a symbolic link is followed.
func TestStateDirectory(t *testing.T) {
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(t.TempDir(), "theirs")
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(theirs, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	for root, want := range map[string]string{
		open: "chmod go-w " + open, filepath.Join(open, "below"): "chmod go-w " + open,
		theirs: "belongs to user 65534", filepath.Join(theirs, "below"): "belongs to user 65534",
	} {
		n := newNode(t)
		n.cfg.Root = root
		if err := n.tryStart(); err == nil || !strings.Contains(n.log.String(), want) {
			t.Errorf("--root %s: %v, %s, want %q", root, err, n.log, want)
		}
	}
	n := newNode(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(n.root, link); err != nil {
		t.Fatal(err)
	}
	n.cfg.Root = link
	n.start()
	resp, err := n.client.System.Status(t.Context(), &apiv1.StatusRequest{})
	if err != nil || resp.GetRoot() != n.root {
		t.Errorf("the state is in %q, %v, want %q", resp.GetRoot(), err, n.root)
	}
}

// A host whose routes leave no default subnet free is told which flag gives the builtin bridge one. A VPN's halves of
// the default route leave them free.
func TestRoutesToEverywhere(t *testing.T) {
	n := newNode(t)
	n.Sh("ip link add vpn type veth peer name far; ip addr add 198.51.100.2/24 dev vpn; ip link set vpn up; " +
		"for r in 0.0.0.0/1 128.0.0.0/1 172.16.0.0/12 192.168.0.0/16; do ip route add $r dev vpn; done")
	if err := n.tryStart(); err == nil || !strings.Contains(n.log.String(), "netd --bridge-subnet") {
		t.Errorf("no subnet is free: %v, %s", err, n.log)
	}
	n.Sh("ip route del 192.168.0.0/16")
	n.start()
	n.Run("ip", "link", "del", "vpn")
}

// Another --bridge-subnet moves the builtin bridge at the next start; one that is in use stays, and status says so.
func TestBridgeSubnet(t *testing.T) {
	n := newNode(t)
	check := func(flag, want, notice string) {
		t.Helper()
		n.cfg.BridgeSubnet = flag
		n.start()
		b, err := n.client.Networks.Inspect(t.Context(), &apiv1.InspectNetworkRequest{Network: "bridge"})
		if err != nil || len(b.GetPools()) != 1 || b.GetPools()[0].GetSubnet() != want {
			t.Fatalf("--bridge-subnet %q: %v, %v, want %s", flag, b, err, want)
		}
		s, err := n.client.System.Status(t.Context(), &apiv1.StatusRequest{})
		got := strings.Join(s.GetNotices(), "\n")
		if err != nil || !strings.Contains(got, notice) || strings.Contains(got, "--bridge-subnet") != (notice != "") {
			t.Errorf("--bridge-subnet %q: %v, %v, want %q in it", flag, s.GetNotices(), err, notice)
		}
	}
	check("", "172.17.0.0/16", "")
	n.stop()
	check("10.213.0.0/24", "10.213.0.0/24", "")
	s := n.attach("bridge")
	n.kill()
	check("10.214.0.0/24", "10.213.0.0/24", "--bridge-subnet 10.214.0.0/24 is not followed yet")
	n.detach(s)
	n.kill()
	check("10.214.0.0/24", "10.214.0.0/24", "")
	n.stop()
	for _, flag := range []string{"10.0.0.1/24", "10.1.0.0/24,10.2.0.0/24", "all"} {
		n.cfg.BridgeSubnet = flag
		if err := n.cfg.Config.Check(); err == nil || !strings.Contains(err.Error(), "--bridge-subnet") {
			t.Errorf("--bridge-subnet %q: %v", flag, err)
		}
	}
}
