package ipam_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store/mem"
	"github.com/vethloom/vethloom/ipam"
)

func TestDefaultSubnets(t *testing.T) {
	b := newBed(t, "0.0.0.0/0", "::/0", "172.18.5.0/24", "172.20.0.0/14", "192.168.0.0/17", "10.0.0.0/8")
	var got []string
	for i := 0; ; i++ {
		n := cnm.Network{ID: fmt.Sprint(i), Name: fmt.Sprint("n", i)}
		pools, err := b.Pools(t.Context(), n, []cnm.PoolRequest{{}})
		if err != nil {
			wantError(t, err, cnm.ErrExhausted, "IPv4", "172.17.0.0/16", "name a subnet")
			break
		}
		got = append(got, pools[0].Subnet.String())
	}
	want := "172.17.0.0/16 172.19.0.0/16 172.24.0.0/16 172.25.0.0/16 172.26.0.0/16 172.27.0.0/16 " +
		"172.28.0.0/16 172.29.0.0/16 172.30.0.0/16 172.31.0.0/16 " +
		"192.168.128.0/20 192.168.144.0/20 192.168.160.0/20 192.168.176.0/20 192.168.192.0/20 " +
		"192.168.208.0/20 192.168.224.0/20 192.168.240.0/20"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	b.Forget("3")
	pools, err := b.Pools(t.Context(), cnm.Network{ID: "x"}, []cnm.PoolRequest{{}})
	if err != nil || pools[0].Subnet.String() != got[3] {
		t.Errorf("after one was given back: %v, %v", pools, err)
	}
}

func TestSubnetsByLength(t *testing.T) {
	b := newBed(t, "172.17.0.0/25")
	for i, c := range []struct {
		r    cnm.PoolRequest
		want string
	}{
		{cnm.PoolRequest{Bits: 24}, "172.17.1.0/24"},
		{cnm.PoolRequest{Bits: 25}, "172.17.0.128/25"},
		{cnm.PoolRequest{Bits: 30}, "172.17.2.0/30"},
		{cnm.PoolRequest{Bits: 16}, "172.18.0.0/16"},
		{cnm.PoolRequest{Bits: 24}, "172.17.3.0/24"},
		{cnm.PoolRequest{Bits: 31}, "172.17.2.4/31"},
	} {
		n := b.network(t, fmt.Sprint(i), c.r)
		if got := n.Pools[0].Subnet.String(); got != c.want {
			t.Errorf("%d: /%d: %s, want %s", i, c.r.Bits, got, c.want)
		}
	}
}

func TestIPv6Subnets(t *testing.T) {
	b := newBed(t)
	first := b.network(t, "a", cnm.PoolRequest{IPv6: true}).Pools[0].Subnet
	second := b.network(t, "b", cnm.PoolRequest{IPv6: true}).Pools[0].Subnet
	site := netip.PrefixFrom(first.Addr(), 48).Masked()
	if first.Bits() != 64 || second == first || !site.Contains(second.Addr()) ||
		!netip.MustParsePrefix("fd00::/8").Contains(first.Addr()) {
		t.Errorf("%s, %s", first, second)
	}
	if p := b.network(t, "c", cnm.PoolRequest{IPv6: true, Bits: 80}).Pools[0].Subnet; p.Bits() != 80 ||
		!site.Contains(p.Addr()) || p.Overlaps(first) || p.Overlaps(second) {
		t.Errorf("a /80: %s", p)
	}
	siteOf := func(text string) netip.Prefix {
		m, err := ipam.New(t.Context(), ipam.Config{Store: mem.New(), Site: text})
		if err != nil {
			t.Fatal(err)
		}
		pools, err := m.Pools(t.Context(), cnm.Network{ID: "n"}, []cnm.PoolRequest{{IPv6: true}})
		if err != nil {
			t.Fatal(err)
		}
		return pools[0].Subnet
	}
	x, again, y := siteOf("x"), siteOf("x"), siteOf("y")
	one, other := siteOf(""), siteOf("")
	if x != again || x == y || one == other {
		t.Error("the site prefix must depend on the text, and be random without")
	}
}

// Of a pool without a gateway, endpoints get the address that it would have had.
func TestPoolWithoutGateway(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "x", cnm.PoolRequest{Subnet: netip.MustParsePrefix("10.2.0.0/24"), NoGateway: true})
	claim, err := b.Claim(t.Context(), n, "owner", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	claim.Done(false)
	if got := claim.Addrs[0].String(); n.Pools[0].Gateway.IsValid() || got != "10.2.0.1/24" {
		t.Errorf("gateway %s, first address %s", n.Pools[0].Gateway, got)
	}
}

