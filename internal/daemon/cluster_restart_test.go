package daemon_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// echo serves in a sandbox: what comes in goes back.
func (n *node) echo(s *apiv1.Sandbox) {
	n.t.Helper()
	var l net.Listener
	err := n.Do(s.NetnsPath, func() (err error) { l, err = net.Listen("tcp", ":80"); return err })
	if err != nil {
		n.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// splice would keep its pipes
			go func() { defer c.Close(); io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c}) }()
		}
	}()
	n.t.Cleanup(func() { l.Close(); <-done })
}

// reach connects from a sandbox once there is a way.
func (n *node) reach(from *apiv1.Sandbox, to netip.Addr) net.Conn {
	n.t.Helper()
	var conn net.Conn
	await.True(n.t, fmt.Sprintf("%s is reached", to), func() bool {
		err := n.Do(from.NetnsPath, func() (err error) {
			conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(to, 80).String(), time.Second)
			return err
		})
		return err == nil
	})
	return conn
}

// talk sends a line and wants it back.
func talk(t *testing.T, when string, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(await.Patience))
	line := fmt.Sprintf("%s to %s\n", when, c.RemoteAddr())
	if _, err := c.Write([]byte(line)); err != nil {
		t.Errorf("%s: %v", when, err)
		return
	}
	if back, err := bufio.NewReader(c).ReadString('\n'); err != nil || back != line {
		t.Errorf("%s: %s: got %q, %v", when, c.RemoteAddr(), back, err)
	}
}

// TestConnectionsAcrossHostsOutliveNetd keeps connections to a sandbox on another node over a kill, a start and an
// orderly stop of netd, on a network of each driver. A userspace tunnel carries while netd runs,
// so its connections wait for it and lose nothing; the others do not notice.
func TestConnectionsAcrossHostsOutliveNetd(t *testing.T) {
	w, far, here, there := pair(t)
	var all, kernel []net.Conn
	for _, d := range clusterDrivers {
		for _, is4 := range []bool{true, false} {
			c := w.reach(here, addressOn(t, there, d, is4))
			defer c.Close()
			all = append(all, c)
			if d != "udp" {
				kernel = append(kernel, c)
			}
		}
	}
	each := func(when string, conns []net.Conn) {
		t.Helper()
		for _, c := range conns {
			talk(t, when, c)
		}
	}
	each("before", all)
	w.kill()
	each("while netd is dead", kernel)
	w.join()
	each("after the restart", all)
	w.converged()
	w.stop()
	each("while netd is stopped", kernel)
	w.join()
	each("at the end", all)
	w.converged()
	for _, c := range all {
		c.Close()
	}
	w.dismantle(far, here, there)
	await.True(t, "the other node has let go of the networks", func() bool {
		l, err := far.client.Networks.List(t.Context(), &apiv1.ListNetworksRequest{})
		return err == nil && len(l.Networks) == 3
	})
	far.converged()
}
