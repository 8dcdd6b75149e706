package fastpath_test

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// model is what packets of a network may take the fast path, in plain words: what the programs do is compared with it.
type model struct {
	endpoints []plan.FastEndpoint
	ports     []plan.FastPort
	peers     []plan.FastPeer
	tunnels   []plan.FastTunnel
}

// verdict is what becomes of a packet.
type verdict struct {
	fast bool
	peer *plan.FastPeer
	at   int // where the packet that a container sees begins
	hops bool
	// aside is for what is taken out of its tunnel for the slow path
	aside bool
	to    *plan.FastEndpoint
}

// tunnelled reports whether the packet is in a tunnel before or after.
func (v verdict) tunnelled() bool { return v.peer != nil && v.peer.Way != plan.FastPlain || v.at > 14 }

// inner is a packet as a container sends or gets it.
type inner struct {
	src, dst     netip.Addr
	l4           byte
	sport, dport uint16
	hops         byte
	len          int
	ecn          byte
	header       int // bytes of all headers
	ip           int // bytes of the IP header
}

// parse reads an IP packet. It is not one that the fast path knows how to carry, or ok.
func parse(b []byte, v6 bool) (p inner, ok bool) {
	if v6 {
		if len(b) < 40 || b[0]>>4 != 6 || binary.BigEndian.Uint16(b[4:]) == 0 {
			return p, false
		}
		p = inner{src: netip.AddrFrom16([16]byte(b[8:24])), dst: netip.AddrFrom16([16]byte(b[24:40])), l4: b[6],
			hops: b[7], len: 40 + int(binary.BigEndian.Uint16(b[4:])), ecn: b[1] >> 4 & 3, ip: 40}
	} else {
		if len(b) < 20 || b[0] != 0x45 || binary.BigEndian.Uint16(b[6:])&0x3fff != 0 || checksum(b[:20]) != 0 {
			return p, false
		}
		p = inner{src: netip.AddrFrom4([4]byte(b[12:16])), dst: netip.AddrFrom4([4]byte(b[16:20])), l4: b[9],
			hops: b[8], len: int(binary.BigEndian.Uint16(b[2:])), ecn: b[1] & 3, ip: 20}
	}
	return p, true
}

// transport reads what follows the IP header.
func (p *inner) transport(b []byte, v6, gso bool) bool {
	l4 := b[p.ip:]
	switch {
	case p.l4 == 6 && p.len >= p.ip+20 && len(l4) >= 14:
		p.header = p.ip + int(l4[12]>>4)*4
	case p.l4 == 17 && p.len >= p.ip+8 && len(l4) >= 8:
		p.header = p.ip + 8
	case p.l4 == 1 && !v6 && p.len >= p.ip+8 && len(l4) >= 1 && (l4[0] == 0 || l4[0] == 8):
		return !gso
	case p.l4 == 58 && v6 && p.len >= p.ip+8 && len(l4) >= 1 && (l4[0] == 128 || l4[0] == 129):
		return !gso
	default:
		return false
	}
	p.sport, p.dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	return true
}

