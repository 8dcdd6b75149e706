package hostgw

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/backend/vxlan"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Backend renders plain routes. The zero value is ready for use.
type Backend struct{}

var _ backend.Backend = Backend{}

// Name is flannel's.
func (Backend) Name() string { return "host-gw" }

// Options of the backend: those of the tunnel are in use with direct-routing=true.
func (Backend) Options() []string {
	return []string{backend.OptionDirectRouting, backend.OptionPort, backend.OptionVNI}
}

// Tunnel needs nothing unless there is one.
func (Backend) Tunnel(o backend.Options) cnm.TunnelRequest {
	if !o.DirectRouting {
		return cnm.TunnelRequest{}
	}
	return vxlan.Backend{}.Tunnel(o)
}

// RenderSelf renders no device, or the tunnel's with direct-routing=true.
func (Backend) RenderSelf(n backend.Network, h cnm.Host) (backend.Self, error) {
	if n.Options.DirectRouting {
		self, err := vxlan.Backend{}.RenderSelf(n, h)
		// flanneld's host-gw reads over the tunnel's data.
		self.Attrs.BackendType = Backend{}.Name()
		return self, err
	}
	return backend.Self{
		State: plan.State{Routes: n.Nowhere()},
		Attrs: subnet.Attrs{PublicIP: h.Uplink.Addr4, PublicIPv6: h.Uplink.Addr6, BackendType: Backend{}.Name(),
			NodeID: h.Node},
		Plain: true,
	}, nil
}

// RenderPeer renders one route a prefix.
func (Backend) RenderPeer(n backend.Network, p cnm.Peer, h cnm.Host) (plan.State, error) {
	if n.Options.DirectRouting {
		return vxlan.Backend{}.RenderPeer(n, p, h)
	}
	var s plan.State
	for _, prefix := range p.Prefixes {
		r, ok := n.Direct(p, prefix, h)
		if !ok {
			return plan.State{}, notOnLink(n, p, prefix, h)
		}
		s.Routes = append(s.Routes, r)
		s.Fast.Peers = append(s.Fast.Peers, n.FastRoute(r, h))
	}
	return s, nil
}

const remedy = "use a network of driver vxlan or udp, or make this one with -o direct-routing=true, which has a " +
	"tunnel for such nodes"

func notOnLink(n backend.Network, p cnm.Peer, prefix netip.Prefix, h cnm.Host) error {
	is4 := prefix.Addr().Is4()
	via := backend.Underlay(p, h, is4)
	if via.IsValid() {
		return backend.Unreachable(n, p, prefix, fmt.Sprintf("its address %s is not on the link %s", via,
			h.Uplink.Link), remedy)
	}
	family := "IPv6"
	if is4 {
		family = "IPv4"
	}
	return backend.Unreachable(n, p, prefix,
		fmt.Sprintf("this node and that one have no %s addresses in common on the link %s to route by", family,
			h.Uplink.Link), remedy)
}

// Decode reads the tunnel's data with direct-routing=true, where the holder has any: a flanneld has none.
func (Backend) Decode(n backend.Network, l subnet.Lease, p *cnm.Peer) error {
	if !n.Options.DirectRouting || l.BackendData == nil && l.BackendV6Data == nil {
		return nil
	}
	return vxlan.Backend{}.Decode(n, l, p)
}
