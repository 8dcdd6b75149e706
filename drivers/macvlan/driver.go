package macvlan

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// Driver renders macvlan networks. The zero value is ready for use.
type Driver struct{}

var (
	_ cnm.Driver          = Driver{}
	_ cnm.LinkNamer       = Driver{}
	_ cnm.LANDriver       = Driver{}
	_ cnm.EndpointChecker = Driver{}
	_ cnm.Updater         = Driver{}
)

// Name is the driver's name in records and on the command line.
func (Driver) Name() string { return name }

// Scope is local: the LAN itself leads to other hosts.
func (Driver) Scope() cnm.Scope { return cnm.Local }

// Capabilities: addresses of the LAN, and no ports, as nothing is translated.
func (Driver) Capabilities() cnm.Capabilities { return cnm.Capabilities{Addresses: true} }

// NetworkLink is the LAN that the network is on: no two networks are on the same.
func (Driver) NetworkLink(n cnm.Network) string {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return ""
	}
	return o.Name()
}

// LAN implements [cnm.LANDriver].
func (Driver) LAN(n cnm.Network) cnm.LAN {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return cnm.LAN{}
	}
	return cnm.LAN{Link: o.Lower(n), Detect: o.Detect, OwnMACs: o.Mode != "passthru"}
}

// CheckNetwork refuses unknown or malformed options, pools that no LAN can have, and an address of the host's that
// could be given to an endpoint. The error is a [cnm.ErrInvalid].
func (Driver) CheckNetwork(n cnm.Network) error {
	o, err := options(n)
	if err != nil {
		return err
	}
	if err := bridge.CheckNetwork(n, bridge.Options{Routes: o.Routes}); err != nil {
		return err
	}
	if n.IPv6 && o.MTU != 0 && o.MTU < 1280 {
		return invalid(fmt.Errorf("option mtu=%d: IPv6 needs at least 1280 (RFC 8200 section 5)", o.MTU))
	}
	for i, a := range o.HostAddrs {
		if err := checkHostAddr(n, a); err != nil {
			return invalid(err)
		}
		if slices.ContainsFunc(o.HostAddrs[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return invalid(fmt.Errorf("option host-access: %s is the second address of its family", a))
		}
	}
	return nil
}

func checkHostAddr(n cnm.Network, a netip.Addr) error {
	for _, p := range n.Pools {
		if !p.Subnet.Contains(a) {
			continue
		}
		if a == p.Gateway {
			return fmt.Errorf("option host-access: %s is the gateway", a)
		}
		if p.Range.Contains(a) && !slices.Contains(slices.Collect(maps.Values(p.Aux)), a) {
			return fmt.Errorf("option host-access: %s could be given to a container: add --aux-address host=%s, or an "+
				"--ip-range without it", a, a)
		}
		return nil
	}
	return fmt.Errorf("option host-access: %s is in no subnet of the network", a)
}

// invalid marks an error as the fault of the request.
func invalid(err error) error { return &cnm.Error{Kind: cnm.ErrInvalid, Reason: err.Error()} }

func options(n cnm.Network) (Options, error) {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return o, invalid(err)
	}
	return o, nil
}

// RenderNetwork renders the network's VLAN and the host's own link on it, where it has them.
func (Driver) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	var s plan.State
	o, err := options(n)
	if err != nil || n.Phase == cnm.Deleting {
		return s, err
	}
	s = o.Render(n, h, "")
	if !o.Host {
		return s, nil
	}
	own := linkname.Of(linkname.MACVLAN, n.ID)
	s.Links = append(s.Links, plan.Link{Name: own, Owner: cnm.NetworkOwner(n.ID), Kind: plan.Macvlan, Up: true,
		MTU: o.MTU, Lower: plan.Lower{Link: o.Lower(n), Mode: o.Mode}})
	// It answers those on the network, and not the LAN's: for them the host's address is at the parent.
	s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv4/conf/" + own + "/arp_filter", Value: "1"})
	ipv6 := "1"
	for _, a := range o.HostAddrs {
		s.Addrs = append(s.Addrs, plan.Addr{Link: own, Prefix: netip.PrefixFrom(a, a.BitLen())})
		if a.Is6() {
			ipv6 = "0"
		}
	}
	if !h.NoIPv6 {
		s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv6/conf/" + own + "/disable_ipv6", Value: ipv6},
			plan.Sysctl{Path: "ipv6/conf/" + own + "/accept_ra", Value: "0"})
	}
	return s, nil
}

// CheckEndpoint refuses published ports and sandboxes without a namespace of their own. The error is a
// [cnm.ErrInvalid].
func (Driver) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	return checkEndpoint(name, n, e)
}

func checkEndpoint(driver string, n cnm.Network, e cnm.Endpoint) error {
	switch {
	case e.NetNS == "":
		return invalid(fmt.Errorf("its sandbox is the host itself, which joins no network of driver %s", driver))
	case len(e.Ports) > 0:
		return invalid(fmt.Errorf("network %s is a LAN: every port of the container can be reached at its own "+
			"address, and none is published on the host", n.Name))
	}
	return nil
}

// RenderEndpoint renders the endpoint's link in its sandbox with what it has there, and the host's way to it.
func (d Driver) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	o, err := options(n)
	if err == nil {
		err = d.CheckEndpoint(n, e)
	}
	if err != nil {
		return plan.State{}, err
	}
	s := bridge.RenderInside(n, e, h)
	s.Routes = append(s.Routes, o.Routes.For(e, s)...)
	link := plan.Link{NS: e.NetNS, Name: e.LinkName(), Owner: cnm.EndpointOwner(e.ID), Kind: plan.Macvlan,
		MAC: e.MAC, MTU: o.MTU, Up: true, Lower: plan.Lower{Link: o.Lower(n), Mode: o.Mode}}
	if o.Mode == "passthru" {
		link.MAC = plan.MAC{} // that of the parent
	}
	s.Links = append(s.Links, link)
	if o.Host {
		s.Routes = append(s.Routes, hostRoutes(n, e, o, h)...)
	}
	return s, nil
}

// hostRoutes lead from the host to an endpoint. Without an address of its own on the network the host has that of the
// parent, for which the link answers too with IPv4 (ARP, not neighbour discovery).
func hostRoutes(n cnm.Network, e cnm.Endpoint, o Options, h cnm.Host) []plan.Route {
	var out []plan.Route
	for _, p := range e.Addrs {
		a := p.Addr()
		i := slices.IndexFunc(o.HostAddrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() })
		r := plan.Route{Dst: netip.PrefixFrom(a, a.BitLen()), Link: linkname.Of(linkname.MACVLAN, n.ID)}
		switch {
		case i >= 0:
			r.Src = o.HostAddrs[i]
		case a.Is6():
			continue
		default:
			if i := slices.IndexFunc(h.Addrs, func(b netip.Prefix) bool { return b.Contains(a) }); i >= 0 {
				r.Src = h.Addrs[i].Addr()
			}
		}
		out = append(out, r)
	}
	return out
}
