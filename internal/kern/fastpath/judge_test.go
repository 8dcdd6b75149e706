package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/kern/fastpath"
	"github.com/vethloom/vethloom/internal/kern/kerntest"
	"github.com/vethloom/vethloom/plan"
)

// bench is the programs with tables to judge packets by, and the model with the same ones.
type bench struct {
	model
	path                   *fastpath.Path
	env                    *kerntest.Env
	sender, uplink, tunnel uint32 // links
	seeds                  []seed
}

// seed is a packet that takes the fast path, before it is changed.
type seed struct {
	name  string
	at    fastpath.Place
	frame []byte
}

func newBench(t testing.TB, env *kerntest.Env) *bench {
	b := &bench{env: env}
	env.Sh(`ip link add vle1 type veth peer name x1; ip link add vle2 type veth peer name x2
		ip link add up0 address 02:00:00:00:00:99 type veth peer name x3; ip link add vlx1 type veth peer name x4`)
	t.Cleanup(func() { env.Sh("ip link del vle1; ip link del vle2; ip link del up0; ip link del vlx1") })
	var err error
	b.path, err = fastpath.Open(func(f func() error) error { return env.Do("", f) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.path.Close() })
	b.fill(t)
	for _, enter := range []bool{false, true} {
		b.seed(enter)
	}
	b.seedByAddress()
	return b
}

func (b *bench) index(t testing.TB, link string) uint32 {
	t.Helper()
	var i int
	if _, err := fmt.Sscan(b.env.Sh("ip -o link show "+link+" | cut -d: -f1"), &i); err != nil {
		t.Fatal(err)
	}
	return uint32(i)
}

var (
	macA, macB, macBridge = plan.MAC{2, 0x42, 0, 0, 0, 1}, plan.MAC{2, 0x42, 0, 0, 0, 2}, plan.MAC{2, 0, 0, 0, 0, 1}
	macFar, macUplink     = plan.MAC{2, 0x42, 0, 0, 0, 3}, plan.MAC{2, 0, 0, 0, 0, 0x99}
	macHere, macThere     = plan.MAC{2, 0, 0, 0, 1, 1}, plan.MAC{2, 0, 0, 0, 1, 2}
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// fill has two endpoints, and a node that is reached by each way over each family of the underlay.
func (b *bench) fill(t testing.TB) {
	t.Helper()
	for _, e := range []struct {
		addr, link string
		mac        plan.MAC
	}{{"10.1.1.11", "vle1", macA}, {"fd00:1::11", "vle1", macA}, {"10.1.1.12", "vle2", macB},
		{"fd00:1::12", "vle2", macB}} {
		for _, plain := range []bool{false, true} {
			b.endpoints = append(b.endpoints, plan.FastEndpoint{Network: network, Addr: addr(e.addr), Plain: plain,
				Link: e.link, MAC: e.mac, Via: macBridge, MTU: 1400, Publishes: true})
		}
	}
	for _, e := range []string{"10.1.1.11", "fd00:1::11", "10.1.1.12", "fd00:1::12"} {
		b.ports = append(b.ports, plan.FastPort{Network: network, Addr: addr(e), Proto: plan.TCP, Port: 8080},
			plan.FastPort{Network: network, Addr: addr(e), Proto: plan.UDP, Port: 53})
	}
	for i, w := range b.ways() {
		p := plan.FastPeer{Network: network, Way: w.way, Node: addr("192.0.2.2"), Self: addr("192.0.2.1"), Link: "up0",
			MTU: 1380, VNI: uint32(70 + i), Port: uint16(8000 + i), Via: macBridge, Routed: w.routed,
			SourceMAC: macHere, DestMAC: macThere}
		if w.ipv6 {
			p.Node, p.Self = addr("2001:db8::2"), addr("2001:db8::1")
		}
		if !w.routed {
			p.Via = macFar
		}
		for _, prefix := range []string{fmt.Sprintf("10.1.%d.0/24", 20+i), fmt.Sprintf("fd00:1:0:%d::/64", 20+i)} {
			p.Prefix = netip.MustParsePrefix(prefix)
			p.Block = !w.routed
			b.peers = append(b.peers, p)
		}
		end := plan.FastTunnel{Port: p.Port, IPv6: w.ipv6, Way: w.way, Self: p.Self, MAC: macHere, Routed: w.routed}
		switch w.way {
		case plan.FastVXLAN:
			b.tunnels = append(b.tunnels, end)
			end.VNI = p.VNI
		case plan.FastUDP:
			end.Link = "vle2"
		}
		if end.Network = network; w.way != plan.FastPlain {
			b.tunnels = append(b.tunnels, end)
		}
	}
	for _, own := range []string{"10.1.1.0/24", "fd00:1::/64"} { // of udp
		b.peers = append(b.peers, plan.FastPeer{Network: network, Way: plan.FastUDP, Node: addr("192.0.2.1"),
			Self: addr("192.0.2.1"), Link: "up0", Port: 8001, Prefix: netip.MustParsePrefix(own)})
	}
	b.fillByAddress()
	b.sender, b.uplink, b.tunnel = b.index(t, "vle1"), b.index(t, "up0"), b.index(t, "vlx1")
	resolve := func(link string) (uint32, error) { return b.index(t, link), nil }
	errs := []error{b.path.Attach(b.sender, plan.FastProgram{Link: "vle1", Network: network, MAC: macA}),
		b.path.Attach(b.tunnel, plan.FastProgram{Link: "vlx1", Network: network, MAC: macBridge, Bridged: true})}
	for _, e := range b.endpoints {
		errs = append(errs, b.path.PutEndpoint(e, resolve))
	}
	for _, p := range b.ports {
		errs = append(errs, b.path.PutPort(p))
	}
	for _, p := range b.peers {
		errs = append(errs, b.path.PutPeer(p, b.uplink, fastpath.Hop{Link: b.uplink, Addr: p.Node}))
	}
	for _, e := range b.tunnels {
		errs = append(errs, b.path.PutTunnel(e, resolve))
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) ways() []across {
	return []across{
		{way: plan.FastPlain, routed: true},
		{way: plan.FastUDP, routed: true}, {way: plan.FastUDP, routed: true, ipv6: true},
		{way: plan.FastVXLAN, routed: true}, {way: plan.FastVXLAN, routed: true, ipv6: true},
		{way: plan.FastVXLAN}, {way: plan.FastVXLAN, ipv6: true},
	}
}

// ether, ip and l4 write headers; a packet is what they make around what they are given.
func ether(dst, src plan.MAC, v6 bool, payload []byte) []byte {
	b := append(append([]byte{}, dst[:]...), src[:]...)
	if v6 {
		b = append(b, 0x86, 0xdd)
	} else {
		b = append(b, 8, 0)
	}
	return append(b, payload...)
}

func ip(src, dst netip.Addr, proto byte, payload []byte) []byte {
	if src.Is6() {
		b := []byte{0x60, 0, 0, 0, 0, 0, proto, 64}
		binary.BigEndian.PutUint16(b[4:], uint16(len(payload)))
		return append(append(append(b, src.AsSlice()...), dst.AsSlice()...), payload...)
	}
	b := []byte{0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, proto, 0, 0}
	b = append(append(b, src.AsSlice()...), dst.AsSlice()...)
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[10:], checksum(b))
	return append(b, payload...)
}

func udp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func tcp(sport, dport uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, sport)
	b = binary.BigEndian.AppendUint16(b, dport)
	b = append(b, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0)
	return append(b, payload...)
}

