package overlay

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// Driver renders overlay networks. The zero value is ready for use.
type Driver struct{}

var (
	_ cnm.PeerDriver     = Driver{}
	_ cnm.GatewayChooser = Driver{}
	_ cnm.LinkNamer      = Driver{}
	_ cnm.PathTeller     = Driver{}
	_ cnm.Updater        = Driver{}
	_ cnm.Flooder        = Driver{}
)

const name = "overlay"

// Name is the driver's name in records and on the command line.
func (Driver) Name() string { return name }

// Scope is the cluster.
func (Driver) Scope() cnm.Scope { return cnm.Cluster }

// Capabilities of overlay networks.
func (Driver) Capabilities() cnm.Capabilities {
	return cnm.Capabilities{Addresses: true, Ports: true}
}

// PortAddr is the option host-binding.
func (Driver) PortAddr(n cnm.Network) netip.Addr {
	o, err := options(n)
	if err != nil {
		return netip.Addr{} // the render says why
	}
	return o.Bridge.HostBinding
}

// NetworkLink is the name of the network's bridge on each node.
func (Driver) NetworkLink(n cnm.Network) string {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return ""
	}
	return o.Bridge.Link(n)
}

// HasGateway implements [cnm.GatewayChooser].
func (Driver) HasGateway(n cnm.Network, ipv6 bool) bool {
	o, err := options(n)
	return err != nil || o.Bridge.HasGateway(ipv6)
}

// LinkName is the name of the network's VXLAN device on each node.
func LinkName(networkID string) string { return linkname.Of(linkname.VXLAN, networkID) }

// Tunnel asks for the VNI that the options name, or for one that no other network has.
func (Driver) Tunnel(n cnm.Network) (cnm.TunnelRequest, error) {
	o, err := options(n)
	if err != nil {
		return cnm.TunnelRequest{}, err
	}
	return cnm.TunnelRequest{Kind: tunnelKind, VNI: o.VNI, FirstVNI: firstVNI, LastVNI: lastVNI, Port: o.Port}, nil
}

// CheckNetwork refuses unknown or malformed options and pools that a bridge cannot serve. The error is a
// [cnm.ErrInvalid].
func (Driver) CheckNetwork(n cnm.Network) error {
	o, err := options(n)
	if err != nil {
		return err
	}
	return bridge.CheckNetwork(n, o.Bridge)
}

// CheckEndpoint implements [cnm.EndpointChecker]. The error is a [cnm.ErrInvalid].
func (Driver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	o, err := options(n)
	if err != nil {
		return err
	}
	return bridge.CheckEndpoint(n, e, o.Bridge)
}

// What VXLAN adds to a frame of the network, in bytes: Ethernet 14, VXLAN 8, UDP 8, and IP.
const (
	overhead4 = 14 + 8 + 8 + 20
	overhead6 = 14 + 8 + 8 + 40
)

// local is this node's end of the tunnels: on IPv4 wherever the node has it, as its peers choose
// by the same rule.
func local(h cnm.Host) netip.Addr {
	if h.Uplink.Addr4.IsValid() {
		return h.Uplink.Addr4
	}
	return h.Uplink.Addr6
}

// meets reports whether this node has a way to other nodes of the network.
func meets(n cnm.Network, h cnm.Host) bool {
	return n.Cluster != nil && !n.Cluster.Gone && local(h).IsValid()
}

// inside is the host as the network's links see it, behind the tunnel. The room for the tunnel's headers stays
// reserved without an uplink, so that the MTU of endpoints does not come and go with it.
func inside(o *Options, h cnm.Host) cnm.Host {
	mtu := h.Uplink.MTU
	if mtu == 0 {
		mtu = h.MTU
	}
	if mtu == 0 {
		mtu = 1500
	}
	if a := local(h); a.Is6() {
		h.MTU = mtu - overhead6
	} else {
		h.MTU = mtu - overhead4
	}
	if o.Bridge.MTU > h.MTU {
		o.Bridge.MTU = 0 // as much as fits
	}
	return h
}

