package udp

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/internal/await"
)

// packet4 builds an IPv4 packet with a payload of n bytes.
func packet4(src, dst string, ttl byte, n int) []byte {
	p := make([]byte, ipv4Header+n)
	p[0] = 0x45
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	p[8], p[9] = ttl, 253 // an experimental protocol, RFC 3692
	s, d := netip.MustParseAddr(src).As4(), netip.MustParseAddr(dst).As4()
	copy(p[12:], s[:])
	copy(p[16:], d[:])
	binary.BigEndian.PutUint16(p[10:], ^sum(p[:ipv4Header], 0))
	return p
}

// packet6 builds an IPv6 packet with a payload of n bytes.
func packet6(src, dst string, hops byte, n int) []byte {
	p := make([]byte, ipv6Header+n)
	p[0] = 0x60
	binary.BigEndian.PutUint16(p[4:], uint16(n))
	p[6], p[7] = 253, hops
	s, d := netip.MustParseAddr(src).As16(), netip.MustParseAddr(dst).As16()
	copy(p[8:], s[:])
	copy(p[24:], d[:])
	return p
}

// edit returns a changed copy, with a checksum that fits when p is IPv4.
func edit(p []byte, change func([]byte)) []byte {
	p = append([]byte(nil), p...)
	change(p)
	if p[0] == 0x45 {
		p[10], p[11] = 0, 0
		binary.BigEndian.PutUint16(p[10:], ^sum(p[:ipv4Header], 0))
	}
	return p
}

func TestHostileDatagrams(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	b.ip("addr add 192.0.2.77/24 dev ul")
	peer := b.packetConn(netip.AddrPortFrom(b.outer, 0)) // another port than the tunnel's
	stranger := b.packetConn(netip.MustParseAddrPort("192.0.2.77:8285"))
	itself := a.packetConn(netip.AddrPortFrom(a.outer, 0))
	good := packet4("10.9.2.2", "10.9.1.2", 9, 100)
	good6 := packet6("fd09:0:0:2::2", "fd09:0:0:1::2", 9, 100)
	for name, c := range map[string]struct {
		from interface {
			WriteToUDPAddrPort([]byte, netip.AddrPort) (int, error)
		}
		data []byte
		want Reason
	}{
		"a known peer's":                {peer, good, ""},
		"a known peer's, replayed":      {peer, good, ""},
		"a known peer's IPv6":           {peer, good6, ""},
		"a replay from elsewhere":       {stranger, good, UnknownPeer},
		"empty":                         {peer, nil, TooShort},
		"one byte":                      {peer, []byte{0x45}, TooShort},
		"half an IPv4 header":           {peer, good[:19], TooShort},
		"half an IPv6 header":           {peer, good6[:39], TooShort},
		"version 5":                     {peer, edit(good, func(p []byte) { p[0] = 0x55 }), BadHeader},
		"header length 16":              {peer, edit(good, func(p []byte) { p[0] = 0x44 }), BadHeader},
		"header longer than the packet": {peer, edit(good[:24], func(p []byte) { p[0], p[3] = 0x4f, 24 }), BadHeader},
		"total length too large":        {peer, edit(good, func(p []byte) { p[3]++ }), BadHeader},
		"total length too small":        {peer, edit(good, func(p []byte) { p[3]-- }), BadHeader},
		"IPv6 payload length too large": {peer, edit(good6, func(p []byte) { p[5]++ }), BadHeader},
		"wrong header checksum":         {peer, append([]byte{0x45, 1}, good[2:]...), BadHeader},
		"TTL 0":                         {peer, packet4("10.9.2.2", "10.9.1.2", 0, 0), TTLExpired},
		"oversized for its header": {peer, append(append([]byte(nil), good...), make([]byte, 30000)...),
			BadHeader},
		"a spoofed source":                {peer, packet4("10.9.3.2", "10.9.1.2", 9, 0), ForeignSource},
		"a spoofed IPv6 source":           {peer, packet6("fd09:0:0:3::2", "fd09:0:0:1::2", 9, 0), ForeignSource},
		"an IPv4-mapped IPv6 source":      {peer, packet6("::ffff:10.9.2.2", "fd09:0:0:1::2", 9, 0), ForeignSource},
		"source 0.0.0.0":                  {peer, packet4("0.0.0.0", "10.9.1.2", 9, 0), ForeignSource},
		"a source of our own":             {peer, packet4("10.9.1.3", "10.9.1.2", 9, 0), Loop},
		"our own packet, from ourselves":  {itself, packet4("10.9.1.3", "10.9.2.2", 9, 0), Loop},
		"a destination elsewhere":         {peer, packet4("10.9.2.2", "198.51.100.1", 9, 0), ForeignDestination},
		"a destination at another remote": {peer, packet4("10.9.2.2", "10.9.2.3", 9, 0), ForeignDestination},
		"broadcast":                       {peer, packet4("10.9.2.2", "255.255.255.255", 9, 0), ForeignDestination},
		"IPv6 multicast":                  {peer, packet6("fd09:0:0:2::2", "ff02::1", 9, 0), ForeignDestination},
		"loopback":                        {peer, packet4("10.9.2.2", "127.0.0.1", 9, 0), ForeignDestination},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.host.Stats(testLink)
			if _, err := c.from.WriteToUDPAddrPort(c.data, netip.AddrPortFrom(a.outer, 8285)); err != nil {
				t.Fatal(err)
			}
			await.True(t, "the datagram is counted", func() bool {
				now := a.host.Stats(testLink)
				if c.want == "" {
					return now.In.Packets == before.In.Packets+1
				}
				// The other node's own multicast may be counted with it, as foreign sources.
				return now.Drops[c.want] == before.Drops[c.want]+1 ||
					c.want == ForeignSource && now.Drops[c.want] > before.Drops[c.want]
			})
			now := a.host.Stats(testLink)
			for r, n := range now.Drops {
				// The node's own multicast goes the other way, as foreign sources.
				if r != c.want && r != ForeignSource && n != before.Drops[r] {
					t.Errorf("counted as %s too", r)
				}
			}
			if c.want != "" && now.In.Packets != before.In.Packets {
				t.Error("it reached the TUN link")
			}
		})
	}
	reaches(t, a, b)
}