// checksum is RFC 1071's: 0 over a header that has the right one.
func checksum(b []byte) uint16 {
	var s uint32
	for i := 0; i+1 < len(b); i += 2 {
		s += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}

func (m *model) endpoint(a netip.Addr, plain bool) *plan.FastEndpoint {
	for i, e := range m.endpoints {
		if e.Addr == a && e.Plain == plain {
			return &m.endpoints[i]
		}
	}
	return nil
}

func (m *model) peer(a netip.Addr) *plan.FastPeer {
	var best *plan.FastPeer
	for i, p := range m.peers {
		if p.Prefix.Contains(a) && (best == nil || p.Prefix.Bits() > best.Prefix.Bits()) {
			best = &m.peers[i]
		}
	}
	return best
}

func (m *model) published(a netip.Addr, l4 byte, port uint16) bool {
	name := map[byte]plan.L4{6: plan.TCP, 17: plan.UDP}[l4]
	for _, p := range m.ports {
		if p.Addr == a && p.Proto == name && p.Port == port {
			return true
		}
	}
	return false
}

// segment is how large the largest packet is that it is sent as.
func (p inner) segment(gso int) int {
	if gso > 0 {
		return p.header + gso
	}
	return p.len
}

func family(b []byte) (v6, ok bool) {
	t := binary.BigEndian.Uint16(b[12:])
	return t == 0x86dd, t == 0x0800 || t == 0x86dd
}

// leave judges a frame that a container sends by its link.
func (m *model) leave(sender plan.FastEndpoint, b []byte, gso int) verdict {
	slow := verdict{}
	v6, ok := family(b)
	if !ok || plan.MAC(b[6:12]) != sender.MAC {
		return slow
	}
	p, ok := parse(b[14:], v6)
	if !ok || !p.transport(b[14:], v6, gso > 0) || p.len != len(b)-14 {
		return slow
	}
	from := m.endpoint(p.src, false)
	if from == nil || from.Link != sender.Link || from.Publishes && m.published(p.src, p.l4, p.sport) {
		return slow
	}
	dst := plan.MAC(b[:6])
	if to := m.endpoint(p.dst, false); to != nil {
		if to.Slow || to.Link == sender.Link || to.MAC != dst || to.Publishes && m.published(p.dst, p.l4, p.dport) ||
			p.segment(gso) > to.MTU {
			return slow
		}
		return verdict{fast: true, to: to}
	}
	to := m.peer(p.dst)
	if to == nil || to.Node == to.Self || to.Via != dst || p.segment(gso) > to.MTU || to.Routed && p.hops < 2 {
		return slow
	}
	return verdict{fast: true, peer: to, hops: to.Routed}
}

// enter judges a frame that comes in by the uplink.
func (m *model) enter(mac plan.MAC, b []byte, gso int) verdict {
	v6, ok := family(b)
	if !ok || plan.MAC(b[:6]) != mac {
		return verdict{}
	}
	p, ok := parse(b[14:], v6)
	if !ok || p.len > len(b)-14 {
		return verdict{}
	}
	if p.l4 == 17 && p.transport(b[14:], v6, gso > 0) {
		for _, t := range m.tunnels {
			if t.Port == p.dport && t.IPv6 == v6 && (t.Way == plan.FastUDP || t.Network == "") {
				return m.unwrap(t, b, p, v6, gso)
			}
		}
	}
	return m.receive(plan.FastPlain, netip.Addr{}, b[:14], b, 14, v6, gso)
}

func (m *model) unwrap(t plan.FastTunnel, b []byte, outer inner, v6 bool, gso int) verdict {
	udp := b[14+outer.ip:]
	if outer.len != len(b)-14 || binary.BigEndian.Uint16(udp[6:]) != 0 ||
		int(binary.BigEndian.Uint16(udp[4:])) != outer.len-outer.ip || outer.ecn == 3 {
		return verdict{}
	}
	at := 14 + outer.ip + 8
	if t.Way == plan.FastUDP {
		if t.Self != outer.dst || len(b) < at+1 {
			return verdict{}
		}
		return m.receive(t.Way, outer.src, b[:14], b, at, b[at]>>4 != 4, gso)
	}
	if len(b) < at+8+14 || !bytes.Equal(b[at:at+4], []byte{8, 0, 0, 0}) || b[at+7] != 0 {
		return verdict{}
	}
	vni := uint32(b[at+4])<<16 | uint32(b[at+5])<<8 | uint32(b[at+6])
	for _, end := range m.tunnels {
		if end.Way != plan.FastVXLAN || end.Network == "" || end.Port != t.Port || end.IPv6 != v6 || end.VNI != vni {
			continue
		}
		frame := b[at+8:]
		inner6, ok := family(frame)
		if !ok || end.Self != outer.dst || end.Routed && plan.MAC(frame[:6]) != end.MAC {
			return verdict{}
		}
		return m.receive(plan.FastVXLAN, outer.src, frame[:14], b, at+8+14, inner6, gso)
	}
	return verdict{}
}

func (m *model) receive(way plan.FastWay, node netip.Addr, ether, b []byte, at int, v6 bool, gso int) verdict {
	p, ok := parse(b[at:], v6)
	if !ok || way != plan.FastPlain && p.len != len(b)-at {
		return verdict{}
	}
	to, from := m.endpoint(p.dst, way == plan.FastPlain), m.peer(p.src)
	if from == nil || from.Node == from.Self || from.Way != way || way != plan.FastPlain && from.Node != node {
		return verdict{}
	}
	if to != nil && to.Slow {
		return verdict{}
	}
	if to == nil {
		own := m.peer(p.dst)
		return verdict{fast: way == plan.FastUDP && own != nil && own.Node == own.Self, aside: true, at: at}
	}
	if !p.transport(b[at:], v6, gso > 0) || to.Publishes && m.published(p.dst, p.l4, p.dport) ||
		p.segment(gso) > to.MTU || from.Routed && p.hops < 2 {
		return verdict{fast: way == plan.FastUDP, aside: true, at: at}
	}
	if dst := plan.MAC(ether[:6]); !from.Routed && dst != to.MAC && dst != to.Via {
		return verdict{}
	}
	return verdict{fast: true, to: to, at: at, hops: from.Routed}
}
