package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/plan"
)

// block is the way to the node that has an address by block.
func (m *model) block(a netip.Addr) *plan.FastPeer {
	if p := m.peer(a); p != nil && p.Block {
		return p
	}
	return nil
}

// answer is what comes back of a frame that is to leave by the network's VXLAN device; nil: it leaves.
func (m *model) answer(b []byte) []byte {
	switch t := binary.BigEndian.Uint16(b[12:]); {
	case t == 0x0806 && len(b) >= 42:
		return m.answerARP(b, b[14:42])
	case t == 0x86dd && len(b) >= 14+40+24:
		return m.answerND(b, b[14:])
	}
	return nil
}

// lead is a frame that is to leave by the device as it leaves: what is for a block has its node's MAC address.
func (m *model) lead(b []byte) []byte {
	dst, ok := destination(b)
	p := m.block(dst)
	if !ok || b[0]&1 != 0 || p == nil || m.endpoint(dst, false) != nil {
		return b
	}
	return append(bytes.Clone(p.Via[:]), b[6:]...)
}

// destination is the address that a frame of IP is for.
func destination(b []byte) (netip.Addr, bool) {
	switch t := binary.BigEndian.Uint16(b[12:]); {
	case t == 0x0800 && len(b) >= 14+20:
		return netip.AddrFrom4([4]byte(b[30:34])), true
	case t == 0x86dd && len(b) >= 14+40:
		return netip.AddrFrom16([16]byte(b[38:54])).Unmap(), true
	}
	return netip.Addr{}, false
}

func (m *model) answerARP(b, a []byte) []byte {
	target := netip.AddrFrom4([4]byte(a[24:28]))
	p := m.block(target)
	if !bytes.Equal(a[:8], []byte{0, 1, 8, 0, 6, 4, 0, 1}) || !bytes.Equal(a[8:14], b[6:12]) || p == nil ||
		m.endpoint(target, false) != nil {
		return nil
	}
	out := append(bytes.Clone(b[6:12]), p.Via[:]...)
	out = append(out, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2)
	out = append(append(out, p.Via[:]...), a[24:28]...)
	out = append(append(out, a[8:14]...), a[14:18]...)
	return append(out, b[42:]...)
}

func (m *model) answerND(b, p6 []byte) []byte {
	src, target := netip.AddrFrom16([16]byte(p6[8:24])), netip.AddrFrom16([16]byte(p6[48:64]))
	length := int(binary.BigEndian.Uint16(p6[4:]))
	if p6[0]>>4 != 6 || p6[6] != 58 || p6[7] != 255 || length < 24 || length != len(p6)-40 || p6[40] != 135 ||
		p6[41] != 0 || src.IsUnspecified() || src.IsMulticast() || target.IsMulticast() {
		return nil
	}
	// An address of IPv4 is none that neighbours solicit, and blocks of IPv4 are mapped ones.
	p := m.block(target.Unmap())
	if p == nil || m.endpoint(target.Unmap(), false) != nil {
		return nil
	}
	na := append([]byte{136, 0, 0, 0, 0x60, 0, 0, 0}, p6[48:64]...)
	na = append(append(na, 2, 1), p.Via[:]...)
	pseudo := append(append(bytes.Clone(p6[48:64]), p6[8:24]...), 0, 0, 0, 32, 0, 0, 0, 58)
	binary.BigEndian.PutUint16(na[2:], checksum(append(pseudo, na...)))
	out := append(bytes.Clone(b[6:12]), p.Via[:]...)
	out = append(out, 0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255)
	return append(append(append(out, p6[48:64]...), p6[8:24]...), na...)
}

// land is what becomes of a frame that comes out of the network's VXLAN device; nil: it is dropped.
func (m *model) land(bridge plan.MAC, b []byte) []byte {
	t := binary.BigEndian.Uint16(b[12:])
	if t == 0x0806 {
		if m.tellsARP(b[14:]) {
			return nil
		}
		return b
	}
	if t == 0x86dd {
		switch lie, answer := m.tellsND(b[14:]); {
		case lie:
			return nil
		case answer:
			return b
		}
	}
	if plan.MAC(b[:6]) != bridge {
		return b
	}
	dst, ok := destination(b)
	to := m.endpoint(dst, false)
	if !ok || to == nil {
		return nil
	}
	return append(bytes.Clone(to.MAC[:]), b[6:]...)
}

// here reports whether an address is one of this node.
func (m *model) here(a netip.Addr) bool {
	p := m.peer(a)
	return m.endpoint(a, false) != nil || p != nil && p.Node == p.Self
}

// tellsARP reports whether an ARP message has an address of this node, or one that is another node's by block at
// another MAC address.
func (m *model) tellsARP(a []byte) bool {
	if len(a) < 28 || !bytes.Equal(a[2:6], []byte{8, 0, 6, 4}) {
		return false
	}
	sender := netip.AddrFrom4([4]byte(a[14:18]))
	p := m.block(sender)
	return m.here(sender) || p != nil && !bytes.Equal(a[8:14], p.Via[:])
}