// seed makes packets of every protocol that go out by every way, or come in by it.
func (b *bench) seed(enter bool) {
	data := bytes.Repeat([]byte("x"), 100)
	for _, v6 := range []bool{false, true} {
		here, near, host, echo := addr("10.1.1.11"), addr("10.1.1.12"), addr("10.1.1.1"), byte(1)
		ping := append([]byte{8, 0, 0, 0, 0, 1, 0, 1}, data...)
		if v6 {
			here, near, host, echo = addr("fd00:1::11"), addr("fd00:1::12"), addr("fd00:1::1"), 58
			ping[0] = 128
		}
		for _, l4 := range []struct {
			name  string
			proto byte
			body  []byte
		}{{"tcp", 6, tcp(1000, 2000, data)}, {"udp", 17, udp(1000, 2000, data)}, {"ping", echo, ping}} {
			add := func(name string, frame []byte) {
				name = fmt.Sprintf("%s %s enter=%v v6=%v", name, l4.name, enter, v6)
				at := fastpath.AtLeave
				if enter {
					at = fastpath.AtEnter
				}
				b.seeds = append(b.seeds, seed{name, at, frame})
			}
			if !enter {
				add("near", ether(macB, macA, v6, ip(here, near, l4.proto, l4.body)))
			}
			for i, w := range b.ways() {
				far := addr(fmt.Sprintf("10.1.%d.7", 20+i))
				if v6 {
					far = addr(fmt.Sprintf("fd00:1:0:%d::7", 20+i))
				}
				if !enter {
					to := macBridge
					if !w.routed {
						to = macFar
					}
					add(w.String(), ether(to, macA, v6, ip(here, far, l4.proto, l4.body)))
					continue
				}
				packet := ip(far, here, l4.proto, l4.body)
				add(w.String(), b.wrap(i, w, macA, v6, packet))
				if !w.routed {
					add(w.String()+" by the bridge", b.wrap(i, w, macBridge, v6, packet))
				}
				if w.way == plan.FastUDP {
					add(w.String()+" to the host", b.wrap(i, w, macA, v6, ip(far, host, l4.proto, l4.body)))
				}
			}
		}
	}
}

