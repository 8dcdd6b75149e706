package vxlan

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/backend"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Defaults and limits.
const (
	Kind        = "vxlan" // of the identifiers, which overlay networks take theirs of too
	DefaultPort = 8472    // UDP: the kernel's and flannel's
	MaxVNI      = 1<<24 - 1

	// Overlay networks take higher ones, so that flannel's 1 is in nobody's way.
	firstVNI, lastVNI = 1, 4095

	// The outer Ethernet, IP, UDP and VXLAN headers, less the Ethernet header of the link itself (RFC 7348 section 5).
	overhead4, overhead6 = 50, 70

	prefix4, prefix6 = linkname.VXLAN, linkname.VXLAN6
)

// Backend renders VXLAN devices. The zero value is ready for use.
type Backend struct{}

var _ backend.Backend = Backend{}

// Name is flannel's.
func (Backend) Name() string { return "vxlan" }

// Options of the backend.
func (Backend) Options() []string {
	return []string{backend.OptionDirectRouting, backend.OptionPort, backend.OptionVNI}
}

// Tunnel asks for a VNI.
func (Backend) Tunnel(o backend.Options) cnm.TunnelRequest {
	t := cnm.TunnelRequest{Kind: Kind, VNI: o.VNI, FirstVNI: firstVNI, LastVNI: lastVNI, Port: o.Port}
	if t.Port == 0 {
		t.Port = DefaultPort
	}
	return t
}

// device is one of the network's two possible devices: one for each family of the underlay.
type device struct {
	link  string
	local netip.Addr // the zero value: there is no such device
	mac   plan.MAC
}

// devices of this node, IPv4 underlay first. The one over IPv6 is for the network's IPv6, or for all
// of it on a node without an IPv4 address.
func devices(n backend.Network, h cnm.Host) [2]device {
	d4 := device{n.LinkName(prefix4), h.Uplink.Addr4, mac(n, h, "v4")}
	d6 := device{n.LinkName(prefix6), h.Uplink.Addr6, mac(n, h, "v6")}
	if d4.local.IsValid() && !n.IPv6 {
		d6.local = netip.Addr{}
	}
	return [2]device{d4, d6}
}

// mac is the hardware address of a device, which is the same whenever it is made anew: peers
// keep their entries. It is unicast and locally administered (IEEE 802, section 8.2).
func mac(n backend.Network, h cnm.Host, family string) plan.MAC {
	sum := sha256.Sum256([]byte("vtep\x00" + h.Node + "\x00" + n.ID + "\x00" + family))
	m := plan.MAC(sum[:6])
	m[0] = m[0]&^0x01 | 0x02
	return m
}

// RenderSelf renders the devices.
func (b Backend) RenderSelf(n backend.Network, h cnm.Host) (backend.Self, error) {
	if err := check(n, h); err != nil {
		return backend.Self{}, err
	}
	self := backend.Self{
		Attrs: subnet.Attrs{PublicIP: h.Uplink.Addr4, PublicIPv6: h.Uplink.Addr6, BackendType: b.Name(),
			NodeID: h.Node},
		Plain: n.Options.DirectRouting, Overhead: overhead4,
		State: plan.State{Routes: n.Nowhere()},
	}
	ds := devices(n, h)
	for i, d := range ds {
		if !d.local.IsValid() {
			continue
		}
		about, err := json.Marshal(data{n.Cluster.VNI, d.mac.String()})
		if err != nil {
			return backend.Self{}, fmt.Errorf("describe the device %s: %w", d.link, err)
		}
		if i == 0 {
			self.Attrs.BackendData = about
		} else {
			self.Attrs.BackendV6Data, self.Overhead = about, overhead6
		}
		self.Tunnels = append(self.Tunnels, d.link)
		self.State.Links = append(self.State.Links, plan.Link{
			Name: d.link, Owner: n.Scope(), Kind: plan.VXLAN, MAC: d.mac, Up: true,
			VXLAN: plan.VXLANDevice{VNI: n.Cluster.VNI, Port: port(n), Local: d.local},
		})
		end := plan.FastTunnel{Port: port(n), IPv6: d.local.Is6(), Way: plan.FastVXLAN}
		self.State.Fast.Tunnels = append(self.State.Fast.Tunnels, end)
		end.Network, end.VNI, end.Self, end.MAC = n.FastNetwork(), n.Cluster.VNI, d.local, d.mac
		self.State.Fast.Tunnels = append(self.State.Fast.Tunnels, end)
		for _, is4 := range []bool{true, false} {
			if a, ok := n.Address(d.link, is4); ok && home(ds, is4) == i {
				self.State.Addrs = append(self.State.Addrs, a)
			}
		}
		self.State.Sysctls = append(self.State.Sysctls, n.LinkSysctls(d.link, h)...)
	}
	for i := range self.State.Links {
		self.State.Links[i].MTU = n.MTU(h, self.Overhead)
	}
	return self, nil
}

