package ipam

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// siteFrom derives the /48 of unique local addresses (RFC 4193) that IPv6
// subnets are picked from.
func siteFrom(text string) (netip.Prefix, error) {
	var id [5]byte
	if text == "" {
		if _, err := rand.Read(id[:]); err != nil {
			return netip.Prefix{}, fmt.Errorf("pick the site prefix of IPv6 subnets: %w", err)
		}
	} else {
		sum := sha256.Sum256([]byte("vethloom site " + text))
		copy(id[:], sum[:])
	}
	b := [16]byte{0xfd, id[0], id[1], id[2], id[3], id[4]}
	return netip.PrefixFrom(netip.AddrFrom16(b), 48), nil
}

// defaults are where subnets are picked from, in order: the parts of RFC 1918 space that
// container engines by custom use, and the host's site of unique local addresses.
func (m *IPAM) defaults(ipv6 bool) []source {
	if ipv6 {
		return []source{{m.site, 64}}
	}
	var out []source
	for i := byte(17); i <= 31; i++ {
		out = append(out, source{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, i}), 16), 16})
	}
	return append(out, source{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168}), 16), 20})
}

// source is a prefix that subnets are picked from, and their default length.
type source struct {
	prefix netip.Prefix
	bits   int
}

// Pools implements [cnm.IPAM].
func (m *IPAM) Pools(ctx context.Context, n cnm.Network, requests []cnm.PoolRequest) ([]cnm.Pool, error) {
	w := where{sources: m.defaults, least4: 16, several: true}
	if err := w.look(ctx, m, requests); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.networks[n.ID]; e != nil {
		return nil, fmt.Errorf("pick subnets for network %q: it has its subnets: %w", n.Name, cnm.ErrExists)
	}
	var err error
	if n.Pools, err = m.resolve(requests, w); err != nil {
		return nil, err
	}
	m.network(n)
	return slices.Clone(n.Pools), nil
}

// where says where the subnets of a network can be.
type where struct {
	sources func(ipv6 bool) []source
	several bool           // a family may have more than one
	least4  int            // the shortest length that an IPv4 subnet is picked with
	host    []netip.Prefix // what the host uses
	taken   []netip.Prefix // subnets of networks that this node does not have
}

// look checks the requests by themselves and finds out what the host uses.
func (w *where) look(ctx context.Context, m *IPAM, requests []cnm.PoolRequest) (err error) {
	for i, r := range requests {
		if err := checkRequest(r, w.least4); err != nil {
			return err
		}
		for _, q := range requests[:i] {
			if q.Is6() == r.Is6() && !w.several {
				return invalid("subnet", subnetText(r), fmt.Sprintf("a second %s subnet", familyName(r)),
					"a network of the cluster has one subnet of each family")
			}
			if q.Subnet.IsValid() && q.Subnet.Overlaps(r.Subnet) {
				return invalid("subnet", subnetText(r), fmt.Sprintf("overlaps %s of the same network", q.Subnet),
					"give the network subnets that do not")
			}
		}
	}
	w.host, err = m.host(ctx)
	return err
}

// Forget implements [cnm.IPAM].
func (m *IPAM) Forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.networks, id)
}

// host is what the host uses; default routes do not count, as every subnet is
// part of them.
func (m *IPAM) host(ctx context.Context) ([]netip.Prefix, error) {
	if m.avoid == nil {
		return nil, nil
	}
	all, err := m.avoid(ctx)
	if err != nil {
		return nil, fmt.Errorf("find out which prefixes the host uses: %w", err)
	}
	return slices.DeleteFunc(slices.Clone(all), func(p netip.Prefix) bool { return !p.IsValid() || p.Bits() == 0 }), nil
}

