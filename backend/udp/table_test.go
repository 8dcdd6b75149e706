package udp

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"pgregory.net/rapid"

	"golang.org/x/sys/unix"

	"github.com/vethloom/vethloom/internal/await"
	"github.com/vethloom/vethloom/plan"
)

// TestLookup compares the table with the definition of the longest match.
func TestLookup(t *testing.T) {
	local := netip.MustParseAddr("192.0.2.1")
	rapid.Check(t, func(t *rapid.T) {
		v6 := rapid.Bool().Draw(t, "IPv6")
		addr := rapid.Custom(func(t *rapid.T) netip.Addr {
			// Few values, so that prefixes nest, meet and are the whole space.
			b := rapid.SliceOfN(rapid.SampledFrom([]byte{0, 1, 127, 128, 255}), 16, 16).Draw(t, "bytes")
			if v6 {
				return netip.AddrFrom16([16]byte(b))
			}
			return netip.AddrFrom4([4]byte(b[:4]))
		})
		prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
			a := addr.Draw(t, "address")
			return netip.PrefixFrom(a, rapid.IntRange(0, a.BitLen()).Draw(t, "bits")).Masked()
		})
		inside := rapid.SliceOfN(prefix, 0, 3).Draw(t, "inside")
		remotes := make(map[netip.Prefix]netip.Addr)
		for i, p := range rapid.SliceOfN(prefix, 0, 12).Draw(t, "remotes") {
			remotes[p] = netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		}
		tab := newTable(local, 8285, inside, remotes)
		for _, a := range rapid.SliceOfN(addr, 1, 40).Draw(t, "addresses") {
			best, want := -1, netip.Addr{}
			for p, dst := range remotes {
				if p.Contains(a) && p.Bits() > best {
					best, want = p.Bits(), dst
				}
			}
			for _, p := range inside {
				if p.Contains(a) && p.Bits() >= best {
					best, want = p.Bits(), local
				}
			}
			k := key{}
			if b := a.AsSlice(); v6 {
				k = key16(b)
			} else {
				k = key4(b)
			}
			got := netip.Addr{}
			if h := tab.lookup(v6, k); h != nil {
				got = h.addr
				if h.self != (got == local) {
					t.Fatalf("hop %+v", h)
				}
			}
			if got != want {
				t.Fatalf("%s leads to %s, want %s", a, got, want)
			}
		}
	})
}

// TestManyRemotes adds remotes one by one; the table must not be built for each.
func TestManyRemotes(t *testing.T) {
	const n = 20_000
	a := newLab(t, labConfig{})[0]
	start := time.Now()
	for i := range n {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{11, byte(i >> 8), byte(i), 0}), 24)
		if err := a.host.Add(plan.TunnelPeer{Link: testLink, Prefix: p,
			Dst: netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)})}); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(start)
	await.True(t, "the last remote is known", func() bool {
		h := a.host.links[testLink].table.Load().lookup(false, key4([]byte{11, 78, 31, 1}))
		return h != nil && h.addr == netip.MustParseAddr("198.18.78.31")
	})
	a.settle() // a build that is not under way any more has measured itself
	a.host.mu.Lock()
	cost := a.host.links[testLink].cost
	a.host.mu.Unlock()
	if took > 200*cost {
		t.Errorf("adding %d remotes took %s, and building the table once %s", n, took, cost)
	}
}

// TestListedIsKnown lists remotes whose table is yet to be built: what a pass sees done must carry packets.
func TestListedIsKnown(t *testing.T) {
	a := newLab(t, labConfig{})[0]
	l := a.host.links[testLink]
	a.host.mu.Lock()
	l.cost = time.Hour // as a build measures itself that had no CPU
	a.host.mu.Unlock()
	p := netip.MustParsePrefix("11.0.1.0/24")
	r := plan.TunnelPeer{Link: testLink, Prefix: p, Dst: netip.MustParseAddr("198.18.0.9")}
	if err := a.host.Add(r); err != nil {
		t.Fatal(err)
	}
	a.host.List()
	if l.table.Load().lookup(false, key4([]byte{11, 0, 1, 1})) == nil {
		t.Error("a listed remote leads nowhere")
	}
}

func BenchmarkLookup(b *testing.B) {
	remotes := make(map[netip.Prefix]netip.Addr)
	for i := range 1000 {
		remotes[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24)] = netip.AddrFrom4(
			[4]byte{198, 18, byte(i >> 8), byte(i)})
	}
	tab := newTable(netip.MustParseAddr("192.0.2.1"), 8285, nil, remotes)
	var addr [4]byte
	for i := 0; b.Loop(); i++ {
		addr = [4]byte{10, byte(i>>8) & 3, byte(i), 7}
		if tab.lookup(false, key4(addr[:])) == nil && i%1024 < 1000 {
			b.Fatal("no route")
		}
	}
}

// BenchmarkOutbound is what the sending side does with a burst, system calls apart.
func BenchmarkOutbound(b *testing.B) {
	for _, size := range []int{64, 1472} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			t := benchTunnel()
			o := newOutbound(t)
			p := packet4("10.9.1.2", "10.9.2.2", 64, size-ipv4Header)
			o.t.sock = &socket{gso: true}
			buf := make([]byte, size)
			b.SetBytes(int64(44 * size))
			for b.Loop() {
				for range 44 {
					copy(buf, p)
					o.packet(t.table.Load(), virtio{}, buf)
				}
				o.queue.build(o.queue.sends)
				o.queue.reset()
				o.segments.reset()
			}
		})
	}
}

// BenchmarkInbound is what the receiving side does with a burst, system calls apart.
func BenchmarkInbound(b *testing.B) {
	for _, size := range []int{64, 1472} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			t := benchTunnel()
			in := newInbound(t)
			in.merger.write = func(_ []unix.Iovec, packets, _ int) { t.count.inPackets.Add(uint64(packets)) }
			var burst []byte
			for range 44 {
				burst = append(burst, packet4("10.9.2.2", "10.9.1.2", 64, size-ipv4Header)...)
			}
			b.SetBytes(int64(len(burst)))
			for b.Loop() {
				in.message(t.table.Load(), netip.MustParseAddr("192.0.2.2"), burst, size, false)
				in.merger.flush()
			}
			if want := uint64(44 * b.N); t.count.inPackets.Load() < want {
				b.Fatalf("%d of %d packets went through", t.count.inPackets.Load(), want)
			}
		})
	}
}

func benchTunnel() *tunnel {
	l := &link{}
	remotes := make(map[netip.Prefix]netip.Addr)
	for i := range 1000 {
		remotes[netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9 + byte(i>>8), byte(i), 0}), 24)] = netip.AddrFrom4(
			[4]byte{192, 0, 2 + byte(i>>8), byte(i)})
	}
	t := &tunnel{dev: &device{header: true, uso: true}, table: &l.table, count: &l.count,
		spec: plan.Tunnel{Local: netip.MustParseAddr("192.0.2.1")}}
	l.table.Store(newTable(t.spec.Local, 8285, []netip.Prefix{netip.MustParsePrefix("10.9.1.0/24")}, remotes))
	return t
}
