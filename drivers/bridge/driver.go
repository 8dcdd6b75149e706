package bridge

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// Driver renders bridge networks. The zero value is ready for use. Drivers whose networks have a bridge on
// each node call this package's functions of the same names, with the options they decoded.
type Driver struct{}

var (
	_ cnm.Driver         = Driver{}
	_ cnm.GatewayChooser = Driver{}
	_ cnm.LANDriver      = Driver{}
	_ cnm.LinkNamer      = Driver{}
	_ cnm.PathTeller     = Driver{}
	_ cnm.Updater        = Driver{}
)

// Name is the driver's name in records and on the command line.
func (Driver) Name() string { return "bridge" }

// Scope is local: a bridge ends at its host.
func (Driver) Scope() cnm.Scope { return cnm.Local }

// Capabilities of bridge networks.
func (Driver) Capabilities() cnm.Capabilities {
	return cnm.Capabilities{Addresses: true, Ports: true}
}

// LinkName is the bridge's link name of a network without the option bridge-name.
func LinkName(networkID string) string { return linkname.Of(linkname.Bridge, networkID) }

// EndpointLinkName is the link name of an endpoint's end on the host.
func EndpointLinkName(endpointID string) string { return linkname.Of(linkname.Veth, endpointID) }

func short(id string) string { return id[:min(8, len(id))] }

// PortAddr is the option host-binding.
func (Driver) PortAddr(n cnm.Network) netip.Addr {
	o, err := options(n)
	if err != nil {
		return netip.Addr{} // the render says why
	}
	return o.HostBinding
}

// HasGateway implements [cnm.GatewayChooser].
func (Driver) HasGateway(n cnm.Network, ipv6 bool) bool {
	o, err := options(n)
	return err != nil || o.OnLAN() || o.HasGateway(ipv6)
}

// HasGateway reports whether the host has a gateway address of the family on the network.
func (o Options) HasGateway(ipv6 bool) bool {
	return !ipv6 && o.Mode4 != Isolated || ipv6 && o.Mode6 != Isolated
}

// NetworkLink is the name of the network's bridge, or that of the LAN that it is on: no two networks are on the same.
func (Driver) NetworkLink(n cnm.Network) string {
	o, err := DecodeOptions(n.Options)
	switch {
	case err != nil:
		return ""
	case o.Parent.Link != "":
		return o.Parent.Name()
	}
	return o.Link(n)
}

// Link is the name of the network's bridge.
func (o Options) Link(n cnm.Network) string {
	if o.BridgeName != "" {
		return o.BridgeName
	}
	return LinkName(n.ID)
}

// bridgeMAC is a locally administered unicast address that only depends on
// the network: neighbours keep knowing the gateway when its bridge is made anew.
func bridgeMAC(networkID string) plan.MAC {
	sum := sha256.Sum256([]byte(networkID))
	m := plan.MAC{0x02}
	copy(m[1:], sum[:])
	return m
}

func networkScope(n cnm.Network) plan.Owner   { return cnm.NetworkOwner(n.ID) }
func endpointScope(e cnm.Endpoint) plan.Owner { return cnm.EndpointOwner(e.ID) }

// mtu is that of the network's links, in bytes.
func (o Options) mtu(n cnm.Network, h cnm.Host) int {
	switch {
	case o.MTU != 0:
		return o.MTU
	case o.OnLAN() || h.MTU == 0: // the way that the host has to elsewhere says nothing of the LAN
		return 1500
	case n.IPv6 && h.MTU < minMTUIPv6:
		return minMTUIPv6 // below it the kernel takes IPv6 off the link; the host fragments
	}
	return h.MTU
}

// CheckNetwork refuses unknown or malformed options and pools a bridge cannot serve.
// The error is a [cnm.ErrInvalid].
func (Driver) CheckNetwork(n cnm.Network) error {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return invalid(err)
	}
	return CheckNetwork(n, o)
}

// CheckNetwork refuses pools and options that no network with a bridge can have. The error is a [cnm.ErrInvalid].
func CheckNetwork(n cnm.Network, o Options) error {
	if err := checkNetwork(n, o); err != nil {
		return invalid(err)
	}
	return o.Routes.Check(n)
}

// invalid marks an error as the fault of the request.
func invalid(err error) error {
	if err == nil {
		return nil
	}
	return &cnm.Error{Kind: cnm.ErrInvalid, Reason: err.Error()}
}