// resolve finds the pools, IPv4 first. The caller holds mu.
func (m *IPAM) resolve(requests []cnm.PoolRequest, w where) ([]cnm.Pool, error) {
	var pools []cnm.Pool
	for _, r := range requests { // those that are picked keep clear of those that have a name
		if r.Subnet.IsValid() {
			if err := m.free(r.Subnet, r.LAN, w); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range requests {
		if r.Subnet.IsValid() {
			w.taken = append(slices.Clip(w.taken), r.Subnet)
		}
	}
	for _, r := range requests {
		subnet := r.Subnet
		var err error
		if !subnet.IsValid() {
			subnet, err = m.choose(r, w)
		}
		if err != nil {
			return nil, err
		}
		p, err := complete(r, subnet)
		if err != nil {
			return nil, err
		}
		pools = append(pools, p)
		w.taken = append(slices.Clip(w.taken), subnet)
	}
	slices.SortStableFunc(pools, func(a, b cnm.Pool) int { return a.Subnet.Addr().BitLen() - b.Subnet.Addr().BitLen() })
	return pools, nil
}

// free refuses a subnet that overlaps another network's, or that is one the
// host has a route to, unless it is a LAN of the host's. A host's route to a wider or narrower prefix is
// the user's affair.
func (m *IPAM) free(subnet netip.Prefix, lan bool, w where) error {
	refuse := func(reason string) error {
		return &cnm.Error{
			Kind: cnm.ErrExists, Field: "subnet", Value: subnet.String(), Reason: reason,
			Remedy: "choose another subnet, or only a length such as /24 to have a free one picked",
		}
	}
	if name, other, ok := m.overlap(subnet, ""); ok {
		return refuse(fmt.Sprintf("overlaps %s of network %q", other, name))
	}
	if i := slices.IndexFunc(w.taken, subnet.Overlaps); i >= 0 {
		return refuse(fmt.Sprintf("overlaps %s of another network of the cluster", w.taken[i]))
	}
	if !lan && slices.Contains(w.host, subnet) {
		return refuse("the host itself has an address in it or a route to it (see ip route)")
	}
	return nil
}

// overlap finds a network that has a part of the subnet, other than the one of that ID.
func (m *IPAM) overlap(subnet netip.Prefix, but string) (name string, other netip.Prefix, ok bool) {
	for id, e := range m.networks {
		if id == but {
			continue
		}
		for _, other := range e.taken() {
			if other.Overlaps(subnet) {
				return e.name, other, true
			}
		}
	}
	return "", netip.Prefix{}, false
}

// choose finds a free subnet. What is in the way is stepped over in one go,
// so the search is short whatever the length asked for.
func (m *IPAM) choose(r cnm.PoolRequest, w where) (netip.Prefix, error) {
	taken := slices.Concat(w.host, w.taken)
	for _, e := range m.networks {
		taken = append(taken, e.taken()...)
	}
	sources := w.sources(r.IPv6)
	for _, s := range sources {
		bits := s.bits
		if r.Bits != 0 {
			bits = r.Bits
		}
		if bits < s.prefix.Bits() {
			return netip.Prefix{}, invalid("subnet", subnetText(r), "larger than what subnets are picked from",
				fmt.Sprintf("ask for /%d or longer, or name the subnet itself", s.prefix.Bits()))
		}
		for c, ok := netip.PrefixFrom(s.prefix.Addr(), bits), true; ok; {
			i := slices.IndexFunc(taken, c.Overlaps)
			if i < 0 {
				return c, nil
			}
			c, ok = after(c, taken[i], s.prefix)
		}
	}
	return netip.Prefix{}, &cnm.Error{
		Kind: cnm.ErrExhausted,
		Reason: fmt.Sprintf("no free %s subnet is left among the default ones (%s)", familyName(r),
			sourceText(sources)),
		Remedy: "remove networks that are not used, ask for a smaller one (such as /24 or /80), " +
			"or name a subnet yourself",
	}
}

// after is the first prefix of c's length behind c and behind what is in its
// way, as long as it is inside of limit.
func after(c, obstacle, limit netip.Prefix) (netip.Prefix, bool) {
	end := last(c)
	if o := last(obstacle.Masked()); end.Less(o) {
		end = o
	}
	next := end.Next()
	if !next.IsValid() || !limit.Contains(next) {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(next, c.Bits()).Masked(), true
}

// complete fills in the range and the gateway and checks them.
func complete(r cnm.PoolRequest, subnet netip.Prefix) (cnm.Pool, error) {
	p := cnm.Pool{Subnet: subnet, Range: r.Range, Gateway: r.Gateway.Unmap(), Aux: r.Aux}
	if !p.Range.IsValid() {
		p.Range = subnet
	}
	if p.Range.Bits() < subnet.Bits() || !subnet.Contains(p.Range.Addr()) {
		return p, invalid("ip-range", p.Range.String(), "not inside of the subnet "+subnet.String(),
			"choose a part of the subnet")
	}
	if p.Range != p.Range.Masked() {
		return p, invalid("ip-range", p.Range.String(), "host bits are set", "write "+p.Range.Masked().String())
	}
	unusable := reserved(subnet)
	by := map[netip.Addr]string{}
	for name, a := range r.Aux {
		if err := usable("aux-address "+name, a.Unmap(), subnet, unusable); err != nil {
			return p, err
		}
		if other, ok := by[a.Unmap()]; ok {
			return p, invalid("aux-address "+name, a.String(), fmt.Sprintf("the same as %q", other),
				"give each one address of its own")
		}
		by[a.Unmap()] = name
	}
	switch {
	case r.NoGateway && r.Gateway.IsValid():
		return p, invalid("gateway", p.Gateway.String(), "the network has no gateway in this family, by its options",
			"leave the gateway or the option out")
	case r.NoGateway:
		return p, nil
	case !r.Gateway.IsValid():
		gateway, err := firstUsable(subnet, unusable, by)
		p.Gateway = gateway
		return p, err
	}
	if name, ok := by[p.Gateway]; ok {
		return p, invalid("gateway", p.Gateway.String(), fmt.Sprintf("the same as aux address %q", name),
			"choose two different addresses")
	}
	return p, usable("gateway", p.Gateway, subnet, unusable)
}

func firstUsable(subnet netip.Prefix, unusable, aux map[netip.Addr]string) (netip.Addr, error) {
	for a := subnet.Addr(); subnet.Contains(a); a = a.Next() {
		if _, ok := unusable[a]; ok {
			continue
		}
		if _, ok := aux[a]; ok {
			continue
		}
		return a, nil
	}
	return netip.Addr{}, invalid("aux-address", fmt.Sprint(len(aux)),
		"they leave no address for the gateway in "+subnet.String(),
		"choose a larger subnet or fewer aux addresses")
}

func usable(field string, a netip.Addr, subnet netip.Prefix, unusable map[netip.Addr]string) error {
	if !subnet.Contains(a) {
		return invalid(field, a.String(), "not in the subnet "+subnet.String(), "choose an address of the subnet")
	}
	if why, ok := unusable[a]; ok {
		return invalid(field, a.String(), fmt.Sprintf("%s of %s", why, subnet), "choose another address of the subnet")
	}
	return nil
}

// checkRequest refuses what is wrong by itself.
func checkRequest(r cnm.PoolRequest, least4 int) error {
	if !r.Subnet.IsValid() {
		return checkLength(r, least4)
	}
	s := r.Subnet
	text := s.String()
	if s.Addr().Is4In6() {
		return invalid("subnet", text, "an IPv4 subnet in IPv6 notation", "write it as IPv4")
	}
	if s != s.Masked() {
		return invalid("subnet", text, "host bits are set", "write "+s.Masked().String())
	}
	for _, no := range unfit() {
		if no.prefix.Overlaps(s) {
			return invalid("subnet", text, fmt.Sprintf("part of it is %s (%s)", no.what, no.prefix),
				"choose a private subnet such as 10.1.0.0/24 or fd00:1::/64")
		}
	}
	if s.Addr().BitLen() == s.Bits() {
		return invalid("subnet", text, "a single address, and the gateway would need it",
			"the smallest subnet is a "+smallest(s))
	}
	return nil
}

func checkLength(r cnm.PoolRequest, least4 int) error {
	if r.Range.IsValid() || r.Gateway.IsValid() || len(r.Aux) > 0 {
		return invalid("subnet", subnetText(r), "the range, gateway and aux addresses need to know the subnet",
			"name the subnet too")
	}
	lo, hi := least4, 31
	if r.IPv6 {
		lo, hi = 48, 127
	}
	if r.Bits != 0 && (r.Bits < lo || r.Bits > hi) {
		return invalid("subnet", subnetText(r), fmt.Sprintf("no length that %s subnets are picked with", familyName(r)),
			fmt.Sprintf("ask for /%d to /%d, or name the subnet itself", lo, hi))
	}
	return nil
}

// unfitPrefix is one that no network can have a part of.
type unfitPrefix struct {
	prefix netip.Prefix
	what   string
}

func unfit() []unfitPrefix {
	return []unfitPrefix{
		{netip.MustParsePrefix("0.0.0.0/8"), "this host on this network, RFC 791"},
		{netip.MustParsePrefix("127.0.0.0/8"), "loopback"},
		{netip.MustParsePrefix("224.0.0.0/4"), "multicast"},
		{netip.MustParsePrefix("255.255.255.255/32"), "the limited broadcast address"},
		{netip.MustParsePrefix("::/127"), "the unspecified address and loopback"},
		{netip.MustParsePrefix("fe80::/10"), "link-local, which every interface has anyway"},
		{netip.MustParsePrefix("ff00::/8"), "multicast"},
	}
}

func smallest(s netip.Prefix) string {
	if s.Addr().Is4() {
		return "/31 (RFC 3021)"
	}
	return "/127 (RFC 6164)"
}

func familyName(r cnm.PoolRequest) string {
	if r.Is6() {
		return "IPv6"
	}
	return "IPv4"
}

func subnetText(r cnm.PoolRequest) string {
	if r.Subnet.IsValid() {
		return r.Subnet.String()
	}
	if r.Bits == 0 {
		return ""
	}
	return fmt.Sprintf("/%d", r.Bits)
}

func sourceText(sources []source) string {
	var s []string
	for _, src := range sources {
		s = append(s, src.prefix.String())
	}
	return strings.Join(s, ", ")
}

func invalid(field, value, reason, remedy string) error {
	return &cnm.Error{Kind: cnm.ErrInvalid, Field: field, Value: value, Reason: reason, Remedy: remedy}
}
