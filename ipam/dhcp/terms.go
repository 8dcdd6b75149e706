package dhcp

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/vethloom/vethloom/cnm"
)

const (
	// maxRoutes bounds the routes of one lease.
	maxRoutes = 32
	// shortest is the least lease that is taken: a shorter one would be asked for all the time.
	shortest = 4 * time.Second
	// forEver is the length of a lease that does not end, in seconds (RFC 2131 section 3.3).
	forEver = math.MaxUint32
)

// terms are what a server gives, checked.
type terms struct {
	addr          netip.Addr
	server        netip.Addr
	mask          int           // length of the subnet's prefix; 0: the server does not say
	length        time.Duration // 0: for ever
	renew, rebind time.Duration // from the beginning
	leased        cnm.Leased
}

// read reads an offer or an acknowledgement. It does not know yet where the addresses may be.
func read(p *dhcpv4.DHCPv4) (terms, error) {
	t := terms{addr: addrOf(p.YourIPAddr), server: addrOf(p.ServerIdentifier())}
	if err := unicast(t.addr); err != nil {
		return t, fmt.Errorf("an address that no host can have: %w", err)
	}
	if err := unicast(t.server); err != nil {
		return t, fmt.Errorf("a server's address that no host can have: %w", err)
	}
	if m := p.SubnetMask(); m != nil {
		ones, bits := m.Size()
		if bits != 32 || ones < 8 || ones > 30 {
			return t, fmt.Errorf("subnet mask %s: want one of 8 to 30 bits", net.IP(m))
		}
		t.mask = ones
	}
	return t, errors.Join(t.times(p), t.routes(p))
}

// times reads how long the lease is. What the server does not say is as in RFC 2131 section 4.4.5.
func (t *terms) times(p *dhcpv4.DHCPv4) error {
	seconds := func(code dhcpv4.OptionCode) uint32 {
		if b := p.Options.Get(code); len(b) == 4 {
			return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
		}
		return 0
	}
	length := seconds(dhcpv4.OptionIPAddressLeaseTime)
	if length == forEver {
		return nil
	}
	t.length = time.Duration(length) * time.Second
	if t.length < shortest {
		return fmt.Errorf("a lease of %d s: want %s at least", length, shortest)
	}
	t.renew = time.Duration(seconds(dhcpv4.OptionRenewTimeValue)) * time.Second
	t.rebind = time.Duration(seconds(dhcpv4.OptionRebindingTimeValue)) * time.Second
	if t.renew < time.Second || t.renew >= t.rebind || t.rebind >= t.length {
		t.renew, t.rebind = t.length/2, t.length/8*7
	}
	return nil
}

// routes reads the routers. Classless routes are in place of all others (RFC 3442).
func (t *terms) routes(p *dhcpv4.DHCPv4) error {
	classless := p.ClasslessStaticRoute()
	if len(classless) == 0 {
		if routers := p.Router(); len(routers) > 0 {
			t.leased.Router = addrOf(routers[0])
			return unicast(t.leased.Router)
		}
		return nil
	}
	if len(classless) > maxRoutes {
		return fmt.Errorf("%d routes: %d are taken at most", len(classless), maxRoutes)
	}
	for _, r := range classless {
		ones, bits := r.Dest.Mask.Size()
		dst, via := netip.PrefixFrom(addrOf(r.Dest.IP), ones).Masked(), addrOf(r.Router)
		if bits != 32 || !dst.IsValid() || !via.Is4() {
			return errors.New("a route that is none")
		}
		if dst.Bits() == 0 {
			t.leased.Router = via
			continue
		}
		if via.IsUnspecified() {
			via = netip.Addr{} // on the link
		}
		if dst.Addr().IsLoopback() || dst.Addr().IsMulticast() || dst.Addr().IsUnspecified() {
			return fmt.Errorf("a route to %s, which leads nowhere", dst)
		}
		if !slices.ContainsFunc(t.leased.Routes, func(o cnm.GivenRoute) bool { return o.Dst == dst }) {
			t.leased.Routes = append(t.leased.Routes, cnm.GivenRoute{Dst: dst, Via: via})
		}
	}
	if t.leased.Router.IsValid() {
		return unicast(t.leased.Router)
	}
	return nil
}

// within refuses what is not of the pool, or not the endpoint's to have there. The routers must be in the pool too.
func (t *terms) within(p cnm.Pool) error {
	network := p.Subnet.Masked().Addr()
	switch {
	case !p.Subnet.Contains(t.addr):
		return fmt.Errorf("address %s, which is not in the network's subnet %s", t.addr, p.Subnet)
	case t.addr == network || t.addr == lastOf(p.Subnet):
		return fmt.Errorf("address %s, which no host of %s can have", t.addr, p.Subnet)
	case t.addr == p.Gateway || t.addr == t.leased.Router:
		return fmt.Errorf("address %s, which is the router's", t.addr)
	}
	for name, a := range p.Aux {
		if t.addr == a {
			return fmt.Errorf("address %s, which is kept for %.64q", t.addr, name)
		}
	}
	if r := t.leased.Router; r.IsValid() && !p.Subnet.Contains(r) {
		return fmt.Errorf("router %s, which is not in the network's subnet %s", r, p.Subnet)
	}
	for _, r := range t.leased.Routes {
		if r.Via.IsValid() && (!p.Subnet.Contains(r.Via) || r.Via == t.addr) {
			return fmt.Errorf("a route to %s by %s, which is no other host of %s", r.Dst, r.Via, p.Subnet)
		}
		if r.Dst.Overlaps(p.Subnet) && r.Dst.Bits() >= p.Subnet.Bits() {
			return fmt.Errorf("a route to %s, which is in the network's subnet %s", r.Dst, p.Subnet)
		}
	}
	return nil
}

// unicast refuses what is no address of a host.
func unicast(a netip.Addr) error {
	class := a.IsValid() && a.Is4() && a.As4()[0] < 224 && a.As4()[0] != 0 // above are multicast and what is reserved
	if !class || a.IsLoopback() || a.IsLinkLocalUnicast() {
		return fmt.Errorf("%s", a)
	}
	return nil
}

func addrOf(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// lastOf is the broadcast address of a subnet.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b)
}
