package ipam_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/ipam"
)

// shared is a network whose subnet nodes share by blocks.
func shared(id, subnet string, blocks ...string) cnm.Network {
	p := netip.MustParsePrefix(subnet)
	n := cnm.Network{
		ID: id, Name: "name-" + id, Scope: cnm.Cluster, Phase: cnm.Active,
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{p}},
		Pools:   []cnm.Pool{{Subnet: p, Range: p, Gateway: p.Addr().Next()}},
	}
	for _, b := range blocks {
		n.Pools[0].Blocks = append(n.Pools[0].Blocks, netip.MustParsePrefix(b))
	}
	return n
}

// leased is a network of which this node has leases.
func leased(id string, leases ...string) cnm.Network {
	n := cnm.Network{
		ID: id, Name: "name-" + id, Scope: cnm.Cluster, Phase: cnm.Active,
		Cluster: &cnm.ClusterNetwork{Subnets: []netip.Prefix{netip.MustParsePrefix("10.64.0.0/16"),
			netip.MustParsePrefix("fd64::/56")}, Leases: "/x"},
	}
	for _, l := range leases {
		p := netip.MustParsePrefix(l)
		n.Pools = append(n.Pools, cnm.Pool{Subnet: p, Range: p, Gateway: p.Addr().Next()})
	}
	return n
}

// keep tells of the network and stores its record.
func (b *bed) keep(t testing.TB, n cnm.Network) {
	t.Helper()
	if err := b.Update(n); err != nil {
		t.Fatal(err)
	}
	v, err := json.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	key := cnm.Key{Kind: cnm.KindNetwork, ID: n.ID}
	rec, err := b.store.Get(context.Background(), key)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		t.Fatal(err)
	}
	if err := b.store.Commit(context.Background(), cnm.Write{Key: key, Value: v, Revision: rec.Revision}); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) renew(n cnm.Network, owner string) ([]netip.Prefix, error) {
	c, err := b.Renew(context.Background(), n.ID, owner)
	if err != nil {
		return nil, err
	}
	err = b.store.Commit(context.Background(), c.Writes...)
	c.Done(err == nil)
	return c.Addrs, err
}

func (b *bed) records(t testing.TB) string {
	t.Helper()
	rs, err := b.store.List(context.Background(), cnm.KindAddress)
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, r := range rs {
		ids = append(ids, r.Key.ID)
	}
	return strings.Join(ids, " ")
}

func TestBlocks(t *testing.T) {
	b := newBed(t)
	n := shared("n", "10.0.0.0/24")
	b.keep(t, n)
	_, err := b.claim(n, "a")
	wantError(t, err, cnm.ErrNoBlock, "no block of 10.0.0.0/24", `"name-n"`)
	n = shared("n", "10.0.0.0/24", "10.0.0.0/30", "10.0.0.252/30")
	n.Pools[0].Aux = map[string]netip.Addr{"printer": netip.MustParseAddr("10.0.0.253")}
	b.keep(t, n)
	for i, want := range []string{"10.0.0.2/24", "10.0.0.3/24", "10.0.0.252/24", "10.0.0.254/24"} {
		if a, err := b.claim(n, fmt.Sprint(i)); err != nil || text(a) != want {
			t.Fatalf("%v, %v; want %s", a, err, want)
		}
	}
	_, err = b.claim(n, "a")
	wantError(t, err, cnm.ErrNoBlock, "all 4 of 10.0.0.0/30, 10.0.0.252/30", "this node")
	wantError(t, err, cnm.ErrExhausted)
	for addr, kind := range map[string]error{
		"10.0.0.77": cnm.ErrNoBlock, "10.0.0.1": cnm.ErrExists, "10.0.0.255": cnm.ErrExists, "10.0.0.2": cnm.ErrExists,
		"10.0.1.1": cnm.ErrInvalid,
	} {
		_, err := b.claim(n, "a", addr)
		wantError(t, err, kind, addr)
	}
	n.Pools[0].Blocks = append(n.Pools[0].Blocks, netip.MustParsePrefix("10.0.0.76/30"))
	b.keep(t, n)
	if a, err := b.claim(n, "a", "10.0.0.77"); err != nil || text(a) != "10.0.0.77/24" {
		t.Fatal(a, err)
	}
	want := "[{10.0.0.0/30 2 0} {10.0.0.76/30 1 3} {10.0.0.252/30 2 0}]"
	if got := fmt.Sprint(b.Usage("n")); got != want {
		t.Errorf("usage %s, want %s", got, want)
	}
	b.reopen(t)
	if got := fmt.Sprint(b.Usage("n")); got != want {
		t.Errorf("usage after a restart %s, want %s", got, want)
	}
	if u := b.Usage("unknown"); u != nil {
		t.Errorf("%v", u)
	}
	// A block that is full is searched last, and one whose address is free again is found.
	if err := b.release(n, "1"); err != nil {
		t.Fatal(err)
	}
	var got []string
	for i := range 4 {
		a, err := b.claim(n, fmt.Sprint("b", i))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, text(a))
	}
	slices.Sort(got)
	if s := strings.Join(got, " "); s != "10.0.0.3/24 10.0.0.76/24 10.0.0.78/24 10.0.0.79/24" {
		t.Errorf("got %s", s)
	}
}

