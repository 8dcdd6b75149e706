package overlay_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/drivers/overlay"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

const groupPort = 5353

// listener hears what is sent to a group, or to everybody.
type listener struct {
	w    *world
	box  string
	conn *net.UDPConn
}

// listen has a box hear a group; with a broadcast address, whatever comes to the port.
func (w *world) listen(box, group string) listener {
	w.tb.Helper()
	l := listener{w: w, box: box}
	err := w.env.Do(w.path(box), func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(group), groupPort))
		if !to.IP.IsMulticast() {
			l.conn, err = net.ListenUDP("udp4", &net.UDPAddr{Port: groupPort})
			return err
		}
		l.conn, err = net.ListenMulticastUDP("udp", eth0, to)
		return err
	})
	if err != nil {
		w.tb.Fatalf("%s listens to %s: %v", box, group, err)
	}
	w.tb.Cleanup(func() { l.conn.Close() })
	return l
}

// hears waits for a text and for its sender.
func (l listener) hears(text, from string) {
	l.w.tb.Helper()
	if err := l.conn.SetReadDeadline(time.Now().Add(await.Patience)); err != nil {
		l.w.tb.Fatal(err)
	}
	b := make([]byte, 1500)
	n, sender, err := l.conn.ReadFromUDPAddrPort(b)
	if err != nil || string(b[:n]) != text || sender.Addr().Unmap() != netip.MustParseAddr(from) {
		l.w.tb.Errorf("%s got %q from %s: %v, want %q from %s", l.box, b[:n], sender, err, text, from)
	}
}

// hearsNothing looks at what has come already.
func (l listener) hearsNothing() {
	l.w.tb.Helper()
	if err := l.conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		l.w.tb.Fatal(err)
	}
	b := make([]byte, 1500)
	if n, sender, err := l.conn.ReadFromUDPAddrPort(b); !errors.Is(err, os.ErrDeadlineExceeded) {
		l.w.tb.Errorf("%s got %q from %s: %v", l.box, b[:n], sender, err)
	}
}

// say sends a text from a box.
func (w *world) say(box, to, text string) {
	w.tb.Helper()
	err := w.env.Do(w.path(box), func() error {
		c, err := net.Dial("udp", net.JoinHostPort(to, strconv.Itoa(groupPort)))
		if err != nil {
			return err
		}
		_, err = c.Write([]byte(text))
		return errors.Join(err, c.Close())
	})
	if err != nil {
		w.tb.Errorf("%s sends to %s: %v", box, to, err)
	}
}

// count counts the datagrams that come to a port by a link of a namespace, and returns the count.
func (w *world) count(box, link string, port int) func() int {
	w.tb.Helper()
	table := fmt.Sprintf("seen_%s_%d", link, port)
	w.must(box, "nft", fmt.Sprintf("table netdev %s {\ncounter got {}\nchain in {\ntype filter hook ingress device "+
		"%s priority 0;\n%s accept\nudp dport %d counter name got\n}\n}", table, link, reports, port))
	w.tb.Cleanup(func() { w.must(box, "nft", "delete", "table", "netdev", table) })
	return func() int {
		_, after, _ := strings.Cut(w.must(box, "nft", "list", "counter", "netdev", table, "got"), "packets ")
		digits, _, _ := strings.Cut(after, " ")
		n, err := strconv.Atoi(digits)
		if err != nil {
			w.tb.Fatal(err)
		}
		return n
	}
}

// groups are one of each kind: routed, of the link alone (mDNS), and everybody.
var groups = []struct{ to, from string }{
	{"239.1.2.3", "10.5.1.2"}, {"224.0.0.251", "10.5.1.2"}, {"255.255.255.255", "10.5.1.2"},
	{"10.5.255.255", "10.5.1.2"}, {"ff05::1234", "fd05::1:2"}, {"ff02::fb%eth0", "fd05::1:2"},
}

// What is said to a group or to everybody reaches the members on all nodes with endpoints, once, and no other node. An
// endpoint that is no member gets none of what bridges look at: all groups but those of the link in IPv4.
func TestGroupsReachMembersOfAllNodes(t *testing.T) {
	for _, v4 := range []bool{true, false} {
		t.Run(fmt.Sprintf("IPv4 %v", v4), func(t *testing.T) {
			w := newWorld(t, 4, v4, !v4, false)
			w.join(nil)
			w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
			w.box("near", w.nodes[0], "10.5.1.3/16", "fd05::1:3/64")
			w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
			w.box("deaf", w.nodes[1], "10.5.2.3/16", "fd05::2:3/64")
			w.box("c", w.nodes[2], "10.5.3.2/16", "fd05::3:2/64")
			w.converge()
			deaf, empty := w.count("deaf", "eth0", groupPort), w.count("node4", "eth0", 4789)
			w.snooped()
			before := deaf()
			for _, g := range groups {
				var members []listener
				for _, box := range []string{"near", "b", "c"} {
					members = append(members, w.listen(box, groupOf(g.to)))
					w.heard(w.homes[box].name, g.to, box)
				}
				w.say("a", g.to, "to "+g.to)
				for _, m := range members {
					m.hears("to "+g.to, g.from)
					m.hearsNothing()
					m.conn.Close()
				}
				got := deaf() - before
				before += got
				if want := map[bool]int{true: 0, false: 1}[snooping(g.to)]; got != want {
					t.Errorf("%s: who is no member got %d, want %d", g.to, got, want)
				}
			}
			if n := empty(); n != 0 {
				t.Errorf("a node without endpoints got %d datagrams", n)
			}
			w.pings("a", "fd05::2:2", true)
			w.pings("a", "10.5.3.2", true)
		})
	}
}

