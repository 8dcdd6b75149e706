package daemon_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/numbered"
)

// tunnelled is a world with a second node, and on each a sandbox on one udp network, without the fast path.
func tunnelled(t *testing.T) (w *world, far *node, here, there *apiv1.Sandbox) {
	t.Helper()
	w = newWorld(t)
	w.cfg.FastPath = "off"
	w.join()
	far = w.second()
	w.shared("udp")
	return w, far, w.attach("udp"), far.attach("udp")
}

// stream sends numbered packets from one sandbox to another.
func (n *node) stream(from, to *apiv1.Sandbox) *numbered.Stream {
	n.t.Helper()
	var l *net.UDPConn
	var c net.Conn
	at := addressOn(n.t, to, "udp", true)
	err := n.Do(to.NetnsPath, func() (err error) {
		l, err = net.ListenUDP("udp", &net.UDPAddr{IP: at.AsSlice()})
		return err
	})
	if err == nil {
		err = n.Do(from.NetnsPath, func() (err error) {
			c, err = net.Dial("udp", l.LocalAddr().String())
			return err
		})
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return numbered.New(n.t, c, l)
}

// pinged waits until there is a way between sandboxes.
func (n *node) pinged(from, to *apiv1.Sandbox) {
	n.t.Helper()
	at := addressOn(n.t, to, "udp", true).String()
	await.True(n.t, at+" answers", func() bool {
		out := n.Sh("nsenter --net=" + from.NetnsPath + " ping -c 1 -W 1 " + at + " || true")
		return strings.Contains(out, " 0% packet loss")
	})
}

// TestTunnelLosesNothing kills, stops and replaces netd under streams by a userspace tunnel, both ways, at the end also
// while etcd is away: nothing is lost, and nothing comes twice.
func TestTunnelLosesNothing(t *testing.T) {
	w, far, here, there := tunnelled(t)
	w.pinged(here, there)
	out, in := w.stream(here, there), w.stream(there, here)
	etcd := w.cfg.Etcd
	for round := range 8 {
		out.More(20)
		if round%2 == 0 {
			out.Pause()
			in.Pause()
			w.kill()
			out.Go()
			in.Go()
		} else {
			w.stop()
		}
		out.More(50)
		in.More(50)
		if round >= 6 {
			w.cfg.Etcd = "unix://" + filepath.Join(t.TempDir(), "none.sock")
		}
		w.start()
		out.Pause()
		in.Pause()
		out.Go()
		in.Go()
	}
	w.cfg.Etcd = etcd
	w.stop()
	w.join()
	out.End()
	in.End()
	w.converged()
	w.dismantleAll(far, here, there, []string{"udp"})
	w.unheld()
}

// unheld fails the test when somebody holds tunnels.
func (w *world) unheld() {
	w.t.Helper()
	await.True(w.t, "nobody holds tunnels", func() bool {
		_, err := os.Lstat(filepath.Join(w.RunDir, "tunnels.sock"))
		return os.IsNotExist(err)
	})
}

// TestTunnelWithoutItsHolder has the process that holds the tunnel hang, and be killed with netd: the next netd opens
// the tunnel anew, and has it held again.
func TestTunnelWithoutItsHolder(t *testing.T) {
	w, far, here, there := tunnelled(t)
	w.pinged(here, there)
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} {
		pid := w.holder()
		if err := syscall.Kill(pid, signal); err != nil {
			t.Fatal(err)
		}
		w.kill()
		w.join()
		w.pinged(here, there)
		if now := w.holder(); now == pid {
			t.Errorf("after signal %s, process %d still holds the tunnel", signal, pid)
		}
	}
	w.converged()
	w.dismantleAll(far, here, there, []string{"udp"})
	w.unheld()
}

// holder is the process that holds tunnels.
func (w *world) holder() (pid int) {
	w.t.Helper()
	path := filepath.Join(w.RunDir, "tunnels.sock")
	await.True(w.t, "somebody holds tunnels", func() bool {
		out, err := exec.Command("pgrep", "-f", "^[^ ]*net-shim hold "+path+"$").Output()
		if err != nil {
			return false
		}
		pid, err = strconv.Atoi(strings.TrimSpace(string(out)))
		return err == nil
	})
	return pid
}

// TestTunnelRemovedMeanwhile removes the last udp network while netd is dead, which leaves the tunnel with its holder:
// when netd is back, no device, no port and no process is left of it.
func TestTunnelRemovedMeanwhile(t *testing.T) {
	w, far, here, there := tunnelled(t)
	w.pinged(here, there)
	w.detach(here)
	far.detach(there)
	await.True(t, "the cluster knows of no endpoint", func() bool { return len(w.list("/vethloom/endpoint/")) == 0 })
	w.kill()
	if out := w.Sh("ss -Hlnu"); !strings.Contains(out, "192.0.2.1:8285") {
		t.Errorf("nobody holds the tunnel's port:\n%s", out)
	}
	await.True(t, "the network is removed", func() bool {
		_, err := far.client.Networks.Remove(t.Context(), &apiv1.RemoveNetworkRequest{Network: "udp"})
		return err == nil
	})
	w.join()
	w.converged()
	w.barren()
	w.unheld()
}