// tellsND reports the same of neighbour discovery, and whether it says where an address is that nobody here has.
func (m *model) tellsND(p6 []byte) (lie, answer bool) {
	if len(p6) < 40 {
		return false, false
	}
	extension := func(h byte) bool { return h == 0 || h == 43 || h == 44 || h == 60 }
	next, rest, fragment := p6[6], p6[40:], false
	for i := 0; i < 6 && extension(next); i++ {
		if len(rest) < 4 {
			return false, false
		}
		size := 8 * (int(rest[1]) + 1)
		if next == 44 {
			if size, fragment = 8, true; binary.BigEndian.Uint16(rest[2:])>>3 != 0 {
				return false, false
			}
		}
		next = rest[0]
		rest = rest[min(size, len(rest)):]
	}
	switch {
	case extension(next):
		return true, false
	case next != 58 || len(rest) == 0:
		return false, false
	case rest[0] == 133, rest[0] == 135:
		src := netip.AddrFrom16([16]byte(p6[8:24])).Unmap()
		return fragment || m.here(src) || m.block(src) != nil, false
	case rest[0] != 136:
		return false, false
	case fragment:
		return true, false
	case len(rest) < 24:
		return false, false
	}
	target := netip.AddrFrom16([16]byte(rest[8:24])).Unmap()
	p := m.block(target)
	switch {
	case m.here(target):
		return true, false
	case p == nil:
		return false, true
	}
	lie = p6[6] != 58 || binary.BigEndian.Uint16(p6[4:]) != 32 || len(rest) < 32 ||
		!bytes.Equal(rest[24:32], append([]byte{2, 1}, p.Via[:]...))
	return lie, !lie
}

// fillByAddress adds what is in the way of a block: the network's gateway, an endpoint elsewhere that is not with its
// node, and endpoints here that take the slow path.
func (b *bench) fillByAddress() {
	for _, a := range []string{"10.1.25.1", "fd00:1:0:25::1"} {
		at := addr(a)
		b.peers = append(b.peers, plan.FastPeer{Network: network, Prefix: netip.PrefixFrom(at, at.BitLen()),
			Way: plan.FastVXLAN, Node: addr("192.0.2.1"), Self: addr("192.0.2.1"), Link: "up0"})
	}
	for i, p := range b.peers {
		if p.Block && p.Prefix.Contains(addr("10.1.25.0")) {
			p.Prefix, p.Block, p.Via = netip.MustParsePrefix("10.1.25.9/32"), false, plan.MAC{2, 0x42, 0, 0, 0, 9}
			b.peers = append(b.peers[:i:i], append(b.peers[i:], p)...)
			break
		}
	}
	for _, a := range []string{"10.1.1.13", "fd00:1::13", "10.1.25.13", "fd00:1:0:25::13"} {
		b.endpoints = append(b.endpoints, plan.FastEndpoint{Network: network, Addr: addr(a), Link: "vle2", MAC: macB,
			Via: macBridge, MTU: 1400, Slow: true})
	}
}

// arp is a request of the first container.
func arp(target string) []byte {
	b := append([]byte{0, 1, 8, 0, 6, 4, 0, 1}, macA[:]...)
	a, t := addr("10.1.1.11").As4(), addr(target).As4()
	b = append(append(append(b, a[:]...), make([]byte, 6)...), t[:]...)
	frame := ether(plan.MAC{255, 255, 255, 255, 255, 255}, macA, false, append(b, make([]byte, 18)...))
	frame[12], frame[13] = 8, 6
	return frame
}

// nd is a message of neighbour discovery.
func nd(kind byte, src, target string, options ...byte) []byte {
	t := addr(target).As16()
	body := append(append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, t[:]...), options...)
	packet := ip(addr(src), addr("ff02::1:ff00:7"), 58, body)
	packet[7] = 255
	return ether(plan.MAC{0x33, 0x33, 0xff, 0, 0, 7}, macA, true, packet)
}