// Endpoints get addresses of a family's first subnet that has any, or of the one that what they ask for is in.
func TestSeveralSubnets(t *testing.T) {
	b := newBed(t)
	n := b.network(t, "x", subnet("10.2.0.0/30"), subnet("fd02::/64"), subnet("10.1.0.0/29"), subnet("fd01::/64"))
	for _, c := range []struct{ owner, want, got string }{
		{"a", "", "10.2.0.2/30 fd02::2/64"}, {"b", "", "10.1.0.2/29 fd02::3/64"}, // the first has one address
		{"c", "10.1.0.5", "10.1.0.5/29 fd02::4/64"}, {"d", "fd01::9", "10.1.0.3/29 fd01::9/64"},
	} {
		got, err := b.claim(n, c.owner, strings.Fields(c.want)...)
		if err != nil || text(got) != c.got {
			t.Errorf("%s, who wants %q, got %s, %v; want %s", c.owner, c.want, text(got), err, c.got)
		}
	}
	if err := b.release(n, "a"); err != nil {
		t.Fatal(err)
	}
	b.reopen(t)
	for _, c := range []struct{ owner, got string }{
		{"e", "10.2.0.2/30"}, {"f", "10.1.0.6/29"}, {"g", "10.1.0.4/29"}, {"b", "10.1.0.2/29"},
	} {
		if got, err := b.claim(n, c.owner); err != nil || !strings.HasPrefix(text(got), c.got+" ") {
			t.Errorf("%s got %s, %v; want %s", c.owner, text(got), err, c.got)
		}
	}
	_, err := b.claim(n, "h")
	wantError(t, err, cnm.ErrExhausted, "all of 10.2.0.0/30 and 10.1.0.0/29 are in use")
	_, err = b.claim(n, "h", "10.1.0.5", "10.2.0.2")
	wantError(t, err, cnm.ErrExists, "10.1.0.5")
	picked := b.network(t, "y", cnm.PoolRequest{}, subnet("172.17.0.0/16"), cnm.PoolRequest{Bits: 24})
	if got := picked.Pools; len(got) != 3 || got[0].Subnet.Overlaps(got[2].Subnet) ||
		got[0].Subnet.Overlaps(got[1].Subnet) {
		t.Errorf("picked %v", got)
	}
}