// wrap is a packet as the other node sends it.
func (b *bench) wrap(i int, w across, to plan.MAC, v6 bool, packet []byte) []byte {
	node, self := addr("192.0.2.2"), addr("192.0.2.1")
	if w.ipv6 {
		node, self = addr("2001:db8::2"), addr("2001:db8::1")
	}
	switch w.way {
	case plan.FastUDP:
		packet = ip(node, self, 17, udp(40000, uint16(8000+i), packet))
	case plan.FastVXLAN:
		dst, src := macHere, macThere
		if !w.routed {
			dst, src = to, macFar
		}
		frame := append([]byte{8, 0, 0, 0, 0, 0, byte(70 + i), 0}, ether(dst, src, v6, packet)...)
		packet = ip(node, self, 17, udp(40000, uint16(8000+i), frame))
	default:
		return ether(macUplink, plan.MAC{2, 9, 9, 9, 9, 9}, v6, packet)
	}
	return ether(macUplink, plan.MAC{2, 9, 9, 9, 9, 9}, w.ipv6, packet)
}

// judge has a program and the model judge a frame, and compares them.
func (b *bench) judge(at fastpath.Place, frame []byte, gso int) error {
	if len(frame) < 14 {
		return nil
	}
	index, want := b.sender, verdict{}
	switch at {
	case fastpath.AtEnter:
		index, want = b.uplink, b.enter(macUplink, frame, gso)
	case fastpath.AtLeave:
		want = b.leave(b.endpoints[0], frame, gso)
	default:
		return b.judgeByAddress(at, frame)
	}
	out, code, err := b.path.Judge(at, index, frame, gso)
	if err != nil {
		return err
	}
	if gso > 0 && want.tunnelled() {
		return nil // of what kind segments are cannot be told in a trial, and the kernel makes no room in others
	}
	if got := code == 7; got != want.fast { // TC_ACT_REDIRECT
		return fmt.Errorf("fast=%v, want %v (code %d)", got, want.fast, int32(code))
	}
	if !want.fast {
		if int32(code) != -1 || !bytes.Equal(out, frame) {
			return fmt.Errorf("code %d, and the frame is changed: %x", int32(code), out)
		}
		return nil
	}
	if want.aside {
		if expect := ether(plan.MAC(frame[:6]), plan.MAC(frame[6:12]), frame[want.at]>>4 == 6,
			frame[want.at:]); !bytes.Equal(out, expect) {
			return fmt.Errorf("aside goes\n%x, want\n%x", out, expect)
		}
		return nil
	}
	return b.compare(want, frame, out)
}

// compare looks at what a program has made of a frame.
func (b *bench) compare(want verdict, frame, out []byte) error {
	if want.peer == nil || want.peer.Way == plan.FastPlain {
		expect := bytes.Clone(frame)
		if at := want.at; at > 0 {
			e := ether(want.to.MAC, plan.MAC(frame[6:12]), frame[at]>>4 == 6, frame[at:])
			if want.hops {
				copy(e[6:12], want.to.Via[:])
			} else if at > 14 {
				copy(e[6:12], frame[at-8:at-2])
			}
			expect = e
		}
		if want.hops {
			hop(expect[14:])
		}
		if !bytes.Equal(out, expect) {
			return fmt.Errorf("the frame is\n%x, want\n%x", out, expect)
		}
		return nil
	}
	return b.unwrapped(want, frame, out)
}

// hop counts one hop.
func hop(p []byte) {
	if p[0]>>4 == 6 {
		p[7]--
		return
	}
	p[8]--
	p[10], p[11] = 0, 0
	binary.BigEndian.PutUint16(p[10:], checksum(p[:20]))
}