// home is the device that has this node's address of a family: that over the same
// family, if there is one.
func home(ds [2]device, is4 bool) int {
	own := 1
	if is4 {
		own = 0
	}
	if ds[own].local.IsValid() {
		return own
	}
	return 1 - own
}

func check(n backend.Network, h cnm.Host) error {
	if v := n.Cluster.VNI; v == 0 || v > MaxVNI {
		return fmt.Errorf("network %s: VNI %d: want 1 to %d (RFC 7348)", n.Name, v, MaxVNI)
	}
	if h.Node == "" {
		return fmt.Errorf("network %s: this node has no ID in the cluster, and its device's address is made from it",
			n.Name)
	}
	return nil
}

func port(n backend.Network) uint16 { return cmp.Or(n.Cluster.Port, DefaultPort) }

// RenderPeer renders, for each subnet of the peer, the route, the neighbour it leads to and the
// peer's forwarding entry; with direct-routing=true a plain route where that is possible.
func (Backend) RenderPeer(n backend.Network, p cnm.Peer, h cnm.Host) (plan.State, error) {
	var s plan.State
	entries := map[plan.FDBEntry]bool{}
	for _, prefix := range p.Prefixes {
		if r, ok := n.Direct(p, prefix, h); ok && n.Options.DirectRouting {
			s.Routes = append(s.Routes, r)
			s.Fast.Peers = append(s.Fast.Peers, n.FastRoute(r, h))
			continue
		}
		d, mac, dst := way(n, p, h, prefix.Addr().Is4())
		link := d.link
		if !dst.IsValid() {
			return plan.State{}, backend.Unreachable(n, p, prefix,
				"this node and that one have no VXLAN devices over a common family of the underlay",
				"give both an address of one family (--node-ip), and the same driver to the network")
		}
		at := prefix.Masked().Addr()
		s.Routes = append(s.Routes, plan.Route{Dst: prefix, Via: at, Link: link, OnLink: true})
		s.Neighs = append(s.Neighs, plan.Neigh{Link: link, IP: at, MAC: mac})
		if e := (plan.FDBEntry{Link: link, MAC: mac, Dst: dst}); !entries[e] {
			entries[e] = true
			s.FDB = append(s.FDB, e)
		}
		if dst.Is4() || p.Node != "" { // over IPv6 others do not take datagrams without a checksum
			overhead := overhead4
			if dst.Is6() {
				overhead = overhead6
			}
			s.Fast.Peers = append(s.Fast.Peers, plan.FastPeer{Network: n.FastNetwork(), Prefix: prefix,
				Way: plan.FastVXLAN, Node: dst, Self: d.local, Link: h.Uplink.Link, MTU: n.Room(h, overhead),
				VNI: n.Cluster.VNI, Port: port(n), SourceMAC: d.mac, DestMAC: mac})
		}
	}
	return s, nil
}

// way is how a family's packets get to a peer: by the same family of the underlay if both ends
// have a device there, else by the other.
func way(n backend.Network, p cnm.Peer, h cnm.Host, is4 bool) (by device, mac plan.MAC, dst netip.Addr) {
	ds := devices(n, h)
	macs := [2]plan.MAC{p.MAC, p.MAC6}
	order := []int{0, 1}
	if !is4 {
		order = []int{1, 0}
	}
	for _, i := range order {
		to := backend.Underlay(p, h, i == 0)
		if ds[i].local.IsValid() && to.IsValid() && macs[i] != (plan.MAC{}) {
			return ds[i], macs[i], to
		}
	}
	return device{}, plan.MAC{}, netip.Addr{}
}
