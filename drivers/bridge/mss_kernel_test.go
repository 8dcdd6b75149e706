package bridge_test

import (
	"bytes"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/internal/kern"
	"github.com/vethloom/vethloom/plan"
)

// echo sends back what comes to a TCP port of a box, until the test ends.
func (w *world) echo(box, port string) {
	w.tb.Helper()
	var serving sync.WaitGroup
	err := w.env.Do(w.path(box), func() error {
		l, err := net.Listen("tcp", "[::]:"+port)
		if err == nil {
			w.tb.Cleanup(func() { l.Close(); serving.Wait() })
			serving.Go(func() { sendBack(l) })
		}
		return err
	})
	if err != nil {
		w.tb.Fatalf("listen on port %s in %q: %v", port, box, err)
	}
}

// sendBack serves one connection after the other until the listener is closed. The client sees what is missing.
func sendBack(l net.Listener) {
	for c, err := l.Accept(); err == nil; c, err = l.Accept() {
		if c.SetDeadline(time.Now().Add(await.Patience)) == nil {
			_, _ = io.Copy(c, c)
		}
		c.Close()
	}
}

// segments sends a lot from a box to an echo and back. It returns the largest segment that the connection sends.
func (w *world) segments(from, to string) int {
	w.tb.Helper()
	size := 0
	err := w.env.Do(w.path(from), func() error {
		c, err := net.DialTimeout("tcp", to, await.Patience)
		if err != nil {
			return err
		}
		var writing sync.WaitGroup
		defer writing.Wait()
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(await.Patience)); err != nil {
			return err
		}
		sent := bytes.Repeat([]byte("segment "), 64<<10)
		writing.Go(func() { _, _ = c.Write(sent) }) // what is missing does not come back
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(c, got); err != nil {
			return err
		}
		if !bytes.Equal(sent, got) {
			return os.ErrInvalid
		}
		size, err = maxSegment(c.(*net.TCPConn))
		return err
	})
	if err != nil {
		w.tb.Errorf("send from %q to %s and back: %v", from, to, err)
	}
	return size
}

func maxSegment(c *net.TCPConn) (size int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var info *unix.TCPInfo
	if e := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP,
			unix.TCP_INFO)
	}); e != nil || err != nil {
		return 0, err
	}
	return int(info.Snd_mss), nil
}

// TCP passes a link that is smaller than the containers', without the ICMP that tells of it: a link that gets a frame
// that is larger than its MTU drops it, as one of the host's does here.
func TestLargeSegmentsFitSmallerLinks(t *testing.T) {
	firewalls(t, func(t *testing.T, cfg kern.Config) {
		w := newWorldOf(t, cfg, cfg.Firewall == kern.Nftables)
		const validation = "source-validation" // iptables has none for IPv6
		w.network("large", options("mtu", "9000", validation, "false"))
		w.network("open", options("mtu", "9000", validation, "false", "gateway-mode", "routed"))
		w.box("a", "large", 2, cnm.PortMapping{Proto: plan.TCP, HostPort: 8080, Port: 80, Count: 1})
		w.box("b", "large", 3)
		w.box("o", "open", 2)
		w.converge()
		w.must("outside", "ip", "link", "set", "eth0", "mtu", "9000")
		w.must("outside", "ip", "link", "set", "eth0", "gso_max_segs", "1")
		w.must("", "ip", "link", "set", "up0", "mtu", "1400")
		for _, box := range []string{"", "outside", "a", "o"} {
			w.must(box, "nft", `table inet silent { chain out { type filter hook output priority 0;
				icmp type destination-unreachable drop
				icmpv6 type packet-too-big drop
			}; }`)
		}
		for _, box := range []string{"a", "o", "outside"} {
			w.echo(box, "80")
		}
		for _, c := range []struct{ from, to4, to6 string }{
			{"a", "192.0.2.2:80", "[2001:db8::2]:80"},
			{"o", "192.0.2.2:80", "[2001:db8::2]:80"},
			{"outside", "192.0.2.1:8080", "[2001:db8::1]:8080"},
			{"outside", "10.2.0.2:80", "[fd02::2]:80"},
		} {
			for _, to := range []string{c.to4, c.to6} {
				header := 20 + 20 + 12 // IP, TCP, its timestamps
				if netip.MustParseAddrPort(to).Addr().Is6() {
					header = 40 + 20 + 12
				}
				if got := w.segments(c.from, to); got > 1400-header {
					t.Errorf("from %q to %s: segments of %d bytes, more than fit 1400", c.from, to, got)
				}
			}
		}
		// Neighbours keep their large ones.
		if got := w.segments("b", "10.1.0.2:80"); got < 8000 {
			t.Errorf("between neighbours: segments of %d bytes, want nearly 9000", got)
		}
	})
}