// TestBlocksFarApart checks blocks of a /48, whose distances no 64 bits hold.
func TestBlocksFarApart(t *testing.T) {
	b := newBed(t)
	n := shared("n", "fd00::/48", "fd00:0:0:ffff:ffff:ffff:ffff:fffc/126", "fd00:0:0:8000::/64")
	b.keep(t, n)
	if a, err := b.claim(n, "a"); err != nil || text(a) != "fd00:0:0:8000::/48" {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := b.claim(n, "b", "fd00::ffff:ffff:ffff:ffff:fffe"); err != nil || a[0].Bits() != 48 {
		t.Errorf("%v, %v", a, err)
	}
	if u := b.Usage("n"); len(u) != 2 || u[0].Used != 1 || u[1].Used != 1 || u[1].Free != 3 || u[0].Free < 1<<61 {
		t.Errorf("%+v", u)
	}
}

// TestBlocksAndRange checks that what is picked is in both, and that a wanted address need only be in a block.
func TestBlocksAndRange(t *testing.T) {
	b := newBed(t)
	n := shared("n", "10.0.0.0/24", "10.0.0.0/27", "10.0.0.64/27", "10.0.0.128/26")
	n.Pools[0].Range = netip.MustParsePrefix("10.0.0.72/30") // inside of the second
	b.keep(t, n)
	for i := range 4 {
		if a, err := b.claim(n, fmt.Sprint(i)); err != nil || !n.Pools[0].Range.Contains(a[0].Addr()) {
			t.Fatal(a, err)
		}
	}
	_, err := b.claim(n, "x")
	wantError(t, err, cnm.ErrNoBlock, "all 4")
	if _, err := b.claim(n, "x", "10.0.0.130"); err != nil {
		t.Error(err)
	}
	if got, want := fmt.Sprint(b.Usage("n")),
		"[{10.0.0.0/27 0 0} {10.0.0.64/27 4 0} {10.0.0.128/26 1 0}]"; got != want {
		t.Errorf("usage %s, want %s", got, want)
	}
}

func TestLeaseChanges(t *testing.T) {
	b := newBed(t)
	n := leased("n")
	b.keep(t, n)
	_, err := b.claim(n, "a")
	wantError(t, err, cnm.ErrUnavailable, `"name-n"`, "this node has no subnet of the network yet")
	n = leased("n", "10.64.1.0/24", "fd64:0:0:1::/64")
	b.keep(t, n)
	old, err := b.claim(n, "a")
	if err != nil || text(old) != "10.64.1.2/24 fd64:0:0:1::2/64" {
		t.Fatal(old, err)
	}
	if a, err := b.renew(n, "a"); err != nil || text(a) != text(old) {
		t.Errorf("nothing has changed: %v, %v", a, err)
	}
	// A request that was begun with the pools of before gets none of them.
	stale := n
	n = leased("n", "10.64.2.0/24")
	b.keep(t, n)
	if a, err := b.claim(stale, "late"); err != nil || text(a) != "10.64.2.2/24" {
		t.Errorf("%v, %v", a, err)
	}
	if a, err := b.renew(n, "a"); err != nil || text(a) != "10.64.2.3/24" {
		t.Errorf("%v, %v", a, err)
	}
	if got, want := b.records(t), "n/10.64.2.2 n/10.64.2.3 n/fd64:0:0:1::2"; got != want {
		t.Errorf("records %s, want %s: a family without a lease keeps its address", got, want)
	}
	// What is not committed changes nothing.
	n = leased("n", "10.64.3.0/30", "fd64:0:0:3::/64")
	b.keep(t, n)
	c, err := b.Renew(t.Context(), "n", "a")
	if err != nil || text(c.Addrs) != "10.64.3.2/30 fd64:0:0:3::2/64" {
		t.Fatal(c, err)
	}
	_, err = b.Renew(t.Context(), "n", "a")
	wantError(t, err, cnm.ErrConflict)
	c.Done(false)
	for _, owner := range []string{"a", "late"} {
		a, err := b.renew(n, owner)
		if owner == "late" {
			wantError(t, err, cnm.ErrExhausted, "10.64.3.0/30") // .1 is the gateway, and a has the other one
			break
		}
		if err != nil || text(a)[:len("10.64.3.2/30 ")] != "10.64.3.2/30 " {
			t.Fatal(a, err)
		}
	}
	b.reopen(t)
	if err := b.release(n, "a"); err != nil {
		t.Fatal(err)
	}
	if a, err := b.renew(n, "late"); err != nil || a[0].String() != "10.64.3.2/30" {
		t.Error(a, err)
	}
	if err := b.release(n, "late"); err != nil || b.records(t) != "" {
		t.Errorf("%v; left: %s", err, b.records(t))
	}
	if c, err := b.Renew(t.Context(), "unknown", "a"); err != nil || len(c.Writes) != 0 {
		t.Error(c, err)
	}
}

// TestReleaseDuringRenewal checks that an owner who leaves while it is being renewed has nothing left,
// whichever of the two commits.
func TestReleaseDuringRenewal(t *testing.T) {
	for _, committed := range []bool{false, true} {
		b := newBed(t)
		n := leased("n", "10.64.1.0/24")
		b.keep(t, n)
		if _, err := b.claim(n, "a"); err != nil {
			t.Fatal(err)
		}
		n = leased("n", "10.64.2.0/30")
		b.keep(t, n)
		c, err := b.Renew(t.Context(), "n", "a")
		if err != nil {
			t.Fatal(err)
		}
		if committed {
			if err := b.store.Commit(t.Context(), c.Writes...); err != nil {
				t.Fatal(err)
			}
		}
		if err := b.release(n, "a"); err != nil {
			t.Fatal(err)
		}
		c.Done(committed)
		if got := b.records(t); got != "" {
			t.Errorf("committed %t: left %s", committed, got)
		}
		if a, err := b.claim(n, "b"); err != nil || text(a) != "10.64.2.2/30" {
			t.Errorf("committed %t: the only address: %v, %v", committed, a, err)
		}
	}
}

// Nodes of a cluster share one subnet of a family.
func TestResolveRefusesASecondSubnet(t *testing.T) {
	_, err := newBed(t).Resolve(t.Context(), []cnm.PoolRequest{subnet("10.2.0.0/24"), subnet("10.3.0.0/24")}, nil)
	wantError(t, err, cnm.ErrInvalid, "10.3.0.0/24", "second IPv4", "network of the cluster")
}

func TestResolve(t *testing.T) {
	b := newBed(t, "10.1.0.0/24", "0.0.0.0/0")
	b.network(t, "web", subnet("10.2.128.0/24"))
	p := netip.MustParsePrefix
	pools, err := b.Resolve(t.Context(), []cnm.PoolRequest{{IPv6: true}, {}},
		[]netip.Prefix{p("10.0.0.0/16"), p("10.3.0.0/24")})
	if err != nil || len(pools) != 2 || pools[0].Subnet != p("10.4.0.0/16") ||
		pools[0].Gateway != netip.MustParseAddr("10.4.0.1") || pools[0].Range != pools[0].Subnet {
		t.Fatalf("%+v, %v", pools, err)
	}
	if s := pools[1].Subnet; s.Bits() != 56 || !p("fd00::/8").Contains(s.Addr()) {
		t.Errorf("IPv6: %s", s)
	}
	again, err := b.Resolve(t.Context(), []cnm.PoolRequest{{}}, nil)
	if err != nil || again[0].Subnet != p("10.0.0.0/16") {
		t.Errorf("nothing is held: %v, %v", again, err)
	}
	if big, err := b.Resolve(t.Context(), []cnm.PoolRequest{{Bits: 12}}, nil); err != nil ||
		big[0].Subnet != p("10.16.0.0/12") {
		t.Errorf("%v, %v", big, err)
	}
	for _, c := range []struct {
		r     cnm.PoolRequest
		taken []netip.Prefix
		kind  error
		part  string
	}{
		{subnet("10.2.0.0/16"), nil, cnm.ErrExists, `"name-web"`},
		{subnet("10.9.0.0/16"), []netip.Prefix{p("10.9.3.0/24")}, cnm.ErrExists,
			"10.9.3.0/24 of another network of the cluster"},
		{subnet("10.1.0.0/24"), nil, cnm.ErrExists, "the host itself"},
		{subnet("10.9.0.1/16"), nil, cnm.ErrInvalid, "host bits"},
		{cnm.PoolRequest{Bits: 7}, nil, cnm.ErrInvalid, "/8 to /31"},
		{cnm.PoolRequest{}, []netip.Prefix{p("10.0.0.0/8")}, cnm.ErrExhausted, "10.0.0.0/8"},
	} {
		_, err := b.Resolve(t.Context(), []cnm.PoolRequest{c.r}, c.taken)
		wantError(t, err, c.kind, c.part)
	}
	// Networks of the cluster and of this node keep clear of each other, the whole subnets.
	b.keep(t, leased("lane", "10.64.1.0/24"))
	_, err = b.Pools(t.Context(), cnm.Network{ID: "x"}, []cnm.PoolRequest{subnet("10.64.200.0/24")})
	wantError(t, err, cnm.ErrExists, "10.64.0.0/16", `"name-lane"`)
	wantError(t, b.Update(shared("over", "10.2.0.0/16")), cnm.ErrExists, "10.2.128.0/24", `"name-web"`)
	b.Forget("web")
	if err := b.Update(shared("over", "10.2.0.0/16")); err != nil {
		t.Error(err)
	}
}

// TestBlocksAgainstModel compares the allocator of a shared subnet with a map, while blocks come and go and owners
// are renewed, with restarts.
func TestBlocksAgainstModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		b := newBed(t)
		n := shared("n", rapid.SampledFrom([]string{"10.1.2.0/26", "fd00::ffff:ff00/122"}).Draw(rt, "subnet"))
		pool := &n.Pools[0]
		host := pool.Subnet.Addr().BitLen()
		var all []netip.Addr
		for a := pool.Subnet.Addr(); pool.Subnet.Contains(a); a = a.Next() {
			all = append(all, a)
		}
		if rapid.Bool().Draw(rt, "range") {
			pool.Range = netip.PrefixFrom(all[16], pool.Subnet.Bits()+rapid.IntRange(2, 5).Draw(rt, "bits"))
		}
		b.keep(t, n)
		unusable := func(a netip.Addr) bool {
			return a == all[0] || a.Is4() && a == all[len(all)-1] ||
				a == pool.Gateway
		}
		ours := func(a netip.Addr) bool {
			return slices.ContainsFunc(pool.Blocks, func(b netip.Prefix) bool { return b.Contains(a) })
		}
		taken, owned := map[netip.Addr]string{}, map[string]netip.Addr{}
		free := func() (out []netip.Addr) {
			for _, a := range all {
				if ours(a) && pool.Range.Contains(a) && !unusable(a) && taken[a] == "" {
					out = append(out, a)
				}
			}
			return out
		}
		owner := rapid.Custom(func(rt *rapid.T) string { return fmt.Sprint("o", rapid.IntRange(0, 60).Draw(rt, "o")) })
		one := func(as []netip.Prefix) netip.Addr {
			if len(as) != 1 || as[0].Bits() != pool.Subnet.Bits() {
				rt.Fatalf("addresses %v", as)
			}
			return as[0].Addr()
		}
		rt.Repeat(map[string]func(*rapid.T){
			"claim": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				if _, ok := owned[o]; ok {
					return
				}
				before := free()
				as, err := b.claim(n, o)
				switch {
				case len(before) == 0 && errors.Is(err, cnm.ErrNoBlock):
				case err != nil || !slices.Contains(before, one(as)):
					rt.Fatalf("%s got %v, %v out of %v", o, as, err, before)
				default:
					taken[one(as)], owned[o] = o, one(as)
				}
			},
			"claim wanted": func(rt *rapid.T) {
				o, want := owner.Draw(rt, "owner"), rapid.SampledFrom(all).Draw(rt, "want")
				if _, ok := owned[o]; ok {
					return
				}
				as, err := b.claim(n, o, want.String())
				switch {
				case taken[want] != "" || unusable(want):
					if !errors.Is(err, cnm.ErrExists) {
						rt.Fatalf("%s is taken: %v, %v", want, as, err)
					}
				case !ours(want):
					if !errors.Is(err, cnm.ErrNoBlock) {
						rt.Fatalf("%s is in no block: %v, %v", want, as, err)
					}
				case err != nil || one(as) != want:
					rt.Fatalf("%s: %v, %v", want, as, err)
				default:
					taken[want], owned[o] = o, want
				}
			},
			"renew": func(rt *rapid.T) {
				o := owner.Draw(rt, "owner")
				have, ok := owned[o]
				if !ok {
					return
				}
				before := free()
				as, err := b.renew(n, o)
				switch {
				case ours(have):
					if err != nil || one(as) != have {
						rt.Fatalf("%s has %s and got %v, %v", o, have, as, err)
					}
				case len(before) == 0:
					if !errors.Is(err, cnm.ErrNoBlock) {
						rt.Fatalf("nothing is free: %v, %v", as, err)
					}
				case err != nil || !slices.Contains(before, one(as)):
					rt.Fatalf("%s got %v, %v out of %v", o, as, err, before)
				default:
					delete(taken, have)
					taken[one(as)], owned[o] = o, one(as)
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
			"block": func(rt *rapid.T) {
				block := netip.PrefixFrom(rapid.SampledFrom(all).Draw(rt, "at"),
					host-rapid.IntRange(0, 4).Draw(rt, "bits")).Masked()
				pool.Blocks = slices.DeleteFunc(slices.Clone(pool.Blocks), block.Overlaps)
				if rapid.IntRange(0, 3).Draw(rt, "add") > 0 {
					pool.Blocks = append(pool.Blocks, block)
				}
				b.keep(t, n)
			},
			"restart": func(*rapid.T) { b.reopen(t) },
			"": func(rt *rapid.T) {
				if got := len(strings.Fields(b.records(t))); got != len(taken) {
					rt.Fatalf("%d records; the model has %d", got, len(taken))
				}
				used, left := 0, 0
				for _, u := range b.Usage("n") {
					used, left = used+u.Used, left+u.Free
				}
				held := 0
				for a := range taken {
					if ours(a) {
						held++
					}
				}
				if used != held || left != len(free()) {
					rt.Fatalf("usage %+v; the model has %d in use and %d free", b.Usage("n"), held, len(free()))
				}
			},
		})
	})
}

// BenchmarkUpdate measures what another block costs a node with many endpoints.
func BenchmarkUpdate(b *testing.B) {
	t := newBed(b)
	n := shared("n", "10.0.0.0/8", "10.1.0.0/16")
	t.keep(b, n)
	for i := range 10000 {
		c, err := t.Claim(b.Context(), n, fmt.Sprint(i), nil, nil)
		if err != nil {
			b.Fatal(err)
		}
		c.Done(true)
	}
	for i := 0; b.Loop(); i++ {
		n.Pools[0].Blocks = []netip.Prefix{n.Pools[0].Blocks[0],
			netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 2, byte(i)}), 24)}
		if err := t.Update(n); err != nil {
			b.Fatal(err)
		}
	}
}

var _ cnm.IPAM = (*ipam.IPAM)(nil)
