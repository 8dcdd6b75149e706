package flagspec

import (
	"fmt"
	"net/netip"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

// Pools puts the values of --subnet, --gateway, --ip-range and --aux-address
// together: each of the latter belongs to the subnet that holds it.
func Pools(subnets, gateways, ranges, aux []string) ([]*apiv1.Pool, error) {
	var out []*apiv1.Pool
	var prefixes []netip.Prefix // parallel to out; the zero value for a bare length
	for _, s := range subnets {
		p, err := subnet(s)
		if err != nil {
			return nil, err
		}
		out = append(out, &apiv1.Pool{Subnet: s})
		prefixes = append(prefixes, p)
	}
	find := func(flag, value string, a netip.Addr) (*apiv1.Pool, error) {
		for i, p := range prefixes {
			if p.IsValid() && p.Contains(a) {
				return out[i], nil
			}
		}
		if len(subnets) == 0 {
			return nil, fmt.Errorf("--%s %q needs the --subnet it is in", flag, value)
		}
		return nil, fmt.Errorf("--%s %q is in no --subnet (%s): choose an address inside", flag, value, strings.Join(subnets, ", "))
	}
	for _, g := range gateways {
		a, err := poolAddr("gateway", g, g)
		if err != nil {
			return nil, err
		}
		p, err := find("gateway", g, a)
		if err != nil {
			return nil, err
		}
		if p.Gateway != "" {
			return nil, fmt.Errorf("--gateway %q: subnet %s has the gateway %s already", g, p.Subnet, p.Gateway)
		}
		p.Gateway = a.String()
	}
	for _, r := range ranges {
		prefix, err := netip.ParsePrefix(r)
		if err != nil {
			return nil, fmt.Errorf("--ip-range %q is not a subnet: use address and length, for example 10.5.0.128/25", r)
		}
		p, err := find("ip-range", r, prefix.Addr())
		if err != nil {
			return nil, err
		}
		if p.IpRange != "" {
			return nil, fmt.Errorf("--ip-range %q: subnet %s has the range %s already", r, p.Subnet, p.IpRange)
		}
		p.IpRange = prefix.Masked().String()
	}
	for _, x := range aux {
		name, value, ok := strings.Cut(x, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--aux-address %q: use NAME=ADDRESS, for example router=10.5.0.254", x)
		}
		a, err := poolAddr("aux-address", x, value)
		if err != nil {
			return nil, err
		}
		p, err := find("aux-address", x, a)
		if err != nil {
			return nil, err
		}
		if p.AuxAddresses == nil {
			p.AuxAddresses = map[string]string{}
		}
		p.AuxAddresses[name] = a.String()
	}
	return out, nil
}

func subnet(s string) (netip.Prefix, error) {
	if strings.HasPrefix(s, "/") {
		if _, err := netip.ParsePrefix("::" + s); err != nil || s == "/0" {
			return netip.Prefix{}, fmt.Errorf("--subnet %q is not a prefix length: use for example /24 or /64", s)
		}
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--subnet %q is not a subnet: use address and length, for example 10.5.0.0/24 or fd00:5::/64", s)
	}
	if p.Masked() != p {
		return netip.Prefix{}, fmt.Errorf("--subnet %q has bits set beyond its length: did you mean %s?", s, p.Masked())
	}
	return p, nil
}

func poolAddr(flag, whole, s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		return a, fmt.Errorf("--%s %q is not an IP address", flag, whole)
	}
	return a, nil
}
