package bridge

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
)

// setOutbound sets one of the host's addresses.
func setOutbound(field func(*Options) *netip.Addr, family func(netip.Addr) bool, want string) func(*Options,
	string) error {
	return func(o *Options, value string) error {
		a, err := netip.ParseAddr(value)
		if err != nil || !family(a) || a.Zone() != "" || !a.IsGlobalUnicast() {
			return fmt.Errorf("want %s", want)
		}
		*field(o) = a
		return nil
	}
}

// Outbound are the addresses of the host that what leaves it carries, where they are chosen.
func (o Options) Outbound() (out []netip.Addr) {
	for _, a := range []netip.Addr{o.Outbound4, o.Outbound6} {
		if a.IsValid() {
			out = append(out, a)
		}
	}
	return out
}

// Outbound implements [cnm.OutboundChooser].
func (Driver) Outbound(n cnm.Network) []netip.Addr {
	o, err := options(n)
	if err != nil {
		return nil // the render says why
	}
	return o.Outbound()
}

// checkOutbound refuses addresses of a network that nothing would leave by.
func checkOutbound(n cnm.Network, o Options) error {
	for _, a := range o.Outbound() {
		switch {
		case n.Internal:
			return fmt.Errorf("option outbound-ip=%s: nothing leaves an internal network: leave out one of the two", a)
		case n.Scope == cnm.Cluster:
			return fmt.Errorf("option outbound-ip=%s: the other nodes of the cluster do not have this address: give "+
				"it to containers, as in --network name=%s,outbound-ip=%[1]s", a, n.Name)
		case !o.Masquerades(a):
			return fmt.Errorf("option outbound-ip=%s: what leaves keeps its address, as nothing of the family is "+
				"masqueraded: leave it out, or masquerade=false and gateway-mode", a)
		}
	}
	return nil
}

// checkOutboundOf refuses addresses of an endpoint that nothing would leave by.
func checkOutboundOf(n cnm.Network, o Options, e cnm.Endpoint) error {
	for _, a := range e.Outbound {
		if n.Internal || !o.Masquerades(a) {
			return fmt.Errorf("outbound-ip %s: of what leaves the network nothing is masqueraded, so there is no "+
				"address to choose: leave it out", a)
		}
	}
	return nil
}

// leave renders the endpoint's choice of an address that what leaves the host carries.
func (r *endpointRender) leave() {
	for _, a := range r.e.Addrs {
		for _, by := range r.e.Outbound {
			if by.Is4() == a.Addr().Is4() {
				r.rules.Leave(netip.PrefixFrom(a.Addr(), a.Addr().BitLen()), by)
			}
		}
	}
}
