package routed

import (
	"cmp"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

var _ cnm.PathDescriber = Driver{}

// Sizes implements [cnm.PathDescriber].
func (d Driver) Sizes(n cnm.Network, h cnm.Host) (mtu, overhead int, err error) {
	r, err := d.render(n, h)
	return cmp.Or(r.o.Bridge.MTU, r.inner.MTU), r.self.Overhead, err
}

// Path implements [cnm.PathDescriber]. It is read off what the backend renders for the peer: a route by the uplink
// is no tunnel, and one by a tunnel's link has its far end in the forwarding entry there, or is a tunnel's peer.
// A peer that the backend cannot render has an address all the same: probes of it tell that nothing leads there.
func (d Driver) Path(n cnm.Network, p cnm.Peer, h cnm.Host) (cnm.Path, error) {
	b, p, ok, err := d.reach(n, p, h)
	if err != nil || !ok || len(p.Prefixes) == 0 {
		return cnm.Path{}, err
	}
	r, err := d.render(n, h)
	if err != nil {
		return cnm.Path{}, err
	}
	path := cnm.Path{Addr: p.Prefixes[0].Addr(), MTU: cmp.Or(r.o.Bridge.MTU, r.inner.MTU)}
	if len(r.self.Tunnels) == 0 {
		path.Addr = path.Addr.Next() // the gateway's; with a tunnel its link has the subnet's first address
	}
	if s, err := d.Backend.RenderPeer(b, p, h); err == nil {
		if dst := farEnd(s, p.Prefixes[0]); dst.IsValid() {
			path.Outer = netip.AddrPortFrom(dst, n.Cluster.Port)
		}
	}
	return path, nil
}

// farEnd is where what goes to a prefix is sent on the underlay by a tunnel; the zero value: there is none.
func farEnd(s plan.State, prefix netip.Prefix) netip.Addr {
	for _, t := range s.TunnelPeers {
		if t.Prefix == prefix {
			return t.Dst
		}
	}
	for _, r := range s.Routes {
		if r.Dst != prefix {
			continue
		}
		for _, f := range s.FDB {
			if f.Link == r.Link {
				return f.Dst
			}
		}
	}
	return netip.Addr{}
}
