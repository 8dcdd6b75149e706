package overlay

import (
	"cmp"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
)

var _ cnm.PathDescriber = Driver{}

// Sizes implements [cnm.PathDescriber].
func (Driver) Sizes(n cnm.Network, h cnm.Host) (mtu, overhead int, err error) {
	o, err := options(n)
	if err != nil {
		return 0, 0, err
	}
	inner := inside(&o, h)
	return cmp.Or(o.Bridge.MTU, inner.MTU), cmp.Or(h.Uplink.MTU, h.MTU, 1500) - inner.MTU, nil
}

// Path implements [cnm.PathDescriber]. Inside an overlay only containers answer, which are not for this node to ask.
func (d Driver) Path(n cnm.Network, p cnm.Peer, h cnm.Host) (cnm.Path, error) {
	mtu, _, err := d.Sizes(n, h)
	if err != nil || !meets(n, h) {
		return cnm.Path{}, err
	}
	dst := p.Addr6
	if local(h).Is4() {
		dst = p.Addr4
	}
	return cnm.Path{MTU: mtu, Outer: netip.AddrPortFrom(dst, n.Cluster.Port)}, nil
}