// seedByAddress makes frames that leave by the network's VXLAN device, or come out of it.
func (b *bench) seedByAddress() {
	link := append([]byte{1, 1}, macA[:]...)
	far := append([]byte{2, 1}, macFar[:]...)
	other := append([]byte{2, 1}, macA[:]...)
	extended := nd(136, "fd00:1:0:25::7", "fd00:1:0:25::7", far...)
	extended = append(append(extended[:54:54], 58, 0, 1, 4, 0, 0, 0, 0), extended[54:]...)
	extended[14+6] = 0
	extended[14+5] += 8
	fragment := bytes.Clone(extended)
	fragment[14+6], fragment[14+42], fragment[14+43] = 44, 0, 1 // the first of several
	told := arp("10.1.1.11")
	told[21] = 2
	copy(told[28:], []byte{10, 1, 25, 7})
	gratuitous := bytes.Clone(told)
	copy(gratuitous[22:], macFar[:])
	otherKind := bytes.Clone(told)
	otherKind[15] = 6 // IEEE 802
	gateway := bytes.Clone(told)
	copy(gateway[28:], []byte{10, 1, 25, 1})
	frames := [][]byte{arp("10.1.25.7"), arp("10.1.25.9"), arp("10.1.25.1"), arp("10.1.1.12"), arp("10.1.26.7"),
		arp("10.1.25.13"), told, gratuitous, otherKind, gateway,
		nd(136, "fd00:1::11", "fd00:1::11", other...), nd(136, "fd00:1:0:25::1", "fd00:1:0:25::1", other...),
		nd(135, "fd00:1::11", "fd00:1:0:25::7", link...), nd(135, "fd00:1::11", "fd00:1:0:25::1", link...),
		nd(135, "fd00:1::11", "fd00:1:0:26::7"), nd(135, "::", "fd00:1:0:25::7"),
		nd(135, "fd00:1::11", "fd00:1:0:25::7", append(link, 14, 1, 1, 2, 3, 4, 5, 6)...),
		nd(135, "fd00:1:0:25::7", "fd00:1::11", link...), nd(133, "fd00:1:0:25::7", "fd00:1::11", link...),
		nd(136, "fd00:1:0:25::7", "fd00:1:0:25::7", far...), nd(136, "fd00:1:0:25::7", "fd00:1:0:25::7", other...),
		nd(136, "fd00:1:0:25::7", "fd00:1:0:25::7"), nd(136, "fd00:1:0:21::7", "fd00:1:0:21::7", other...),
		extended, fragment}
	for _, to := range []string{"10.1.1.11", "10.1.1.13", "10.1.25.7", "192.0.2.1"} {
		frames = append(frames, ether(macBridge, macFar, false, ip(addr("10.1.25.7"), addr(to), 17, udp(1, 2, nil))))
	}
	for _, to := range []string{"fd00:1::11", "fd00:1::13", "fd00:1:0:25::7", "2001:db8::1"} {
		frames = append(frames,
			ether(macBridge, macFar, true, ip(addr("fd00:1:0:25::7"), addr(to), 17, udp(1, 2, nil))),
			ether(macA, macFar, true, ip(addr("fd00:1:0:25::7"), addr(to), 17, udp(1, 2, nil))))
	}
	for _, target := range []string{"fd00:1:0:25::7", "fd00:1:0:21::7", "fd00:1::11"} { // the host has asked
		toHost := nd(136, target, target, far...)
		copy(toHost, macBridge[:])
		frames = append(frames, toHost)
	}
	for i, f := range frames {
		for _, at := range []fastpath.Place{fastpath.AtResolve, fastpath.AtLand} {
			b.seeds = append(b.seeds, seed{fmt.Sprintf("%s %d", at, i), at, f})
		}
	}
}

// judgeByAddress has a program at the VXLAN device and the model judge a frame, and compares them.
func (b *bench) judgeByAddress(at fastpath.Place, frame []byte) error {
	out, code, err := b.path.Judge(at, b.tunnel, frame, 0)
	if err != nil {
		return err
	}
	want, verdict := frame, int32(-1)
	if at == fastpath.AtLand {
		if want = b.land(macBridge, frame); want == nil {
			want, verdict = frame, 2 // TC_ACT_SHOT
		}
	} else if want = b.answer(frame); want != nil {
		verdict = 7 // TC_ACT_REDIRECT
	} else {
		want = b.lead(frame)
	}
	if int32(code) != verdict || !bytes.Equal(out, want) {
		return fmt.Errorf("code %d, want %d; the frame is\n%x, want\n%x", int32(code), verdict, out, want)
	}
	return nil
}

// TestModelByAddress has each kind of verdict among the packets that programs are tried with.
func TestModelByAddress(t *testing.T) {
	b := &bench{}
	for _, prefix := range []string{"10.1.25.0/24", "fd00:1:0:25::/64"} {
		b.peers = append(b.peers, plan.FastPeer{Prefix: netip.MustParsePrefix(prefix), Via: macFar, Block: true})
	}
	b.fillByAddress()
	b.endpoints = append(b.endpoints, plan.FastEndpoint{Addr: addr("10.1.1.11"), MAC: macA},
		plan.FastEndpoint{Addr: addr("fd00:1::11"), MAC: macA})
	b.seedByAddress()
	got := map[string]int{}
	for _, s := range b.seeds {
		if s.at == fastpath.AtResolve {
			switch {
			case b.answer(s.frame) != nil:
				got["answered"]++
			case !bytes.Equal(b.lead(s.frame), s.frame):
				got["led on"]++
			}
			continue
		}
		switch out := b.land(macBridge, s.frame); {
		case out == nil:
			got["dropped"]++
		case bytes.Equal(out, s.frame):
			got["passed"]++
		default:
			got["led"]++
		}
	}
	want := map[string]int{"answered": 3, "led on": 3, "dropped": 29, "passed": 7, "led": 4}
	for what, n := range want {
		if got[what] != n {
			t.Errorf("%s: %d, want %d", what, got[what], n)
		}
	}
}
