package daemon_test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/internal/await"
)

// echoRequest is an IPv4 packet.
func echoRequest(src, dst netip.Addr) []byte {
	sum := func(b []byte) {
		var s uint32
		for i := 0; i < len(b); i += 2 {
			s += uint32(binary.BigEndian.Uint16(b[i:]))
		}
		at := 2 // of an ICMP message
		if b[0] == 0x45 {
			at = 10
		}
		binary.BigEndian.PutUint16(b[at:], ^uint16(s&0xffff+s>>16))
	}
	b := append([]byte{0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0}, append(src.AsSlice(), dst.AsSlice()...)...)
	message := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	sum(b)
	sum(message)
	return append(b, message...)
}

// datagram sends one from the other end of the underlay, without a checksum, as tunnels do.
func (w *world) datagram(from netip.Addr, port uint16, payload []byte) {
	w.t.Helper()
	err := w.Do(w.far, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_NO_CHECK, 1); err != nil {
			return err
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()}); err != nil {
			return err
		}
		return unix.Sendto(fd, payload, 0, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}, Port: int(port)})
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// tunnel is what a forger knows of a network's end on the node.
type tunnel struct {
	port uint16
	vni  int
	mac  net.HardwareAddr // whom frames are for; nil: there are none
}

// wrap is a packet as it is in a datagram.
func (u tunnel) wrap(packet []byte) []byte {
	if u.mac == nil {
		return packet
	}
	b := []byte{8, 0, 0, 0, byte(u.vni >> 16), byte(u.vni >> 8), byte(u.vni), 0}
	return append(append(append(append(b, u.mac...), 2, 9, 9, 9, 9, 9), 8, 0), packet...)
}

// tunnelOf finds a network's tunnel on the node.
func (w *world) tunnelOf(network string, here *apiv1.Sandbox) (u tunnel) {
	w.t.Helper()
	if network == "udp" {
		return tunnel{port: 8285}
	}
	n, err := w.client.Networks.Inspect(w.t.Context(), &apiv1.InspectNetworkRequest{Network: network})
	if err != nil {
		w.t.Fatal(err)
	}
	words := strings.Fields(w.Sh("ip -o -d link show vlx-" + n.Id[:8]))
	for i, word := range words {
		switch word {
		case "id":
			fmt.Sscan(words[i+1], &u.vni)
		case "dstport":
			fmt.Sscan(words[i+1], &u.port)
		case "link/ether":
			u.mac, err = net.ParseMAC(words[i+1])
		}
	}
	for _, e := range here.Endpoints {
		if network == "overlay" && e.Network == network {
			u.mac, err = net.ParseMAC(e.MacAddress)
		}
	}
	if err != nil || u.vni == 0 || u.port == 0 || u.mac == nil {
		w.t.Fatalf("tunnel of %s: %+v, %v", network, u, err)
	}
	return u
}

// TestForgersMeetTheFastPath sends datagrams that no node sends to each tunnel of a node with a fast path, and those of
// a node with addresses that are not its own. None takes the fast path, which what the other node sends in truth does.
func TestForgersMeetTheFastPath(t *testing.T) {
	w, far, here, there := pairWith(t, "auto")
	w.Sh("nsenter --net=" + w.far + " ip addr add 192.0.2.77/24 dev up1")
	node, alien := netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.77")
	seen := func() (echoes int) {
		t.Helper()
		fmt.Sscan(w.Run("nsenter", "--net="+here.NetnsPath, "awk", `/^Icmp:/ && ++n == 2 { print $10 }`,
			"/proc/net/snmp"), &echoes)
		return echoes
	}
	for _, d := range []string{"vxlan", "udp", "overlay"} {
		c := w.reach(here, addressOn(t, there, d, true))
		talk(t, d, c)
		c.Close()
		await.Value(t, d+": the connection is over", "", func() string {
			return w.Run("nsenter", "--net="+here.NetnsPath, "ss", "-Htn")
		})
		self, peer, end := addressOn(t, here, d, true), addressOn(t, there, d, true), w.tunnelOf(d, here)
		other := end
		other.vni ^= 1
		if end.mac == nil {
			other.port++
		}
		send := func(from netip.Addr, end tunnel, source netip.Addr) {
			t.Helper()
			w.datagram(from, end.port, end.wrap(echoRequest(source, self)))
		}
		// truly is what the other node sends in truth. It gets in, and its answer out, by the fast path.
		truly := func(before int, fast uint64) {
			t.Helper()
			send(node, end, peer)
			await.True(t, d+": what is true gets in", func() bool {
				return seen() > before && w.fastPackets(d) >= fast+2
			})
			if got := w.fastPackets(d) - fast; got != 2 {
				t.Errorf("%s: %d packets took the fast path, want two", d, got)
			}
		}
		before, fast := seen(), w.fastPackets(d)
		send(alien, end, peer)
		send(alien, end, alien)
		send(node, other, peer)
		truly(before, fast)
		if got := seen() - before; got != 1 {
			t.Errorf("%s: %d packets got in, want one", d, got)
		}
		// What else a node may send is the stack's to say.
		before, fast = seen(), w.fastPackets(d)
		for _, source := range []netip.Addr{self, self.Next(), alien, node} {
			send(node, end, source)
		}
		truly(before, fast)
	}
	w.Sh("nsenter --net=" + w.far + " ip addr del 192.0.2.77/24 dev up1")
	w.dismantle(far, here, there)
}