// snooped waits until the bridges look at who is a member. Once they have begun to ask they send everything to all for
// as long as an answer may take.
func (w *world) snooped() {
	w.tb.Helper()
	deaf := w.count("deaf", "eth0", 9)
	await.Done(w.tb, "bridges send to members alone", func() error {
		before := deaf()
		for _, group := range []string{"239.9.9.9", "ff05::9"} {
			err := w.env.Do(w.path("a"), func() error {
				c, err := net.Dial("udp", net.JoinHostPort(group, "9"))
				if err != nil {
					return err
				}
				_, err = c.Write([]byte("x"))
				return errors.Join(err, c.Close())
			})
			if err != nil {
				return err
			}
		}
		w.pings("a", "10.5.2.3", true) // what was sent before has come
		if n := deaf() - before; n > 0 {
			return fmt.Errorf("who is no member got %d", n)
		}
		return nil
	})
}

// snooping reports whether bridges look at who is a member of a group: RFC 4541 section 2.1.2 for IPv4.
func snooping(to string) bool {
	a := netip.MustParseAddr(to)
	return a.IsMulticast() && !a.IsLinkLocalMulticast() || a.Is6()
}

func groupOf(to string) string { return netip.MustParseAddr(to).WithZone("").String() }

// heard waits for a node's bridge to know of a member.
func (w *world) heard(node, to, box string) {
	w.tb.Helper()
	if !snooping(to) {
		return
	}
	port, want := "port "+hostEnd(w, box)+" ", "grp "+groupOf(to)+" "
	await.Done(w.tb, box+" is known as a member of "+to, func() error {
		for line := range strings.Lines(w.must(node, "bridge", "mdb", "show")) {
			if strings.Contains(line, port) && strings.Contains(line, want) {
				return nil
			}
		}
		return fmt.Errorf("not on %s", node)
	})
}

// hostEnd is the port of a box on its node's bridge.
func hostEnd(w *world, box string) string {
	w.tb.Helper()
	for _, l := range w.homes[box].want.Links {
		if string(l.Peer.NS) == box {
			return l.Name
		}
	}
	w.tb.Fatalf("%s has no link", box)
	return ""
}

// What is for many goes to a node for as long as it has endpoints, and for as long as the network wants it.
func TestCopiesEndWithTheLastEndpoint(t *testing.T) {
	w := newWorld(t, 3, true, false, false)
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
	w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
	w.box("b2", w.nodes[1], "10.5.2.3/16")
	w.box("c", w.nodes[2], "10.5.3.2/16", "fd05::3:2/64")
	w.converge()
	at2, at3 := w.count("node2", "eth0", 4789), w.count("node3", "eth0", 4789)
	c := w.listen("c", "224.0.0.251")
	say := func(want2, want3 int) {
		t.Helper()
		before2, before3 := at2(), at3()
		w.say("a", "224.0.0.251", "hello")
		c.hears("hello", "10.5.1.2")
		if n2, n3 := at2()-before2, at3()-before3; n2 != want2 || n3 != want3 {
			t.Errorf("the nodes got %d and %d, want %d and %d", n2, n3, want2, want3)
		}
	}
	say(1, 1)
	w.forget("b")
	w.converge()
	say(1, 1)
	w.forget("b2")
	w.converge()
	say(0, 1)

	// The device goes with all its entries; a pass brings them back, and so when others change them.
	w.must("node1", "ip", "link", "del", overlay.LinkName(w.network.ID))
	w.nodes[0].converge()
	say(0, 1)
	for _, change := range []string{
		"bridge link set dev " + overlay.LinkName(w.network.ID) + " mcast_router 0 flood on",
		"ip link set " + bridge.LinkName(w.network.ID) + " type bridge mcast_querier 0",
		"bridge fdb del 00:00:00:00:00:00 dev " + overlay.LinkName(w.network.ID) + " dst 192.0.2.3",
		"bridge fdb append 00:00:00:00:00:00 dev " + overlay.LinkName(w.network.ID) + " dst 192.0.2.2",
	} {
		w.must("node1", strings.Fields(change)...)
		w.nodes[0].converge()
		say(0, 1)
	}
}

// The same MAC on two nodes is whose node it is on: the entry of one elsewhere takes nothing away.
func TestLocalEndpointKeepsItsAddress(t *testing.T) {
	w := newWorld(t, 2, true, false, false)
	w.join(nil)
	w.box("a", w.nodes[0], "10.5.1.2/16")
	w.box("a2", w.nodes[0], "10.5.1.3/16")
	w.converge()
	p := cnm.Peer{ID: cnm.PeerID(w.network.ID, "x"), Network: w.network.ID, Node: "node2", Endpoint: true,
		MAC: plan.MAC{2, 0x42, 0, 0, 0, 2}, Addr4: netip.MustParseAddr("192.0.2.2"),
		Prefixes: []netip.Prefix{netip.MustParsePrefix("10.5.2.9/32")}}
	s, err := overlay.Driver{}.RenderPeer(w.network, p, w.nodes[0].host)
	if err != nil {
		t.Fatal(err)
	}
	have, err := w.nodes[0].kernel.Observe(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	err = w.nodes[0].kernel.Apply(t.Context(), plan.Diff(w.nodes[0].want.Merge(s), have))
	if !errors.Is(err, os.ErrExist) {
		t.Errorf("the entry of one elsewhere was made: %v", err)
	}
	w.pings("a", "10.5.1.3", true)
	w.nodes[0].converge()
}