func checkNetwork(n cnm.Network, o Options) error {
	if !n.IPv4 && !n.IPv6 {
		return fmt.Errorf("neither IPv4 nor IPv6 is on: a network of driver %s needs one of them", n.Driver)
	}
	if n.IPv6 && o.MTU != 0 && o.MTU < minMTUIPv6 {
		return fmt.Errorf("option mtu=%d: IPv6 needs at least %d (RFC 8200 section 5)", o.MTU, minMTUIPv6)
	}
	if err := errors.Join(checkModes(n, o), checkLAN(n, o)); err != nil {
		return err
	}
	if err := checkOutbound(n, o); err != nil {
		return err
	}
	for i, p := range n.Pools {
		if j := slices.IndexFunc(n.Pools[:i], func(q cnm.Pool) bool { return q.Subnet.Overlaps(p.Subnet) }); j >= 0 {
			return fmt.Errorf("subnets %s and %s overlap: give the network subnets that do not", n.Pools[j].Subnet,
				p.Subnet)
		}
		if g := p.Gateway; g.IsValid() && !o.OnLAN() && !o.HasGateway(g.Is6()) {
			return fmt.Errorf("option gateway-mode=%s: the network was made with the gateway %s: make another one",
				Isolated, g)
		}
		if err := checkPool(n, p); err != nil {
			return err
		}
	}
	return nil
}

func checkModes(n cnm.Network, o Options) error {
	for _, f := range []struct {
		on   bool
		mode GatewayMode
	}{{n.IPv4, o.Mode4}, {n.IPv6, o.Mode6}} {
		switch {
		case f.on && n.Internal && f.mode.open():
			return fmt.Errorf("nothing outside reaches an internal network: leave out gateway-mode=%s or internal",
				f.mode)
		case f.on && !n.Internal && f.mode == Isolated && !o.OnLAN():
			return fmt.Errorf("option gateway-mode=%s: without a gateway nothing leaves the network: make it internal "+
				"too", f.mode)
		}
	}
	return nil
}

func checkPool(n cnm.Network, p cnm.Pool) error {
	s := p.Subnet
	if !s.IsValid() || s.Addr().Is4In6() {
		return fmt.Errorf("subnet %q is not one: want for example 10.7.0.0/24 or fd07::/64", s)
	}
	if masked := s.Masked(); masked != s {
		return fmt.Errorf("subnet %s has bits beyond its length: did you mean %s?", s, masked)
	}
	if s.Addr().Is4() && !n.IPv4 || s.Addr().Is6() && !n.IPv6 {
		return fmt.Errorf("subnet %s: its family is switched off for this network", s)
	}
	if s.Bits() == s.Addr().BitLen() {
		return fmt.Errorf("subnet %s has one address: a gateway and an endpoint need a /%d at least", s,
			s.Addr().BitLen()-1)
	}
	if a := s.Addr(); a.IsLoopback() || a.IsMulticast() || a.IsLinkLocalUnicast() && a.Is6() || s.Bits() == 0 {
		return fmt.Errorf("subnet %s is not one of unicast addresses an endpoint can have", s)
	}
	if p.Range.IsValid() && (!s.Contains(p.Range.Addr()) || p.Range.Bits() < s.Bits()) {
		return fmt.Errorf("ip-range %s is not inside the subnet %s", p.Range, s)
	}
	return checkGateway(p)
}

func checkGateway(p cnm.Pool) error {
	g, s := p.Gateway, p.Subnet
	if !g.IsValid() {
		return nil
	}
	if !s.Contains(g) || g.Zone() != "" {
		return fmt.Errorf("gateway %s is not inside the subnet %s", g, s)
	}
	if s.Addr().BitLen()-s.Bits() > 1 && g == s.Addr() {
		return fmt.Errorf("gateway %s is the address of the subnet %s itself: did you mean %s?", g, s, s.Addr().Next())
	}
	if g.Is4() && s.Bits() < 31 && !s.Contains(g.Next()) {
		return fmt.Errorf("gateway %s is the broadcast address of the subnet %s", g, s)
	}
	return nil
}

// poolOf is the pool that an address is in, or the zero value.
func poolOf(n cnm.Network, a netip.Addr) cnm.Pool {
	for _, p := range n.Pools {
		if p.Subnet.Contains(a) {
			return p
		}
	}
	return cnm.Pool{}
}
