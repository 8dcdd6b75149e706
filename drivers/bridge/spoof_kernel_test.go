package bridge_test

import (
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

// A container "b" with addresses .3 tries to be others. On the network "lax",
// which has source validation off, each trick works: that shows that the test
// would notice.
func TestSourceValidation(t *testing.T) {
	bothNetfilters(t, func(t *testing.T, w *world) {
		w.network("front", nil)
		w.network("lax", option("source-validation", "false"))
		w.box("a", "front", 2)
		w.box("b", "front", 3)
		w.box("la", "lax", 2)
		w.box("lb", "lax", 3)
		w.converge()
		w.serve("a", 80)
		w.serve("la", 80)
		for _, c := range []struct {
			victim, attacker, net4, net6 string
			passes                       bool
		}{{"a", "b", "10.1.0.", "fd01::", false}, {"la", "lb", "10.2.0.", "fd02::", true}} {
			w.stealsAddress(c.victim, c.attacker, c.net4, c.net6, c.passes)
			w.poisonsARP(c.attacker, c.net4, c.passes)
			w.poisonsND(c.attacker, c.net6, c.passes)
			w.teachesBridge(c.victim, c.attacker, c.passes)
			w.changesMAC(c.victim, c.attacker, c.net4, c.passes)
		}
	})
}

// stealsAddress sends from an address that was not given.
func (w *world) stealsAddress(victim, attacker, net4, net6 string, passes bool) {
	w.tb.Helper()
	w.must(attacker, "ip", "addr", "add", net4+"66/24", "dev", "eth0")
	w.must(attacker, "ip", "addr", "add", net6+"66/64", "dev", "eth0", "nodad")
	patience := 300 * time.Millisecond
	if passes {
		patience = await.Patience
	}
	for source, to := range map[string]string{net4 + "66": net4 + "2:80", net6 + "66": "[" + net6 + "2]:80"} {
		got := w.ask(attacker, "tcp", to, netip.MustParseAddr(source), patience)
		if (got != "") != passes {
			w.tb.Errorf("from %s's false source %s: got %q, want through=%v", attacker, source, got, passes)
		}
	}
	for source, to := range map[string]string{net4 + "3": net4 + "2:80", net6 + "3": "[" + net6 + "2]:80"} {
		if got := w.ask(attacker, "tcp", to, netip.MustParseAddr(source),
			await.Patience); got != victim+" saw "+source {
			w.tb.Errorf("from %s's own source %s: got %q", attacker, source, got)
		}
	}
}

// neighbour is what the host takes for the MAC of an address.
func (w *world) neighbour(addr string) string {
	w.tb.Helper()
	fields := strings.Fields(w.must("", "ip", "neigh", "show", addr))
	for i, f := range fields {
		if f == "lladdr" {
			return fields[i+1]
		}
	}
	w.tb.Fatalf("no neighbour %s: %v", addr, fields)
	return ""
}

// poisonsARP announces the neighbour's address as its own (RFC 5944 section 4.6).
func (w *world) poisonsARP(attacker, net4 string, passes bool) {
	w.tb.Helper()
	w.pings("", net4+"2", true)
	before := w.neighbour(net4 + "2")
	w.must(attacker, "ip", "addr", "add", net4+"2/32", "dev", "eth0")
	w.try(attacker, "busybox", "arping", "-U", "-c", "1", "-I", "eth0", "-s", net4+"2", net4+"2")
	w.must(attacker, "ip", "addr", "del", net4+"2/32", "dev", "eth0")
	w.turned("ARP", net4+"2", before, passes)
}

// turned checks whether the host believes a false announcement. What is sent over
// a veth pair is received before the sender goes on, give or take a softirq.
func (w *world) turned(how, addr, before string, passes bool) {
	w.tb.Helper()
	deadline := time.Now().Add(300 * time.Millisecond)
	if passes {
		deadline = time.Now().Add(await.Patience)
	}
	for time.Now().Before(deadline) && w.neighbour(addr) == before {
		time.Sleep(10 * time.Millisecond)
	}
	if turned := w.neighbour(addr) != before; turned != passes {
		w.tb.Errorf("%s: the host's neighbour %s turned=%v, want %v", how, addr, turned, passes)
	}
}

// poisonsND sends the host a neighbour advertisement (RFC 4861 section 4.4)
// for its neighbour's address, with its own address as the packet's source.
func (w *world) poisonsND(attacker, net6 string, passes bool) {
	w.tb.Helper()
	victim := net6 + "2"
	w.pings("", victim, true)
	before := w.neighbour(victim)
	const override, targetLinkLayer = 0x20, 2
	target := netip.MustParseAddr(victim).As16()
	msg := append([]byte{136, 0, 0, 0, override, 0, 0, 0}, target[:]...)
	msg = append(msg, targetLinkLayer, 1, 0x02, 0x66, 0x66, 0x66, 0x66, 0x66)
	err := w.env.Do(w.path(attacker), func() error {
		c, err := net.Dial("ip6:ipv6-icmp", net6+"1")
		if err != nil {
			return err
		}
		defer c.Close()
		raw, err := c.(*net.IPConn).SyscallConn()
		if err != nil {
			return err
		}
		var opt error
		if err := raw.Control(func(fd uintptr) {
			opt = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, syscall.IPV6_UNICAST_HOPS, 255)
		}); err != nil || opt != nil {
			return err
		}
		_, err = c.Write(msg)
		return err
	})
	if err != nil {
		w.tb.Fatalf("send a neighbour advertisement: %v", err)
	}
	w.turned("neighbour advertisement", victim, before, passes)
}

