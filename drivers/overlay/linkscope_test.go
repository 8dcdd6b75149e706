package overlay_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
)

// ofLink are frames from the first box that are for its own link alone, and last one that is for everybody.
func ofLink() (names []string, frames [][]byte) {
	v6 := func(icmp ...byte) []byte { return frame(58, "fd05::1:2", "ff02::1", append(icmp, make([]byte, 24)...)) }
	for _, f := range []struct {
		name  string
		frame []byte
	}{
		{"IGMP query", frame(2, "10.5.1.2", "224.0.0.1", []byte{0x11, 10, 0xee, 0xf5, 0, 0, 0, 0})},
		{"MLD query", v6(130)}, {"MLD report", v6(131)}, {"MLD done", v6(132)}, {"router advertisement", v6(134)},
		{"neighbour advertisement", v6(136)}, {"redirect", v6(137)}, {"MLDv2 report", v6(143)},
		{"echo request", v6(128)},
	} {
		names, frames = append(names, f.name), append(frames, f.frame)
	}
	return names, frames
}

// frame is an Ethernet frame to a group or to everybody, of the first box. The flow label, and IPv4's identification,
// tell it from those that the box sends by itself. Nothing that filters it looks at checksums.
func frame(proto byte, from, to string, payload []byte) []byte {
	src, dst := netip.MustParseAddr(from), netip.MustParseAddr(to)
	eth := []byte{0x33, 0x33, 0, 0, 0, 1, 2, 0x42, 0, 0, 0, 1, 0x86, 0xdd}
	ip := []byte{0x60, 0, 0xbe, 0xef, 0, byte(len(payload)), proto, 255}
	if src.Is4() {
		eth = []byte{1, 0, 0x5e, 0, 0, 1, 2, 0x42, 0, 0, 0, 1, 8, 0}
		ip = []byte{0x45, 0, 0, byte(20 + len(payload)), 0xbe, 0xef, 0, 0, 1, proto, 0, 0}
	}
	return slices.Concat(eth, ip, src.AsSlice(), dst.AsSlice(), payload)
}

// sends has a box put a frame on its link.
func (w *world) sends(box string, b []byte) {
	w.tb.Helper()
	err := w.env.Do(w.path(box), func() error {
		link, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, b, 0, &unix.SockaddrLinklayer{Ifindex: link.Index})
	})
	if err != nil {
		w.tb.Fatal(err)
	}
}

// frames counts the frames of [frame] that come to another one, and returns the count.
func (w *world) frames(box string) func() string {
	w.tb.Helper()
	w.must(box, "nft", "table netdev frames {\ncounter got {}\nchain in {\ntype filter hook ingress device eth0 "+
		"priority 0;\nip id 0xbeef counter name got\nip6 flowlabel 0xbeef counter name got\n}\n}")
	w.tb.Cleanup(func() { w.must(box, "nft", "delete", "table", "netdev", "frames") })
	return func() string {
		_, after, _ := strings.Cut(w.must(box, "nft", "list", "counter", "netdev", "frames", "got"), "packets ")
		n, _, _ := strings.Cut(after, " ")
		return n
	}
}

// What routers, bridges and members say to those on their own link stays on the node, also where containers may send
// as they like, and is not believed of other nodes. Where they may not, no neighbour gets what is for routers to say.
func TestWhatIsOfTheLinkStaysThere(t *testing.T) {
	for _, validation := range []bool{true, false} {
		t.Run(fmt.Sprintf("validation %v", validation), func(t *testing.T) {
			w := newWorld(t, 2, true, false, false)
			w.join(func(n *cnm.Network) {
				n.Options = map[string]string{"source-validation": fmt.Sprint(validation)}
			})
			w.box("a", w.nodes[0], "10.5.1.2/16", "fd05::1:2/64")
			w.box("near", w.nodes[0], "10.5.1.3/16", "fd05::1:3/64")
			w.box("b", w.nodes[1], "10.5.2.2/16", "fd05::2:2/64")
			w.converge()
			near, far := w.frames("near"), w.frames("b")
			w.countUnderlay()
			names, frames := ofLink()
			last := len(frames) - 1
			for _, b := range frames {
				w.sends("a", b)
			}
			await.Value(t, "frames to a box elsewhere after "+names[last], "1", far)
			if n := w.counted("sent"); n != "1" {
				t.Errorf("%s frames left the node, want 1", n)
			}
			if n := near(); (n == "4") != validation { // with validation members' reports, and the last
				t.Errorf("a neighbour got %s frames", n)
			}

			// Another node lets them out.
			for _, b := range frames {
				vxlan := binary.BigEndian.AppendUint32([]byte{8, 0, 0, 0}, w.network.Cluster.VNI<<8)
				w.tunnelled(append(vxlan, b...))
			}
			await.Value(t, "frames to a box elsewhere that came out of a tunnel", "2", far)

			// The host has the gateway's address, as has the other one.
			before := w.counted("sent")
			w.must("node1", "sh", "-c", "ping -c1 -W0.1 -I 10.5.0.1 224.0.0.5; ping -c1 -W0.1 -I fd05::1 ff05::5; true")
			w.pings("node1", "10.5.1.2", true)
			if n := w.counted("sent"); n != before {
				t.Errorf("the host's own frames went out: %s after %s", n, before)
			}
		})
	}
}
