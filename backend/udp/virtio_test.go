package udp

import (
	"bytes"
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// large builds a TCP or UDP packet with a payload of n bytes as the kernel hands it out before
// segmentation: the checksum's field has the sum of the pseudo-header.
func large(v6, datagrams bool, segment, n int) (virtio, []byte) {
	length, protocol, kind, position := tcpHeader, byte(unix.IPPROTO_TCP), unix.VIRTIO_NET_HDR_GSO_TCPV4, tcpChecksum
	if v6 {
		kind = unix.VIRTIO_NET_HDR_GSO_TCPV6
	}
	if datagrams {
		length, protocol, kind, position = udpHeader, unix.IPPROTO_UDP, unix.VIRTIO_NET_HDR_GSO_UDP_L4, udpChecksum
	}
	p, l := packet4("10.9.1.2", "10.9.2.2", 9, length+n), layout{v6: v6, udp: datagrams, transport: ipv4Header}
	p[9] = protocol
	if v6 {
		p, l.transport = packet6("fd09:0:0:1::2", "fd09:0:0:2::2", 9, length+n), ipv6Header
		p[6] = protocol
	} else {
		seal(p[:ipv4Header])
	}
	t := p[l.transport:]
	binary.BigEndian.PutUint16(t, 1234)
	binary.BigEndian.PutUint16(t[2:], 80)
	if datagrams {
		binary.BigEndian.PutUint16(t[4:], uint16(len(t)))
	} else {
		binary.BigEndian.PutUint32(t[4:], 0xffffff00) // soon starts anew
		t[12], t[13] = 5<<4, flagACK
	}
	for i := range n {
		t[length+i] = byte(i * i)
	}
	binary.BigEndian.PutUint16(t[position:], l.pseudo(p, len(t)))
	return virtio{
		flags: unix.VIRTIO_NET_HDR_F_NEEDS_CSUM, kind: byte(kind), header: uint16(l.transport + length),
		segment:  uint16(segment),
		sumStart: uint16(l.transport), sumPosition: uint16(position),
	}, p
}

// slowSum is RFC 1071 by the letter.
func slowSum(b []byte) uint16 {
	var s uint32
	for i := range b {
		if i%2 == 0 {
			s += uint32(b[i]) << 8
		} else {
			s += uint32(b[i])
		}
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

func TestSum(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 0x80, 0xff, 0xfe, 7}), 0, 300).Draw(t, "bytes")
		start := rapid.Uint16().Draw(t, "start")
		want := slowSum(append([]byte{byte(start >> 8), byte(start)}, b...))
		if got := sum(b, start); got != want {
			t.Fatalf("%#x, want %#x", got, want)
		}
	})
}

// written is what a merger wrote, as one packet.
type written struct {
	virtio  virtio
	data    []byte
	packets int
}

// pieceBytes is what a piece refers to.
func pieceBytes(p unix.Iovec) []byte { return unsafe.Slice(p.Base, int(p.Len)) }

// collect makes a merger that keeps what it writes.
func collect() (*merger, *[]written) {
	var all []written
	return newMerger(true, func(pieces []unix.Iovec, packets, n int) {
		w := written{virtio: decodeVirtio(pieceBytes(pieces[0])), packets: packets}
		for _, p := range pieces[1:] {
			w.data = append(w.data, pieceBytes(p)...)
		}
		all = append(all, w)
	}), &all
}

// TestSplitAndMerge takes a large packet apart and puts it together again.
func TestSplitAndMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v6, datagrams := rapid.Bool().Draw(t, "IPv6"), rapid.Bool().Draw(t, "UDP")
		segment := rapid.IntRange(1, 1448).Draw(t, "segment")
		n := rapid.IntRange(segment+1, min(mergeParts*segment, 65000)).Draw(t, "payload")
		v, p := large(v6, datagrams, segment, n)
		if !datagrams && rapid.Bool().Draw(t, "PSH") {
			p[v.sumStart+13] |= flagPSH
		}
		before := bytes.Clone(p)

		var s segmenter
		if err := s.finish(v, p); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(p, before) {
			t.Fatal("splitting changed the large packet")
		}
		if want := (n + segment - 1) / segment; len(s.packets) != want {
			t.Fatalf("%d segments, want %d", len(s.packets), want)
		}
		m, all := collect()
		for i := range s.packets {
			part := s.packets[i].whole()
			h, why := parse(part)
			if why != "" {
				t.Fatalf("segment %d: %s", i, why)
			}
			l, kind := mergeable(part, v6, true)
			pseudo := l.pseudo(part, len(part)-l.transport)
			if got := slowSum(append([]byte{byte(pseudo >> 8), byte(pseudo)},
				part[l.transport:]...)); kind != mergeData || got != 0xffff {
				t.Fatalf("segment %d: kind %d, sum %#x", i, kind, got)
			}
			m.add(part, h)
		}
		m.flush()
		if len(*all) != 1 || (*all)[0].packets != len(s.packets) {
			t.Fatalf("%d segments were merged into %d packets", len(s.packets), len(*all))
		}
		if got := (*all)[0]; got.virtio != v || !bytes.Equal(got.data, before) {
			t.Fatalf("%+v\n%x\nbecame\n%+v\n%x", v, before[:64], got.virtio, got.data[:64])
		}
	})
}