// RenderNetwork renders the bridge and, as its port, the VXLAN device. Without an uplink, and once the
// cluster has the network no more, there is the bridge alone.
func (Driver) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err != nil {
		return plan.State{}, err
	}
	inner := inside(&o, h)
	s, err := bridge.RenderNetwork(n, o.Bridge, inner)
	if err != nil {
		return plan.State{}, err
	}
	br := &s.Links[slices.IndexFunc(s.Links, func(l plan.Link) bool { return l.Kind == plan.Bridge })]
	// Every node has the gateway's address. Each with a MAC of its own, a bridge never
	// sees its own one come in from another node.
	br.MAC = mac(n.ID, h.Node, "bridge")
	if !meets(n, h) {
		return s, nil
	}
	br.Querier = o.floods()
	if n.Cluster.VNI == 0 {
		return plan.State{}, fmt.Errorf(
			"network %s has no VNI in the cluster's records: remove it and create it again", n.Name)
	}
	dev := device(n, o, *br, h)
	// Where each endpoint elsewhere has an entry, what the bridge does not know stays here: the device would send it to
	// all nodes, as it does with multicast. By address there are no such entries, and containers may know a MAC address
	// from when there were.
	dev.Port.NoFlood = !o.byAddress(n, inner)
	s.Links = append(s.Links, dev)
	s.Sysctls = append(s.Sysctls, sysctls(n, h)...)
	e := firewall.Elements{Owner: br.Owner}
	e.Stretched(LinkName(n.ID))
	s.Rules.Elements = append(s.Rules.Elements, e.List...)
	if o.Bridge.Fast(n, inner) {
		s.Fast.Merge(ends(n, o, h))
	}
	if o.byAddress(n, inner) {
		s.Fast.Merge(atDevice(n, h))
	}
	return s, nil
}

// sysctls keep IPv6 on, on the device of a network that has it: the kernel takes neighbour entries on no other.
func sysctls(n cnm.Network, h cnm.Host) []plan.Sysctl {
	if h.NoIPv6 {
		return nil
	}
	conf := "ipv6/conf/" + LinkName(n.ID) + "/"
	if !n.IPv6 {
		return []plan.Sysctl{{Path: conf + "disable_ipv6", Value: "1"}}
	}
	return []plan.Sysctl{{Path: conf + "disable_ipv6", Value: "0"}, {Path: conf + "accept_ra", Value: "0"}}
}

// device is the VXLAN device as a port of the bridge.
func device(n cnm.Network, o Options, br plan.Link, h cnm.Host) plan.Link {
	v := plan.VXLANDevice{VNI: n.Cluster.VNI, Port: n.Cluster.Port, Local: local(h), Proxy: true}
	if v.Port == 0 {
		v.Port = o.Port
	}
	return plan.Link{
		Name: LinkName(n.ID), Owner: br.Owner, Kind: plan.VXLAN, MAC: mac(n.ID, h.Node, "vxlan"), MTU: br.MTU, Up: true,
		Master: br.Name,
		// Isolated endpoints reach none on other nodes either. The bridge learns nothing of what is on other nodes: an
		// endpoint that moves would be looked for where it was.
		Port:  plan.BridgePort{Isolated: !o.Bridge.ICC, NoLearning: true, Groups: o.floods()},
		VXLAN: v,
	}
}

// mac is a locally administered unicast address that depends on nothing but the network, the node and what it is for.
func mac(network, node, use string) plan.MAC {
	sum := sha256.Sum256([]byte(use + " " + network + " " + node))
	m := plan.MAC{0x02}
	copy(m[1:], sum[:])
	return m
}

// RenderEndpoint renders an endpoint as on a bridge network.
func (Driver) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err != nil {
		return plan.State{}, err
	}
	inner := inside(&o, h)
	o.Bridge.ByAddress = o.byAddress(n, inner)
	s, err := bridge.RenderEndpoint(n, e, o.Bridge, inner)
	for i := range s.Fast.Endpoints {
		s.Fast.Endpoints[i].Via = mac(n.ID, h.Node, "bridge")
	}
	return s, err
}
