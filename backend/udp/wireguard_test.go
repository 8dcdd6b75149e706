package udp

import (
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/vethloom/vethloom/internal/await"
)

// TestWireguardFarEnd has the tun and conn packages of wireguard-go do the segmentation and the
// merging at the far end. They share no code with ours.
func TestWireguardFarEnd(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	if err := b.host.Close(testLink); err != nil {
		t.Fatal(err)
	}
	wireguard(t, b, a)
	reaches(t, a, b)
	// a link that was just attached to may keep its first packets
	await.True(t, "the first answer by IPv6", func() bool {
		_, err := b.box.try("ping", "-c", "1", "-W", "1", a.inner6.String())
		return err == nil
	})
	for _, v6 := range []bool{false, true} {
		transfer(t, a, b, v6, 50<<20)
		transfer(t, b, a, v6, 50<<20)
	}
	c := a.host.Stats(testLink)
	for r, n := range c.Drops {
		// The node's own multicast is a foreign source.
		if n != 0 && r != ForeignSource {
			t.Errorf("%d packets were dropped: %s", n, r)
		}
	}
}

// wireguard moves packets between a side's TUN link and the other side until the test ends.
func wireguard(t *testing.T, s, other *side) {
	t.Helper()
	var (
		dev     tun.Device
		receive []conn.ReceiveFunc
		bind    = conn.NewStdNetBind()
		err     error
	)
	s.do(func() {
		var d *device
		if d, err = attachOffload(testLink); err != nil {
			return
		}
		if dev, _, err = tun.CreateUnmonitoredTUNFromFD(d.fd); err != nil {
			return
		}
		receive, _, err = bind.Open(s.tunnel.Port)
	})
	if err != nil {
		t.Fatal(err)
	}
	far, err := bind.ParseEndpoint(net.JoinHostPort(other.outer.String(), "8285"))
	if err != nil {
		t.Fatal(err)
	}
	var both sync.WaitGroup
	t.Cleanup(func() {
		if err := errors.Join(dev.Close(), bind.Close()); err != nil {
			t.Error(err)
		}
		both.Wait()
	})
	both.Go(func() {
		bufs, sizes := farBuffers(bind.BatchSize())
		for {
			n, err := dev.Read(bufs, sizes, headroom)
			if errors.Is(err, os.ErrClosed) {
				return
			}
			if err != nil {
				t.Errorf("read: %v", err)
				return
			}
			packets := make([][]byte, n)
			for i := range packets {
				packets[i] = bufs[i][headroom : headroom+sizes[i]]
			}
			if err := bind.Send(packets, far); err != nil && !errors.Is(err, net.ErrClosed) {
				t.Errorf("send: %v", err)
			}
		}
	})
	for _, f := range receive {
		both.Go(func() {
			bufs, sizes := farBuffers(bind.BatchSize())
			from := make([]conn.Endpoint, len(bufs))
			into := make([][]byte, len(bufs))
			for i := range bufs {
				into[i] = bufs[i][headroom:]
			}
			for {
				n, err := f(into, sizes, from)
				if err != nil {
					return // net.ErrClosed
				}
				packets := make([][]byte, 0, n)
				for i := range n {
					if sizes[i] > 0 {
						packets = append(packets, bufs[i][:headroom+sizes[i]])
					}
				}
				if _, err := dev.Write(packets, headroom); err != nil && !errors.Is(err, os.ErrClosed) {
					t.Errorf("write: %v", err)
				}
			}
		})
	}
}

func farBuffers(n int) ([][]byte, []int) {
	bufs := make([][]byte, n)
	for i := range bufs {
		bufs[i] = make([]byte, slot)
	}
	return bufs, make([]int, n)
}
