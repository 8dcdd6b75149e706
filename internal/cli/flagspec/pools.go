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
	p := pools{subnets: subnets}
	for _, s := range subnets {
		prefix, err := subnet(s)
		if err != nil {
			return nil, err
		}
		p.all = append(p.all, &apiv1.Pool{Subnet: s})
		p.prefixes = append(p.prefixes, prefix)
	}
	for _, g := range gateways {
		if err := p.gateway(g); err != nil {
			return nil, err
		}
	}
	for _, r := range ranges {
		if err := p.addressRange(r); err != nil {
			return nil, err
		}
	}
	for _, x := range aux {
		if err := p.auxAddress(x); err != nil {
			return nil, err
		}
	}
	return p.all, nil
}

// pools are those of one network.
type pools struct {
	subnets  []string // as given
	all      []*apiv1.Pool
	prefixes []netip.Prefix // parallel to all; the zero value for a bare length
}

// holding is the pool that an address given by a flag is in.
func (p *pools) holding(flag, value string, a netip.Addr) (*apiv1.Pool, error) {
	for i, prefix := range p.prefixes {
		if prefix.IsValid() && prefix.Contains(a) {
			return p.all[i], nil
		}
	}
	if len(p.subnets) == 0 {
		return nil, fmt.Errorf("--%s %q needs the --subnet it is in", flag, value)
	}
	return nil, fmt.Errorf("--%s %q is in no --subnet (%s): choose an address inside", flag, value,
		strings.Join(p.subnets, ", "))
}

func (p *pools) gateway(value string) error {
	a, err := poolAddr("gateway", value, value)
	if err != nil {
		return err
	}
	pool, err := p.holding("gateway", value, a)
	if err != nil {
		return err
	}
	if pool.Gateway != "" {
		return fmt.Errorf("--gateway %q: subnet %s has the gateway %s already", value, pool.Subnet, pool.Gateway)
	}
	pool.Gateway = a.String()
	return nil
}

func (p *pools) addressRange(value string) error {
	prefix, err := netip.ParsePrefix(value)
	if err != nil {
		return fmt.Errorf("--ip-range %q is not a subnet: use address and length, for example 10.5.0.128/25", value)
	}
	pool, err := p.holding("ip-range", value, prefix.Addr())
	if err != nil {
		return err
	}
	if pool.IpRange != "" {
		return fmt.Errorf("--ip-range %q: subnet %s has the range %s already", value, pool.Subnet, pool.IpRange)
	}
	pool.IpRange = prefix.Masked().String()
	return nil
}

func (p *pools) auxAddress(value string) error {
	name, addr, ok := strings.Cut(value, "=")
	if !ok || name == "" {
		return fmt.Errorf("--aux-address %q: use NAME=ADDRESS, for example router=10.5.0.254", value)
	}
	a, err := poolAddr("aux-address", value, addr)
	if err != nil {
		return err
	}
	pool, err := p.holding("aux-address", value, a)
	if err != nil {
		return err
	}
	if pool.AuxAddresses == nil {
		pool.AuxAddresses = map[string]string{}
	}
	pool.AuxAddresses[name] = a.String()
	return nil
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
		return netip.Prefix{}, fmt.Errorf(
			"--subnet %q is not a subnet: use address and length, for example 10.5.0.0/24 or fd00:5::/64", s)
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
