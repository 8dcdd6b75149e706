package ipam_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
)

// TestAgainstModel compares the allocator with a map, over small pools of both
// families that fill up, with restarts.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t)
		bits := rapid.IntRange(26, 31).Draw(rt, "bits")
		base := rapid.SampledFrom([]string{"10.1.2.0", "fd00::ffff:ff00"}).Draw(rt, "base")
		if base[0] == 'f' {
			bits += 96
		}
		request := cnm.PoolRequest{Subnet: netip.PrefixFrom(netip.MustParseAddr(base), bits)}
		if rapid.Bool().Draw(rt, "range") {
			request.Range = netip.PrefixFrom(request.Subnet.Addr(), min(bits+1, request.Subnet.Addr().BitLen()))
		}
		n := b.network(t, "n", request)
		pool := n.Pools[0]
		usable := map[netip.Addr]bool{}
		inRange := 0
		for a := pool.Subnet.Addr(); pool.Subnet.Contains(a); a = a.Next() {
			edge := a == pool.Subnet.Addr() || a.Is4() && !pool.Subnet.Contains(a.Next())
			if pool.Subnet.Addr().BitLen()-bits > 1 && edge || a == pool.Gateway {
				continue
			}
			usable[a] = true
			if pool.Range.Contains(a) {
				inRange++
			}
		}
		taken := map[netip.Addr]string{}
		owned := map[string]netip.Addr{}
		used := func() (n int) {
			for a := range taken {
				if pool.Range.Contains(a) {
					n++
				}
			}
			return n
		}
		owner := rapid.Custom(func(rt *rapid.T) string { return fmt.Sprint("o", rapid.IntRange(0, 70).Draw(rt, "o")) })
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				a, err := b.claim(n, o)
				have, again := owned[o]
				switch {
				case again:
					if err != nil || a[0].Addr() != have {
						rt.Fatalf("%s has %s and got %v, %v", o, have, a, err)
					}
				case used() == inRange:
					if !errors.Is(err, cnm.ErrExhausted) {
						rt.Fatalf("the pool is full, and %s got %v, %v", o, a, err)
					}
				case err != nil:
					rt.Fatalf("%s with %d of %d used: %v", o, used(), inRange, err)
				case taken[a[0].Addr()] != "" || !usable[a[0].Addr()] || !pool.Range.Contains(a[0].Addr()):
					rt.Fatalf("%s got %s, which is %s's or unusable", o, a[0], taken[a[0].Addr()])
				default:
					taken[a[0].Addr()], owned[o] = o, a[0].Addr()
				}
			},
			"claim wanted": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				host := rapid.Uint8Max(uint8(1<<(pool.Subnet.Addr().BitLen()-bits))+1).Draw(rt, "host")
				want := pool.Subnet.Addr()
				for range host {
					want = want.Next()
				}
				a, err := b.claim(n, o, want.String())
				have, again := owned[o]
				switch {
				case again && have == want:
					if err != nil || a[0].Addr() != have {
						rt.Fatalf("%s has %s and got %v, %v", o, have, a, err)
					}
				case again:
					if !errors.Is(err, cnm.ErrExists) {
						rt.Fatalf("%s has %s, wants %s and got %v, %v", o, have, want, a, err)
					}
				case !pool.Subnet.Contains(want):
					if !errors.Is(err, cnm.ErrInvalid) {
						rt.Fatalf("%s is outside, and %s got %v, %v", want, o, a, err)
					}
				case taken[want] != "" || !usable[want]:
					if !errors.Is(err, cnm.ErrExists) {
						rt.Fatalf("%s is taken, and %s got %v, %v", want, o, a, err)
					}
				case err != nil || a[0].Addr() != want:
					rt.Fatalf("%s wants %s and got %v, %v", o, want, a, err)
				default:
					taken[want], owned[o] = o, want
				}
			},
			"release": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				if err := b.release(n, o); err != nil {
					rt.Fatal(err)
				}
				delete(taken, owned[o])
				delete(owned, o)
			},
			"fail": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				if _, ok := owned[o]; ok {
					return
				}
				if c, err := b.Claim(t.Context(), n, o, nil, nil); err == nil {
					c.Done(false)
				}
			},
			"restart": func(*rapid.T) { b.reopen(t) },
			"": func(rt *rapid.T) {
				rs, err := b.store.List(t.Context(), cnm.KindAddress)
				if err != nil || len(rs) != len(taken) {
					rt.Fatalf("%d records, %v; the model has %d", len(rs), err, len(taken))
				}
			},
		})
	})
}

// BenchmarkClaim measures a claim and a release, without the store's commit.
func BenchmarkClaim(b *testing.B) {
	for _, c := range []struct {
		name   string
		subnet string
		fill   int
	}{
		{"16 empty", "10.1.0.0/16", 0},
		{"16 half full", "10.1.0.0/16", 32767},
		{"16 full minus one", "10.1.0.0/16", 65532},
		{"IPv6 64 with 32767", "fd00::/64", 32767},
	} {
		b.Run(c.name, func(b *testing.B) {
			t := newBed(b)
			n := t.network(b, "n", subnet(c.subnet))
			var claims []*cnm.Claim
			for i := range c.fill {
				claim, err := t.Claim(b.Context(), n, fmt.Sprint("old", i), nil, nil)
				if err != nil {
					b.Fatal(err)
				}
				claims = append(claims, claim)
			}
			for _, claim := range claims {
				claim.Done(true)
			}
			b.ResetTimer()
			for b.Loop() {
				claim, err := t.Claim(b.Context(), n, "new", nil, nil)
				if err != nil {
					b.Fatal(err)
				}
				claim.Done(false)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "claims/s")
		})
	}
}
