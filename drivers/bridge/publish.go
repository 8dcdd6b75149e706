package bridge

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
)

// target is where one mapping leads in one family.
type target struct {
	host netip.Prefix // the host addresses it is published on
	to   netip.Addr
}

// targets checks a mapping and says where it leads: nowhere is an error.
func targets(n cnm.Network, o Options, e cnm.Endpoint, p cnm.PortMapping) ([]target, error) {
	if err := checkMapping(n, p); err != nil {
		return nil, err
	}
	host := hostIP(o, p)
	var ts []target
	for _, is4 := range []bool{true, false} {
		to := firstOf(e, is4)
		if !to.IsValid() || host.IsValid() && host.Is4() != to.Is4() {
			continue
		}
		on := firewall.Everywhere(to)
		if host.IsValid() && !host.IsUnspecified() {
			on = netip.PrefixFrom(host, host.BitLen())
		}
		ts = append(ts, target{host: on, to: to})
	}
	switch {
	case len(ts) > 0:
		return ts, nil
	case host.IsValid():
		return nil, fmt.Errorf("port %s is published on %s, but the endpoint has no address of that family: publish "+
			"on another address or turn the family on for the network", p, host)
	}
	return nil, fmt.Errorf("port %s cannot be published: the endpoint has no address", p)
}

func checkMapping(n cnm.Network, p cnm.PortMapping) error {
	switch {
	case n.Internal:
		return fmt.Errorf("port %s cannot be published: the network is internal, so nothing outside reaches it",
			p)
	case p.HostPort == 0 || p.Count == 0:
		return fmt.Errorf("port %s has no host port yet", p)
	}
	return p.Check()
}

// hostIP is the host address a mapping is published on; the zero value is
// every address of both families.
func hostIP(o Options, p cnm.PortMapping) netip.Addr {
	if p.HostIP.IsValid() {
		return p.HostIP.Unmap().WithZone("")
	}
	return o.HostBinding
}

func firstOf(e cnm.Endpoint, is4 bool) netip.Addr {
	for _, a := range e.Addrs {
		if a.Addr().Is4() == is4 {
			return a.Addr()
		}
	}
	return netip.Addr{}
}

// publish renders the endpoint's port elements and the sockets that hold the
// host's ports.
func (r *endpointRender) publish() error {
	for _, p := range r.e.Ports {
		ts, err := targets(r.n, r.o, r.e, p)
		if err != nil {
			return err
		}
		for _, t := range ts {
			r.rules.Publish(firewall.Publication{On: t.host, Proto: p.Proto, HostPort: p.HostPort, Count: p.Count,
				To: t.to, Port: p.Port, From: p.From})
		}
		r.hold(p)
	}
	return nil
}

// hold binds the host's ports. A mapping for every address holds both
// families even where the endpoint has one: a process that bound the other half could
// answer clients that try "localhost" there first.
func (r *endpointRender) hold(p cnm.PortMapping) {
	p.HostIP = hostIP(r.o, p)
	for _, held := range p.Reservations(endpointScope(r.e)) {
		if r.h.NoIPv6 && !p.HostIP.IsValid() && held.Addr.Is6() {
			continue
		}
		r.state.Ports = append(r.state.Ports, held)
	}
}
