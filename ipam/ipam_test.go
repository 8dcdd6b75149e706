package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bed is an allocator with its store.
type bed struct {
	*ipam.IPAM
	store cnm.Store
	host  []netip.Prefix
}

func newBed(t testing.TB, host ...string) *bed {
	t.Helper()
	b := &bed{store: mem.New()}
	for _, h := range host {
		b.host = append(b.host, netip.MustParsePrefix(h))
	}
	b.reopen(t)
	return b
}

func (b *bed) reopen(t testing.TB) {
	t.Helper()
	var err error
	b.IPAM, err = ipam.New(context.Background(), ipam.Config{
		Store: b.store, Site: "test",
		Avoid: func(context.Context) ([]netip.Prefix, error) { return b.host, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
}

// network makes a network with the subnets and stores its record.
func (b *bed) network(t testing.TB, id string, requests ...cnm.PoolRequest) cnm.Network {
	t.Helper()
	n := cnm.Network{ID: id, Name: "name-" + id, Phase: cnm.Active}
	var err error
	if n.Pools, err = b.Pools(context.Background(), n, requests); err != nil {
		t.Fatal(err)
	}
	b.record(t, n)
	return n
}

func (b *bed) record(t testing.TB, n cnm.Network) {
	t.Helper()
	var pools []string
	for _, p := range n.Pools {
		pools = append(pools, fmt.Sprintf(`{"subnet":%q,"range":%q,"gateway":%q}`, p.Subnet, p.Range, p.Gateway))
	}
	v := fmt.Sprintf(`{"id":%q,"name":%q,"phase":"active","pools":[%s]}`, n.ID, n.Name, strings.Join(pools, ","))
	if err := b.store.Commit(context.Background(), cnm.Write{Key: cnm.Key{Kind: cnm.KindNetwork, ID: n.ID},
		Value: []byte(v)}); err != nil {
		t.Fatal(err)
	}
}

func subnet(s string) cnm.PoolRequest { return cnm.PoolRequest{Subnet: netip.MustParsePrefix(s)} }

// claim claims and commits.
func (b *bed) claim(n cnm.Network, owner string, want ...string) ([]netip.Prefix, error) {
	var addrs []netip.Addr
	for _, w := range want {
		addrs = append(addrs, netip.MustParseAddr(w))
	}
	c, err := b.Claim(context.Background(), n, owner, addrs, nil)
	if err != nil {
		return nil, err
	}
	err = b.store.Commit(context.Background(), c.Writes...)
	c.Done(err == nil)
	return c.Addrs, err
}

func (b *bed) release(n cnm.Network, owner string) error {
	c, err := b.Release(context.Background(), n.ID, owner)
	if err != nil {
		return err
	}
	err = b.store.Commit(context.Background(), c.Writes...)
	c.Done(err == nil)
	return err
}

func text(ps []netip.Prefix) string {
	var s []string
	for _, p := range ps {
		s = append(s, p.String())
	}
	return strings.Join(s, " ")
}

func wantError(t testing.TB, err, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v, want kind %q", err, kind)
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// TestEveryAddressOfAPool claims all of a pool and shows what is left out.
func TestEveryAddressOfAPool(t *testing.T) {
	for _, c := range []struct {
		request cnm.PoolRequest
		gateway string
		want    string
	}{
		{subnet("10.0.0.0/29"), "10.0.0.1", "10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5 10.0.0.6"},
		{subnet("10.0.0.0/30"), "10.0.0.1", "10.0.0.2"},
		{subnet("10.0.0.0/31"), "10.0.0.0", "10.0.0.1"},
		{subnet("10.0.0.254/31"), "10.0.0.254", "10.0.0.255"},
		{subnet("fd00::/125"), "fd00::1", "fd00::2 fd00::3 fd00::4 fd00::5 fd00::6 fd00::7"},
		{subnet("fd00::/126"), "fd00::1", "fd00::2 fd00::3"},
		{subnet("fd00::/127"), "fd00::", "fd00::1"},
		{cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.0.248/30")},
			"10.0.0.1", "10.0.0.248 10.0.0.249 10.0.0.250 10.0.0.251"},
		{cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.0.252/30")},
			"10.0.0.1", "10.0.0.252 10.0.0.253 10.0.0.254"},
		{cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Gateway: netip.MustParseAddr("10.0.0.6")},
			"10.0.0.6", "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5"},
		{cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/29"), Aux: map[string]netip.Addr{
			"printer": netip.MustParseAddr("10.0.0.1"), "x": netip.MustParseAddr("10.0.0.4")}},
			"10.0.0.2", "10.0.0.3 10.0.0.5 10.0.0.6"},
		{cnm.PoolRequest{Subnet: netip.MustParsePrefix("fd00::/64"),
			Range: netip.MustParsePrefix("fd00::ff00:0:0:0/126")}, "fd00::1",
			"fd00::ff00:0:0:0 fd00::ff00:0:0:1 fd00::ff00:0:0:2 fd00::ff00:0:0:3"},
	} {
		t.Run(c.request.Subnet.String()+" "+c.request.Range.String(), func(t *testing.T) {
			b := newBed(t)
			n := b.network(t, "n", c.request)
			if g := n.Pools[0].Gateway.String(); g != c.gateway {
				t.Errorf("gateway %s, want %s", g, c.gateway)
			}
			var got []string
			for i := 0; ; i++ {
				a, err := b.claim(n, fmt.Sprint("e", i))
				if err != nil {
					wantError(t, err, cnm.ErrExhausted, `"name-n"`, fmt.Sprintf("all %d of", i),
						c.request.Subnet.String(), "larger")
					break
				}
				if a[0].Bits() != c.request.Subnet.Bits() {
					t.Errorf("%s: not the subnet's length", a[0])
				}
				got = append(got, a[0].Addr().String())
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got  %s\nwant %s", s, c.want)
			}
			// The first of them is free again, and found.
			if err := b.release(n, "e0"); err != nil {
				t.Fatal(err)
			}
			if a, err := b.claim(n, "again"); err != nil || a[0].Addr().String() != got[0] {
				t.Errorf("the only free address: %v, %v", a, err)
			}
		})
	}
}

func TestReleasedAddressesRest(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", subnet("10.0.0.0/29"))
	for i, want := range []string{"10.0.0.2/29", "10.0.0.3/29", "10.0.0.4/29", "10.0.0.5/29", "10.0.0.6/29",
		"10.0.0.2/29"} {
		a, err := b.claim(n, fmt.Sprint("e", i))
		if err != nil || text(a) != want {
			t.Fatalf("%d: %v, %v; want %s", i, a, err, want)
		}
		if err := b.release(n, fmt.Sprint("e", i)); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := b.claim(n, "stays"); err != nil || text(a) != "10.0.0.3/29" {
		t.Fatal(a, err)
	}
	// A new start goes on behind the last one in use.
	b.reopen(t)
	if a, err := b.claim(n, "next"); err != nil || text(a) != "10.0.0.4/29" {
		t.Fatal(a, err)
	}
}

func TestClaims(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", subnet("10.0.0.0/24"), subnet("fd00::/64"))
	a, err := b.claim(n, "first")
	if err != nil || text(a) != "10.0.0.2/24 fd00::2/64" {
		t.Fatal(a, err)
	}
	if again, err := b.claim(n, "first"); err != nil || text(again) != text(a) {
		t.Errorf("the same owner again: %v, %v", again, err)
	}
	_, err = b.claim(n, "first", "10.0.0.77")
	wantError(t, err, cnm.ErrExists, "10.0.0.77", "10.0.0.2")
	if a, err := b.claim(n, "wanted", "fd00::abcd:1", "10.0.0.200"); err != nil ||
		text(a) != "10.0.0.200/24 fd00::abcd:1/64" {
		t.Errorf("wanted addresses: %v, %v", a, err)
	}
	if a, err := b.claim(n, "mapped", "::ffff:10.0.0.201"); err != nil || text(a) != "10.0.0.201/24 fd00::3/64" {
		t.Errorf("an IPv4 address in IPv6 notation: %v, %v", a, err)
	}
	for addr, c := range map[string]struct {
		kind  error
		parts []string
	}{
		"10.0.0.200": {cnm.ErrExists, []string{"taken by wanted", `"name-n"`, "another address"}},
		"10.0.0.1":   {cnm.ErrExists, []string{"the gateway"}},
		"10.0.0.0":   {cnm.ErrExists, []string{"the network address"}},
		"10.0.0.255": {cnm.ErrExists, []string{"the broadcast address"}},
		"fd00::":     {cnm.ErrExists, []string{"subnet-router anycast"}},
		"10.0.1.1":   {cnm.ErrInvalid, []string{"not in the subnet", "10.0.0.0/24 and fd00::/64"}},
		"fd01::1":    {cnm.ErrInvalid, []string{"not in the subnet"}},
	} {
		_, err := b.claim(n, "refused", addr)
		wantError(t, err, c.kind, append(c.parts, addr)...)
	}
	_, err = b.claim(n, "refused", "10.0.0.20", "10.0.0.21")
	wantError(t, err, cnm.ErrInvalid, "10.0.0.20", "10.0.0.21", "one address of each family")
	// None of the refusals holds anything.
	if a, err := b.claim(n, "last", "10.0.0.20"); err != nil || text(a) != "10.0.0.20/24 fd00::4/64" {
		t.Errorf("%v, %v", a, err)
	}
}

// What an owner had before it has again where that is free and would be picked.
func TestClaimsOfWhatWasBefore(t *testing.T) {
	b := newBed(t)
	r := subnet("10.0.0.0/24")
	r.Range = netip.MustParsePrefix("10.0.0.128/25")
	n := b.network(t, "n", r, subnet("fd00::/64"))
	if _, err := b.claim(n, "other", "10.0.0.200"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ before, want string }{
		{"10.0.0.140 fd00::99", "10.0.0.140/24 fd00::99/64"},
		{"10.0.0.200", "10.0.0.128/24 fd00::3/64"},                  // taken
		{"10.0.0.9 fd00:1::1", "10.0.0.129/24 fd00::4/64"},          // outside of the range, of another subnet
		{"10.0.0.1 10.0.0.255 fd00::1", "10.0.0.130/24 fd00::5/64"}, // never an endpoint's
	} {
		var before []netip.Addr
		for _, a := range strings.Fields(c.before) {
			before = append(before, netip.MustParseAddr(a))
		}
		claim, err := b.Claim(t.Context(), n, c.before, nil, before)
		if err != nil {
			t.Fatal(err)
		}
		claim.Done(true)
		if text(claim.Addrs) != c.want {
			t.Errorf("before %s: %s, want %s", c.before, text(claim.Addrs), c.want)
		}
	}
}

func TestClaimsThatAreNotCommitted(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", subnet("10.0.0.0/30"))
	c, err := b.Claim(t.Context(), n, "a", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Claim(t.Context(), n, "b", nil, nil)
	wantError(t, err, cnm.ErrExhausted)
	_, err = b.Claim(t.Context(), n, "a", nil, nil)
	wantError(t, err, cnm.ErrConflict)
	c.Done(false)
	if _, err := b.claim(n, "b"); err != nil {
		t.Errorf("the address of a failed claim is not free: %v", err)
	}
	r, err := b.Release(t.Context(), n.ID, "b")
	if err != nil {
		t.Fatal(err)
	}
	r.Done(false)
	_, err = b.Claim(t.Context(), n, "c", nil, nil)
	wantError(t, err, cnm.ErrExhausted)
	if err := b.release(n, "b"); err != nil {
		t.Fatal(err)
	}
	if err := b.release(n, "b"); err != nil {
		t.Errorf("released twice: %v", err)
	}
	if err := b.release(cnm.Network{ID: "never"}, "x"); err != nil {
		t.Errorf("a network that is not known: %v", err)
	}
	if _, err := b.claim(n, "c"); err != nil {
		t.Error(err)
	}
	if rs, err := b.store.List(t.Context(), cnm.KindAddress); err != nil || len(rs) != 1 ||
		rs[0].Key.ID != "n/10.0.0.2" {
		t.Errorf("records %v, %v", rs, err)
	}
}

// TestHalfOfAClaimIsNotKept checks that an owner who cannot have both families has
// neither.
func TestHalfOfAClaimIsNotKept(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", subnet("10.0.0.0/29"), subnet("fd00::/127"))
	if _, err := b.claim(n, "a"); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, err := b.claim(n, "b")
		wantError(t, err, cnm.ErrExhausted, "fd00::/127")
	}
	if err := b.release(n, "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.claim(n, "b"); err != nil {
		t.Error(err)
	}
}

func TestParallelClaims(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", subnet("10.0.0.0/24"))
	got := make([]string, 253)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			a, err := b.claim(n, fmt.Sprint(i))
			if err != nil {
				t.Error(err)
				return
			}
			got[i] = text(a)
		})
	}
	wg.Wait()
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != 253 {
		t.Errorf("%d different addresses, want 253", n)
	}
}

func TestRequestedAddressOutsideOfTheRange(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "n", cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"),
		Range: netip.MustParsePrefix("10.0.0.64/31")})
	if a, err := b.claim(n, "a", "10.0.0.200"); err != nil || text(a) != "10.0.0.200/24" {
		t.Errorf("%v, %v", a, err)
	}
	b.reopen(t)
	_, err := b.claim(n, "b", "10.0.0.200")
	wantError(t, err, cnm.ErrExists, "taken by a")
	for _, owner := range []string{"c", "d"} {
		if _, err := b.claim(n, owner); err != nil {
			t.Fatal(err)
		}
	}
	_, err = b.claim(n, "e")
	wantError(t, err, cnm.ErrExhausted, "all 2 of", "10.0.0.64/31")
}