// teachesBridge sends, from the victim's hardware address, to a group that bridges do not forward: the frame passes no
// filter, and a bridge that learns from it sends the victim's frames to the attacker.
func (w *world) teachesBridge(victim, attacker string, passes bool) {
	w.tb.Helper()
	of := func(box string) (l plan.Link) {
		for _, l = range w.want.Links {
			if string(l.Peer.NS) == box {
				break
			}
		}
		return l
	}
	mac := of(victim).Peer.MAC
	frame := append([]byte{0x01, 0x80, 0xc2, 0, 0, 0x0e}, mac[:]...) // IEEE 802.1AB
	frame = append(frame, 0x88, 0xcc)
	frame = append(frame, make([]byte, 46)...)
	err := w.env.Do(w.path(attacker), func() error { return send("eth0", frame) })
	if err != nil {
		w.tb.Fatalf("send to a group: %v", err)
	}
	behind := func() string {
		for line := range strings.Lines(w.must("", "bridge", "fdb", "show")) {
			if strings.HasPrefix(line, mac.String()) {
				return strings.Fields(line)[2]
			}
		}
		return ""
	}
	want := of(victim).Name
	if passes {
		want = of(attacker).Name
	}
	await.Value(w.tb, "the port that "+victim+"'s address is behind", want, behind)
}

// send sends a frame by a link of the caller's namespace.
func send(link string, frame []byte) error {
	l, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	return os.NewSyscallError("sendto", unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: l.Index}))
}

// changesMAC sends from another hardware address.
func (w *world) changesMAC(victim, attacker, net4 string, passes bool) {
	w.tb.Helper()
	w.must(attacker, "ip", "link", "set", "eth0", "address", "02:66:66:66:66:66")
	want := ""
	if passes {
		want = victim
	}
	w.reaches(attacker, "tcp", net4+"2:80", want)
}

// IPv6 without addresses of its own still has to be able to ask whether one is in use.
func TestSourceValidationLetsDADThrough(t *testing.T) {
	w := newWorld(t, false)
	w.network("front", func(n *cnm.Network) { n.Options = map[string]string{"mtu": "1400"} })
	w.box("a", "front", 2)
	w.box("b", "front", 3)
	w.converge()
	w.must("b", "sysctl", "-qw", "net.ipv6.conf.eth0.accept_dad=2")
	w.must("b", "ip", "addr", "add", "fd01::2/64", "dev", "eth0")
	await.True(t, "a's address is found in use", func() bool {
		return strings.Contains(w.must("b", "ip", "-6", "addr", "show", "dev", "eth0"), "dadfailed")
	})
	if out := w.must("b", "ip", "link", "show", "eth0"); !strings.Contains(out, "mtu 1400") {
		t.Errorf("option mtu: %s", out)
	}
}
