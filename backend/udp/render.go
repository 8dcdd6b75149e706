package udp

import (
	"cmp"
	"net/netip"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Defaults of the tunnel.
const (
	Kind        = "udp"
	DefaultPort = 8285 // flannel's

	lastPort = 8470 // the next is in use by VXLAN

	// The outer IP and UDP headers; the packet itself is what they carry.
	overhead4, overhead6 = 28, 48

	linkPrefix = linkname.TUN
)

// Backend renders the userspace tunnel. The zero value is ready for use.
type Backend struct{}

var _ backend.Backend = Backend{}

// Name is flannel's.
func (Backend) Name() string { return "udp" }

// Options of the backend.
func (Backend) Options() []string {
	return []string{backend.OptionDirectRouting, backend.OptionOffload, backend.OptionPort}
}

// Tunnel asks for a port: a datagram says nothing of its network, so each has one of its own.
func (Backend) Tunnel(o backend.Options) cnm.TunnelRequest {
	return cnm.TunnelRequest{Kind: Kind, Port: o.Port, FirstPort: DefaultPort, LastPort: lastPort}
}

// local is the end's address: one socket carries both families of the network.
func local(h cnm.Host) netip.Addr {
	if h.Uplink.Addr4.IsValid() {
		return h.Uplink.Addr4
	}
	return h.Uplink.Addr6
}

// RenderSelf renders the link, the tunnel, and the routes of the whole network into it: what no
// peer has is answered there, with an ICMP message.
func (b Backend) RenderSelf(n backend.Network, h cnm.Host) (backend.Self, error) {
	link := n.LinkName(linkPrefix)
	self := backend.Self{
		Attrs: subnet.Attrs{PublicIP: h.Uplink.Addr4, PublicIPv6: h.Uplink.Addr6, BackendType: b.Name(),
			NodeID: h.Node},
		Overhead: room(local(h)), Tunnels: []string{link}, Plain: n.Options.DirectRouting,
	}
	t := plan.Tunnel{Link: link, Local: local(h), Port: cmp.Or(n.Cluster.Port, DefaultPort), Plain: n.Options.Plain}
	for _, p := range n.Pools {
		t.Inside = append(t.Inside, p.Subnet)
	}
	self.State = plan.State{
		Links:   []plan.Link{{Name: link, Owner: n.Scope(), Kind: plan.TUN, MTU: n.MTU(h, self.Overhead), Up: true}},
		Tunnels: []plan.Tunnel{t},
		Sysctls: n.LinkSysctls(link, h),
	}
	self.State.Fast.Tunnels = []plan.FastTunnel{{Port: t.Port, IPv6: t.Local.Is6(), Way: plan.FastUDP,
		Network: n.FastNetwork(), Self: t.Local, Link: link}}
	for _, subnet := range t.Inside { // what comes for the host itself leaves the tunnel in the kernel, too
		self.State.Fast.Peers = append(self.State.Fast.Peers, plan.FastPeer{Network: n.FastNetwork(), Prefix: subnet,
			Way: plan.FastUDP, Node: t.Local, Self: t.Local, Link: h.Uplink.Link, Port: t.Port})
	}
	for _, s := range n.Cluster.Subnets {
		if a, ok := n.Address(link, s.Addr().Is4()); ok {
			self.State.Addrs = append(self.State.Addrs, a)
			self.State.Routes = append(self.State.Routes, plan.Route{Dst: s, Link: link})
		}
	}
	return self, nil
}

// room is what a tunnel over the underlay of an address's family adds to a packet, in bytes.
func room(underlay netip.Addr) int {
	if underlay.Is6() {
		return overhead6
	}
	return overhead4
}

// RenderPeer renders the far end; with direct-routing=true a plain route where that is possible.
func (Backend) RenderPeer(n backend.Network, p cnm.Peer, h cnm.Host) (plan.State, error) {
	var s plan.State
	dst := backend.Underlay(p, h, local(h).Is4())
	for _, prefix := range p.Prefixes {
		if r, ok := n.Direct(p, prefix, h); ok && n.Options.DirectRouting {
			s.Routes = append(s.Routes, r)
			s.Fast.Peers = append(s.Fast.Peers, n.FastRoute(r, h))
			continue
		}
		if !dst.IsValid() {
			return plan.State{}, backend.Unreachable(n, p, prefix,
				"the tunnel's end here is "+local(h).String()+", and the node has no address of that family",
				"give the nodes addresses of one family (--node-ip)")
		}
		s.TunnelPeers = append(s.TunnelPeers, plan.TunnelPeer{Link: n.LinkName(linkPrefix), Prefix: prefix, Dst: dst})
		if p.Fast { // a program that reads datagrams would not understand segments that are still to be cut
			s.Fast.Peers = append(s.Fast.Peers, plan.FastPeer{Network: n.FastNetwork(), Prefix: prefix,
				Way: plan.FastUDP, Node: dst, Self: local(h), Link: h.Uplink.Link, MTU: n.Room(h, room(dst)),
				Port: cmp.Or(n.Cluster.Port, DefaultPort)})
		}
	}
	return s, nil
}

// Decode has nothing to add: the port is the network's.
func (Backend) Decode(backend.Network, subnet.Lease, *cnm.Peer) error { return nil }