// TestMergeKeepsApart has two packets that follow one another, and changes the second.
func TestMergeKeepsApart(t *testing.T) {
	for name, c := range map[string]struct {
		datagrams bool
		change    func(first, second []byte)
	}{
		"sequence":             {false, func(_, p []byte) { p[ipv4Header+7]++ }},
		"acknowledgement":      {false, func(_, p []byte) { p[ipv4Header+11]++ }},
		"window":               {false, func(_, p []byte) { p[ipv4Header+15]++ }},
		"urgent pointer":       {false, func(_, p []byte) { p[ipv4Header+19]++ }},
		"end of the data":      {false, func(_, p []byte) { p[ipv4Header+13] |= flagFIN }},
		"congestion":           {false, func(_, p []byte) { p[ipv4Header+13] |= flagCWR }},
		"pushed before":        {false, func(p, _ []byte) { p[ipv4Header+13] |= flagPSH }},
		"another port":         {false, func(_, p []byte) { p[ipv4Header]++ }},
		"another UDP port":     {true, func(_, p []byte) { p[ipv4Header+3]++ }},
		"type of service":      {true, func(_, p []byte) { p[1]++ }},
		"TTL":                  {true, func(_, p []byte) { p[8]++ }},
		"don't fragment":       {true, func(_, p []byte) { p[6] |= 0x40 }},
		"more fragments":       {true, func(_, p []byte) { p[6] |= 0x20 }},
		"identification":       {true, func(_, p []byte) { p[5]++ }},
		"source":               {true, func(_, p []byte) { p[15]++ }},
		"UDP length":           {true, func(_, p []byte) { p[ipv4Header+5]-- }},
		"broken":               {false, nil},
		"the first one broken": {true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			v, p := large(false, c.datagrams, 100, 200)
			var s segmenter
			if err := s.finish(v, p); err != nil {
				t.Fatal(err)
			}
			first, second := s.packets[0].whole(), s.packets[1].whole()
			if c.change != nil {
				c.change(first, second)
			}
			for _, p := range [][]byte{first, second} { // valid again
				seal(p[:ipv4Header])
				p[v.sumStart+v.sumPosition], p[v.sumStart+v.sumPosition+1] = 0, 0
				l := layout{udp: c.datagrams, transport: ipv4Header}
				binary.BigEndian.PutUint16(p[v.sumStart+v.sumPosition:],
					^sum(p[ipv4Header:], l.pseudo(p, len(p)-ipv4Header)))
			}
			switch name {
			case "broken":
				second[len(second)-1]++
			case "the first one broken":
				first[len(first)-1]++
			}
			m, all := collect()
			for _, p := range [][]byte{first, second} {
				h, why := parse(p)
				if why != "" {
					t.Fatal(why)
				}
				m.add(p, h)
			}
			m.flush()
			if len(*all) != 2 || !bytes.Equal((*all)[0].data, first) || !bytes.Equal((*all)[1].data, second) {
				t.Errorf("%d packets were written, or in another order", len(*all))
			}
		})
	}
}

