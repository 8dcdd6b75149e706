package cnm

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// maxSources bounds the sources of one mapping: each is an element of a map of the kernel's.
const maxSources = 256

// ParseSource reads a source of [PortMapping.From]: a subnet, or one address.
func ParseSource(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("source %q is no subnet and no address: use 10.0.0.0/8, fd00::/8 or 192.0.2.7", s)
	}
	if p != p.Masked() {
		return p, fmt.Errorf("source %q has bits set beyond its length: did you mean %s?", s, p.Masked())
	}
	return p, nil
}

// Mode is host for a port of the sandbox's node alone, cluster for one of every node of its network.
func (m PortMapping) Mode() string {
	if m.Cluster {
		return "cluster"
	}
	return "host"
}

// Sources lists who reaches the mapping; empty for everybody.
func (m PortMapping) Sources() string {
	var out []string
	for _, p := range m.From {
		out = append(out, p.String())
	}
	return strings.Join(out, ",")
}

// checkSources sorts the sources of a mapping, without those inside others, and refuses what cannot be.
func checkSources(from []netip.Prefix, host netip.Addr) ([]netip.Prefix, error) {
	refuse := func(p netip.Prefix, reason, remedy string) error {
		return &Error{Kind: ErrInvalid, Field: "from", Value: p.String(), Reason: reason, Remedy: remedy}
	}
	for _, p := range from {
		switch {
		case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
			return nil, refuse(p, "is no subnet", "use a subnet such as 10.0.0.0/8 or fd00::/8")
		case host.IsValid() && p.Addr().Is4() != host.Is4():
			return nil, refuse(p, "is not of the family of the host address "+host.String(),
				"name sources of the same family, or no host address")
		}
	}
	if len(from) > maxSources {
		return nil, &Error{Kind: ErrInvalid, Field: "from", Value: fmt.Sprint(len(from)),
			Reason: fmt.Sprintf("more than %d sources", maxSources), Remedy: "name larger subnets"}
	}
	sorted := slices.SortedFunc(slices.Values(from), func(a, b netip.Prefix) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	return slices.CompactFunc(sorted, func(a, b netip.Prefix) bool { return a.Overlaps(b) }), nil
}
