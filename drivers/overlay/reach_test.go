package overlay_test

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/internal/await"
)

// serve sends everybody who connects to a port of a box 256 KiB, until the test ends.
func (w *world) serve(box string, port int) {
	w.tb.Helper()
	var l net.Listener
	err := w.env.Do(w.path(box), func() (err error) {
		l, err = net.Listen("tcp", fmt.Sprintf("[::]:%d", port))
		return err
	})
	if err != nil {
		w.tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			if _, err := c.Write(make([]byte, size)); err != nil {
				w.tb.Errorf("serve from %s: %v", box, err)
			}
			c.Close()
		}
	})
	w.tb.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
}

const size = 256 << 10

// fetches reads it all from a box over TCP.
func (w *world) fetches(from, to string) {
	w.tb.Helper()
	var got int
	err := w.env.Do(w.path(from), func() error {
		c, err := net.DialTimeout("tcp", to, 5*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(await.Patience)); err != nil {
			return err
		}
		b, err := io.ReadAll(c)
		got = len(b)
		return err
	})
	if err != nil || got != size {
		w.tb.Errorf("%s fetched %d bytes from %s: %v", from, got, to, err)
	}
}

func TestBoxesOnDifferentNodesReachEachOther(t *testing.T) {
	for _, c := range []struct {
		name          string
		v4, v6, bnf   bool
		mtu, overhead int
	}{
		{"IPv4", true, false, false, 1450, 50},
		{"IPv6", false, true, false, 1430, 70},
		{"both, bridged frames shown to the firewall", true, true, true, 1450, 50},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, 2, c.v4, c.v6, c.bnf)
			w.join(nil)
			w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
			w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
			w.box("c", w.nodes[1], "10.6.0.9/24")
			w.converge()
			w.countUnderlay()
			w.serve("b", 80)
			w.pings("a", "10.5.2.2", true)
			w.pings("a", "fd05::2:2", true)
			w.pings("b", "10.5.1.2", true)
			w.pings("b", "fd05::1:2", true)
			w.fetches("a", "10.5.2.2:80")
			w.fetches("a", "[fd05::2:2]:80")
			w.pings("a", "10.5.2.2", true, "-Mdo", fmt.Sprintf("-s%d", c.mtu-28)) // the largest that fits
			w.pings("a", "10.5.2.2", false, "-Mdo", fmt.Sprintf("-s%d", c.mtu-27))
			w.pings("a", "10.6.0.9", true) // another subnet of the network, by this node's gateway
			w.countedNone("known addresses", "inner_arp")
			w.countedNone("known addresses", "solicitations")
			if w.counted("sent") == "0" {
				t.Error("the counters see nothing")
			}
		})
	}
}

func TestGatewayIsTheNodesOwn(t *testing.T) {
	w := newWorld(t, 2, true, true, false)
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
	w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
	w.converge()
	w.countUnderlay()
	for _, box := range []string{"a", "b"} {
		w.pings(box, "10.5.0.1", true)
		w.pings(box, "fd05::1", true)
	}
	w.pings("a", "192.0.2.2", true) // out by the node, masqueraded
	w.pings("b", "2001:db8::1", true)
	w.countedNone("the gateway", "sent")
}

// What nobody has is asked for in vain, and goes nowhere. Where addresses lead to nodes by block, frames to a MAC
// address that the bridge does not know are for the device to lead, which has them go where groups go.
func TestUnknownAddressesStayHere(t *testing.T) {
	for _, multicast := range []bool{true, false} {
		t.Run(fmt.Sprintf("multicast %v", multicast), func(t *testing.T) {
			w := newWorld(t, 2, true, false, false)
			w.join(func(n *cnm.Network) { n.Options = map[string]string{"multicast": fmt.Sprint(multicast)} })
			w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
			w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
			w.converge()
			w.countUnderlay()
			w.pings("a", "10.5.9.9", false)
			w.pings("a", "fd05::9:9", false)
			if !multicast || !w.nodes[0].host.Fast {
				w.must("a", "ip", "neigh", "replace", "10.5.9.9", "lladdr", "02:42:00:00:00:99", "dev",
					"eth0") // nobody's MAC
				w.pings("a", "10.5.9.9", false)
			}
			w.countedNone("unknown addresses", "sent")
			w.pings("a", "10.5.2.2", true)
			if w.counted("sent") == "0" {
				t.Error("the counters see nothing")
			}
		})
	}
}

func TestIsolatedEndpointsReachNoneElsewhere(t *testing.T) {
	w := newWorld(t, 2, true, false, false)
	w.join(func(n *cnm.Network) { n.Options = map[string]string{"icc": "false"} })
	w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
	w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
	w.converge()
	w.pings("a", "10.5.2.2", false)
	w.pings("a", "fd05::2:2", false)
	w.pings("a", "10.5.0.1", true)
}

func TestEntriesComeAndGoWithThePeer(t *testing.T) {
	w := newWorld(t, 3, true, false, false)
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
	w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
	w.box("c", w.nodes[2], "10.5.3.2/16")
	w.converge()
	link := overlay.LinkName(w.network.ID)
	w.pings("a", "10.5.2.2", true)

	// The device goes with all its entries; a pass brings them back.
	w.must("node1", "ip", "link", "del", link)
	w.nodes[0].converge()
	w.pings("a", "10.5.2.2", true)
	w.pings("a", "fd05::2:2", true)
	w.pings("a", "10.5.3.2", true)

	w.forget("b")
	w.nodes[0].converge()
	entries := w.must("node1", "ip", "neigh", "show", "dev", link) + w.must("node1", "bridge", "fdb", "show", "dev",
		link)
	for _, gone := range []string{"10.5.2.2", "fd05::2:2", "192.0.2.2"} {
		if strings.Contains(entries, gone) {
			t.Errorf("%s is still there:\n%s", gone, entries)
		}
	}
	w.pings("a", "10.5.2.2", false)
	w.pings("a", "10.5.3.2", true)
}

// An endpoint that moved has another node's address.
func TestPeerMoves(t *testing.T) {
	w := newWorld(t, 3, true, false, false)
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16")
	w.box("b", w.nodes[1], "10.5.2.2/16")
	w.converge()
	w.pings("a", "10.5.2.2", true)
	s := w.nodes[0].peers["b"]
	moves := func(to string) {
		s.FDB[0].Dst = netip.MustParseAddr(to)
		for i := range s.Fast.Peers {
			s.Fast.Peers[i].Node = s.FDB[0].Dst
		}
		w.nodes[0].converge()
	}
	moves("192.0.2.3")
	w.pings("a", "10.5.2.2", false)
	moves("192.0.2.2")
	w.pings("a", "10.5.2.2", true)
}