// TestManyFlows has more flows at a time than are merged.
func TestManyFlows(t *testing.T) {
	const flows = 3 * openMerges
	v, p := large(true, false, 100, 500)
	var s segmenter
	if err := s.finish(v, p); err != nil {
		t.Fatal(err)
	}
	m, all := collect()
	for i := range s.packets {
		for f := range flows {
			part := s.packets[i].whole()
			// The sum stays: what one port gains, the other loses.
			part[ipv6Header+1] += byte(f)
			part[ipv6Header+3] -= byte(f)
			h, _ := parse(part)
			m.add(part, h)
		}
	}
	m.flush()
	next, packets := make(map[byte]int), 0
	for _, w := range *all {
		f := w.data[ipv6Header+1]
		if at := int(binary.BigEndian.Uint32(w.data[ipv6Header+4:]) - 0xffffff00); at != next[f] {
			t.Errorf("flow %d goes on at %d, not at %d", f, at, next[f])
		}
		next[f] += len(w.data) - ipv6Header - tcpHeader
		packets += w.packets
	}
	if packets != flows*len(s.packets) {
		t.Errorf("%d packets came out, %d went in", packets, flows*len(s.packets))
	}
}

// FuzzVirtio feeds headers that need not fit their packets to the sending side.
func FuzzVirtio(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, datagrams := range []bool{false, true} {
			v, p := large(v6, datagrams, 100, 250)
			var b [virtioSize]byte
			v.encode(b[:])
			f.Add(b[:], p)
			b[1] = unix.VIRTIO_NET_HDR_GSO_NONE
			f.Add(bytes.Clone(b[:]), p)
		}
	}
	f.Fuzz(func(t *testing.T, head, p []byte) {
		if len(head) < virtioSize {
			return
		}
		if _, why := parse(p); why != "" {
			return
		}
		v := decodeVirtio(head)
		var again [virtioSize]byte
		if v.encode(again[:]); !bytes.Equal(again[:], head[:virtioSize]) {
			t.Fatalf("%x became %x", head, again)
		}
		var s segmenter
		if err := s.finish(v, p); err != nil {
			if len(s.packets) != 0 {
				t.Fatalf("%d packets and %v", len(s.packets), err)
			}
			return
		}
		if v.kind == unix.VIRTIO_NET_HDR_GSO_NONE {
			if len(s.packets) != 1 || s.packets[0].len() != len(p) {
				t.Fatalf("one packet became %d", len(s.packets))
			}
			return
		}
		var payload []byte
		for _, part := range s.packets {
			if _, why := parse(part.whole()); why != "" || len(part.body) == 0 || len(part.body) > int(v.segment) {
				t.Fatalf("a segment with %d bytes is dropped as %q", len(part.body), why)
			}
			payload = append(payload, part.body...)
		}
		if l, _ := v.layout(p); !bytes.Equal(payload, p[l.payload:]) {
			t.Fatal("the payload changed")
		}
	})
}

// FuzzMerge feeds packets to the receiving side, and takes what it writes apart again.
func FuzzMerge(f *testing.F) {
	for _, v6 := range []bool{false, true} {
		for _, datagrams := range []bool{false, true} {
			v, p := large(v6, datagrams, 50, 240)
			var s segmenter
			if err := s.finish(v, p); err != nil {
				f.Fatal(err)
			}
			var all []byte
			for i := range s.packets {
				all = append(all, s.packets[i].whole()...)
			}
			f.Add(all, uint8(s.packets[0].len()))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, length uint8) {
		m, all := collect()
		var in [][]byte
		for n := int(length); n > 0 && len(data) > 0; {
			p := data[:min(n, len(data))]
			data = data[len(p):]
			if h, why := parse(p); why == "" {
				in = append(in, bytes.Clone(p))
				m.add(p, h)
			}
		}
		m.flush()
		var out [][]byte
		for _, w := range *all {
			var s segmenter
			if err := s.finish(w.virtio, w.data); err != nil {
				t.Fatal(err)
			}
			if len(s.packets) != w.packets {
				t.Fatalf("%d packets were merged, %d come of it", w.packets, len(s.packets))
			}
			for _, p := range s.packets {
				out = append(out, p.whole())
			}
		}
		if len(in) != len(out) {
			t.Fatalf("%d packets became %d", len(in), len(out))
		}
		for i := range in {
			found := false
			for k := range out {
				if found = sameButNumber(in[i], out[k]); found {
					out = append(out[:k], out[k+1:]...)
					break
				}
			}
			if !found {
				t.Fatalf("lost %x", in[i])
			}
		}
	})
}

// sameButNumber compares packets apart from the identification of those that must not be fragmented.
func sameButNumber(a, b []byte) bool {
	if len(a) != len(b) || a[0] != b[0] {
		return false
	}
	if a[0]>>4 == 6 || !dontFragment(a, false) {
		return bytes.Equal(a, b)
	}
	return bytes.Equal(a[:4], b[:4]) && bytes.Equal(a[6:10], b[6:10]) && bytes.Equal(a[12:], b[12:])
}