// unwrapped takes a frame out of its tunnel as the other node would, and compares it with what the container has sent.
func (b *bench) unwrapped(want verdict, frame, out []byte) error {
	p := want.peer
	v6 := p.Node.Is6()
	if is6, ok := family(out); !ok || is6 != v6 {
		return fmt.Errorf("the outer family is wrong: %x", out)
	}
	outer, ok := parse(out[14:], v6)
	if !ok || !outer.transport(out[14:], v6, false) || outer.src != p.Self || outer.dst != p.Node || outer.l4 != 17 ||
		outer.dport != p.Port || outer.sport < 32768 || outer.len != len(out)-14 || outer.hops != 64 {
		return fmt.Errorf("the outer header is wrong: %+v of %x", outer, out)
	}
	at := 14 + outer.ip + 8
	length := int(binary.BigEndian.Uint16(out[at-4:]))
	if length != len(out)-14-outer.ip || out[at-2] != 0 || out[at-1] != 0 {
		return fmt.Errorf("the UDP header is wrong: %x", out[at-8:at])
	}
	expect := bytes.Clone(frame)
	if want.hops {
		hop(expect[14:])
	}
	if p.Way == plan.FastVXLAN {
		vxlan := []byte{8, 0, 0, 0, byte(p.VNI >> 16), byte(p.VNI >> 8), byte(p.VNI), 0}
		if !bytes.Equal(out[at:at+8], vxlan) {
			return fmt.Errorf("the VXLAN header is wrong: %x", out[at:at+8])
		}
		if p.Routed {
			copy(expect, p.DestMAC[:])
			copy(expect[6:], p.SourceMAC[:])
		}
		at += 8
	} else {
		expect = expect[14:]
	}
	if !bytes.Equal(out[at:], expect) {
		return fmt.Errorf("inside is\n%x, want\n%x", out[at:], expect)
	}
	return nil
}

// change makes another frame of a seed, as the numbers say.
func change(r *rand.Rand, frame []byte) ([]byte, int) {
	b, gso := bytes.Clone(frame), 0
	for range r.IntN(4) {
		switch at := r.IntN(len(b)); r.IntN(9) {
		case 0:
			b[at] = byte(r.Uint32())
		case 1, 2: // headers are at the front
			b[r.IntN(min(len(b), 120))] ^= 1 << r.IntN(8)
		case 3:
			b = b[:max(at, 14)]
		case 4:
			b = append(b, make([]byte, r.IntN(1600))...)
		case 5:
			gso = r.IntN(1500)
		case 6: // a header with another content and a right checksum
			if len(b) >= 34 && b[12] == 8 && b[13] == 0 {
				b[14+r.IntN(20)] = byte(r.Uint32())
				b[24], b[25] = 0, 0
				binary.BigEndian.PutUint16(b[24:], checksum(b[14:34]))
			}
		case 8: // a header that tells no length, which is for larger packets than this one
			if len(b) >= 34 {
				b[16], b[17], gso = 0, 0, 1000
				b[24], b[25] = 0, 0
				binary.BigEndian.PutUint16(b[24:], checksum(b[14:34]))
			}
		case 7: // ports
			if len(b) >= 58 {
				binary.BigEndian.PutUint16(b[34+r.IntN(2)*20:], []uint16{8080, 53, 8001, 8472}[r.IntN(4)])
			}
		}
	}
	return b, gso
}

// TestProgramsJudgeAsTheModel changes packets of every kind, and has programs and model agree on each.
func TestProgramsJudgeAsTheModel(t *testing.T) {
	env := kerntest.New(t)
	b := newBench(t, env)
	fast := 0
	for _, s := range b.seeds {
		if err := b.judge(s.at, s.frame, 0); err != nil {
			t.Errorf("%s: %v", s.name, err)
		}
		want := b.leave(b.endpoints[0], s.frame, 0)
		if s.at == fastpath.AtEnter {
			want = b.enter(macUplink, s.frame, 0)
		}
		if !want.fast && (s.at == fastpath.AtEnter || s.at == fastpath.AtLeave) {
			t.Errorf("%s: does not take the fast path", s.name)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		s := b.seeds[r.IntN(len(b.seeds))]
		frame, gso := change(r, s.frame)
		if err := b.judge(s.at, frame, gso); errors.Is(err, unix.EINVAL) {
			continue // no frame that a device takes
		} else if err != nil {
			t.Fatalf("%s, segments of %d: %v\n%x", s.name, gso, err, frame)
		}
		fast++
	}
	if fast < 10000 {
		t.Errorf("only %d packets were judged", fast)
	}
}

// FuzzJudge lays bytes over a packet, and has the programs and the model agree on it.
func FuzzJudge(f *testing.F) {
	b := newBench(f, kerntest.New(f))
	for i := range b.seeds {
		f.Add(uint16(i), uint16(14), []byte{0x45}, uint16(0))
	}
	f.Fuzz(func(t *testing.T, which, at uint16, over []byte, gso uint16) {
		s := b.seeds[int(which)%len(b.seeds)]
		frame := bytes.Clone(s.frame)
		copy(frame[int(at)%len(frame):], over)
		if err := b.judge(s.at, frame, int(gso)); err != nil && !errors.Is(err, unix.EINVAL) {
			t.Fatalf("%s, segments of %d: %v\n%x", s.name, gso, err, frame)
		}
	})
}