// TestForeignSourceStaysInside sends from a source that the node has not been given.
func TestForeignSourceStaysInside(t *testing.T) {
	lab := newLab(t, labConfig{})
	a, b := lab[0], lab[1]
	a.box.ip("addr add 10.8.0.1/32 dev eth0")
	before := b.host.Stats(testLink).In.Packets
	if out, err := a.box.try("ping", "-c", "1", "-W", "1", "-I", "10.8.0.1", b.inner4.String()); err == nil {
		t.Errorf("a foreign source got an answer:\n%s", out)
	}
	if n := a.host.Stats(testLink).Drops[ForeignSource]; n == 0 {
		t.Error("the drop is not counted")
	}
	if in := b.host.Stats(testLink).In.Packets; in != before {
		t.Errorf("%d packets came through", in-before)
	}
}

// FuzzDatagram feeds whatever comes in to the checks of the receiving side: what they let
// through is what the tunnel promises.
func FuzzDatagram(f *testing.F) {
	local := netip.MustParseAddr("192.0.2.1")
	remote := netip.MustParseAddr("192.0.2.2")
	inside := []netip.Prefix{netip.MustParsePrefix("10.9.1.0/24"), netip.MustParsePrefix("fd09:0:0:1::/64")}
	theirs := []netip.Prefix{netip.MustParsePrefix("10.9.2.0/24"), netip.MustParsePrefix("fd09:0:0:2::/64")}
	tab := newTable(local, 8285, inside, map[netip.Prefix]netip.Addr{theirs[0]: remote, theirs[1]: remote})
	f.Add(packet4("10.9.2.2", "10.9.1.2", 9, 10))
	f.Add(packet6("fd09:0:0:2::2", "fd09:0:0:1::2", 9, 10))
	f.Add(packet4("10.9.1.2", "10.9.2.2", 1, 10))
	f.Add([]byte{0x45})
	f.Fuzz(func(t *testing.T, p []byte) {
		in := &inbound{t: &tunnel{}}
		in.t.spec.Local = local
		_, why := in.refuse(tab, remote, p)
		if _, again := in.refuse(tab, remote, p); again != why {
			t.Fatalf("first %q, then %q", why, again)
		}
		if _, other := in.refuse(tab, netip.MustParseAddr("192.0.2.3"), p); other != UnknownPeer {
			t.Fatalf("a stranger's datagram: %q", other)
		}
		if why != "" {
			return
		}
		v6 := p[0]>>4 == 6
		src, dst := source(p, v6), netip.Addr{}
		if v6 {
			dst = netip.AddrFrom16([16]byte(p[24:40]))
		} else {
			dst = netip.AddrFrom4([4]byte(p[16:20]))
		}
		i := 0
		if v6 {
			i = 1
		}
		if !theirs[i].Contains(src) || !inside[i].Contains(dst) {
			t.Fatalf("let %s to %s through", src, dst)
		}
	})
}

// FuzzInner feeds packets to everything that the sending side does with one.
func FuzzInner(f *testing.F) {
	f.Add(packet4("10.9.1.2", "10.9.2.2", 9, 10))
	f.Add(packet4("10.9.1.2", "10.9.2.2", 1, 1400))
	f.Add(packet6("fd09:0:0:1::2", "fd09:0:0:2::2", 1, 1400))
	f.Add(edit(packet6("fd09:0:0:1::2", "fd09:0:0:2::2", 1, 64), func(p []byte) { p[6], p[40], p[41] = 0, 43, 1 }))
	f.Fuzz(func(t *testing.T, p []byte) {
		h, why := parse(p)
		if why != "" {
			return
		}
		for c := unreachable; c <= tooLarge; c++ {
			if !mayComplain(p, h.v6, c) {
				continue
			}
			m := errorMessage(p, h.v6, c, 1400)
			if len(m) > 1280-ipv6Header || !h.v6 && (len(m) > 576-ipv4Header || sum(m, 0) != 0xffff) {
				t.Fatalf("an error of %d bytes, checksum %#x", len(m), sum(m, 0))
			}
			if !h.v6 && mayComplain(edit(packet4("10.9.1.1", "10.9.1.2", 9, len(m)), func(q []byte) {
				q[9] = 1
				copy(q[ipv4Header:], m)
			}), false, c) {
				t.Fatal("an error about an error")
			}
		}
		if h.ttl == 0 {
			return
		}
		decrement(p, h.v6)
		after, why := parse(p)
		if why != "" || after.ttl != h.ttl-1 || after.src != h.src || after.dst != h.dst {
			t.Fatalf("%+v became %+v, %q", h, after, why)
		}
	})
}