func TestPoolRefusals(t *testing.T) {
	b := newBed(t, "10.77.0.0/24", "10.78.0.0/16")
	b.network(t, "web", subnet("10.1.0.0/24"), subnet("fd00:1::/64"))
	p, a := netip.MustParsePrefix, netip.MustParseAddr
	for name, c := range map[string]struct {
		r     []cnm.PoolRequest
		kind  error
		parts []string
	}{
		"overlap": {[]cnm.PoolRequest{subnet("10.0.0.0/8")}, cnm.ErrExists,
			[]string{`subnet "10.0.0.0/8"`, "10.1.0.0/24", `"name-web"`, "/24"}},
		"IPv6 overlap": {[]cnm.PoolRequest{subnet("fd00:1:0:0:1::/80")}, cnm.ErrExists,
			[]string{"fd00:1::/64"}},
		"the host's": {[]cnm.PoolRequest{subnet("10.77.0.0/24")}, cnm.ErrExists,
			[]string{"the host itself", "ip route"}},
		"host bits": {[]cnm.PoolRequest{subnet("10.2.0.5/24")}, cnm.ErrInvalid,
			[]string{"10.2.0.5/24", "write 10.2.0.0/24"}},
		"one address": {[]cnm.PoolRequest{subnet("10.2.0.5/32")}, cnm.ErrInvalid,
			[]string{"a single address", "/31"}},
		"one of IPv6": {[]cnm.PoolRequest{subnet("fd00::1/128")}, cnm.ErrInvalid,
			[]string{"a single address", "/127"}},
		"multicast": {[]cnm.PoolRequest{subnet("224.0.0.0/24")}, cnm.ErrInvalid,
			[]string{"multicast", "224.0.0.0/4"}},
		"loopback":    {[]cnm.PoolRequest{subnet("127.0.0.0/16")}, cnm.ErrInvalid, []string{"loopback"}},
		"everything":  {[]cnm.PoolRequest{subnet("0.0.0.0/0")}, cnm.ErrInvalid, []string{"private subnet"}},
		"all of IPv6": {[]cnm.PoolRequest{subnet("::/0")}, cnm.ErrInvalid, []string{"private subnet"}},
		"link-local":  {[]cnm.PoolRequest{subnet("fe80::/64")}, cnm.ErrInvalid, []string{"link-local"}},
		"mapped": {[]cnm.PoolRequest{subnet("::ffff:10.2.0.0/120")}, cnm.ErrInvalid,
			[]string{"write it as IPv4"}},
		"overlap of its own": {[]cnm.PoolRequest{subnet("10.2.0.0/16"), subnet("10.2.3.0/24")}, cnm.ErrInvalid,
			[]string{"10.2.3.0/24", "overlaps 10.2.0.0/16 of the same network"}},
		"long length":  {[]cnm.PoolRequest{{Bits: 32}}, cnm.ErrInvalid, []string{"/32", "/16 to /31"}},
		"short length": {[]cnm.PoolRequest{{Bits: 8}}, cnm.ErrInvalid, []string{"/8", "/16 to /31"}},
		"IPv6 length": {[]cnm.PoolRequest{{Bits: 40, IPv6: true}}, cnm.ErrInvalid,
			[]string{"/40", "/48 to /127"}},
		"length and more": {[]cnm.PoolRequest{{Bits: 24, Gateway: a("10.0.0.1")}}, cnm.ErrInvalid,
			[]string{"name the subnet too"}},
		"gateway and none": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Gateway: a("10.2.0.1"), NoGateway: true}},
			cnm.ErrInvalid, []string{`gateway "10.2.0.1"`, "leave the gateway or the option out"}},
		"gateway outside": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Gateway: a("10.3.0.1")}}, cnm.ErrInvalid,
			[]string{`gateway "10.3.0.1"`, "10.2.0.0/24"}},
		"gateway is broadcast": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Gateway: a("10.2.0.255")}},
			cnm.ErrInvalid, []string{"the broadcast address"}},
		"gateway is anycast": {[]cnm.PoolRequest{{Subnet: p("fd00:2::/64"), Gateway: a("fd00:2::")}}, cnm.ErrInvalid,
			[]string{"anycast"}},
		"range outside": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Range: p("10.3.0.0/25")}},
			cnm.ErrInvalid, []string{`ip-range "10.3.0.0/25"`, "10.2.0.0/24"}},
		"range larger": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Range: p("10.2.0.0/23")}},
			cnm.ErrInvalid, []string{"ip-range"}},
		"range of bits": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Range: p("10.2.0.5/30")}},
			cnm.ErrInvalid, []string{"ip-range", "10.2.0.4/30"}},
		"aux outside": {
			[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Aux: map[string]netip.Addr{"x": a("10.3.0.1")}}},
			cnm.ErrInvalid, []string{"aux-address x", "10.3.0.1"}},
		"aux and gateway": {[]cnm.PoolRequest{{Subnet: p("10.2.0.0/24"), Gateway: a("10.2.0.9"),
			Aux: map[string]netip.Addr{"x": a("10.2.0.9")}}}, cnm.ErrInvalid, []string{"10.2.0.9", `"x"`}},
		"no gateway left": {
			[]cnm.PoolRequest{{Subnet: p("10.2.0.0/31"), Aux: map[string]netip.Addr{"x": a("10.2.0.0"),
				"y": a("10.2.0.1")}}}, cnm.ErrInvalid, []string{"no address for the gateway"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.Pools(t.Context(), cnm.Network{ID: "new", Name: "new"}, c.r)
			wantError(t, err, c.kind, c.parts...)
		})
	}
	// A wider or narrower prefix of the host is no obstacle to naming a subnet.
	b.network(t, "narrow", subnet("10.78.1.0/24"))
	b.network(t, "wide", subnet("10.76.0.0/15"))
}

func TestHostCannotBeRead(t *testing.T) {
	broken := errors.New("no netlink")
	m, err := ipam.New(t.Context(),
		ipam.Config{Store: mem.New(), Avoid: func(context.Context) ([]netip.Prefix, error) { return nil, broken }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.Pools(t.Context(), cnm.Network{ID: "n"}, []cnm.PoolRequest{{}}); !errors.Is(err, broken) {
		t.Errorf("error %v", err)
	}
}
