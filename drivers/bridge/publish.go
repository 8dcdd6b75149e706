package bridge

import (
	"fmt"
	"net/netip"
	"strconv"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/plan"
)

// target is where one mapping leads in one family.
type target struct {
	family family
	host   netip.Prefix // the host addresses it is published on
	to     netip.Addr
}

// targets checks a mapping and says where it leads: nowhere is an error.
func targets(n cnm.Network, o Options, e cnm.Endpoint, p cnm.PortMapping) ([]target, error) {
	if err := checkMapping(n, p); err != nil {
		return nil, err
	}
	host := hostIP(o, p)
	var ts []target
	for _, f := range families() {
		to := firstOf(e, f)
		if !to.IsValid() || host.IsValid() && host.Is4() != to.Is4() {
			continue
		}
		on := netip.MustParsePrefix(f.any)
		if host.IsValid() && !host.IsUnspecified() {
			on = netip.PrefixFrom(host, host.BitLen())
		}
		ts = append(ts, target{family: f, host: on, to: to})
	}
	switch {
	case len(ts) > 0:
		return ts, nil
	case host.IsValid():
		return nil, fmt.Errorf("port %s is published on %s, but the endpoint has no address of that family: publish on another address or turn the family on for the network", portText(p), host)
	}
	return nil, fmt.Errorf("port %s cannot be published: the endpoint has no address", portText(p))
}

func checkMapping(n cnm.Network, p cnm.PortMapping) error {
	switch {
	case n.Internal:
		return fmt.Errorf("port %s cannot be published: the network is internal, so nothing outside reaches it", portText(p))
	case p.Proto != plan.TCP && p.Proto != plan.UDP && p.Proto != plan.SCTP:
		return fmt.Errorf("port %s: protocol %q: want tcp, udp or sctp", portText(p), p.Proto)
	case p.Count == 0 || p.Port == 0 || p.HostPort == 0:
		return fmt.Errorf("port %s: host port %d, %d ports: want ports from 1 and at least one", portText(p), p.HostPort, p.Count)
	case int(p.Port)+int(p.Count)-1 > 65535 || int(p.HostPort)+int(p.Count)-1 > 65535:
		return fmt.Errorf("port %s: %d ports from host port %d go beyond 65535", portText(p), p.Count, p.HostPort)
	case p.HostIP.IsMulticast():
		return fmt.Errorf("port %s: %s is a multicast address: want one of this host", portText(p), p.HostIP)
	}
	return nil
}

// hostIP is the host address a mapping is published on; the zero value is
// every address of both families.
func hostIP(o Options, p cnm.PortMapping) netip.Addr {
	if p.HostIP.IsValid() {
		return p.HostIP.Unmap().WithZone("")
	}
	return o.HostBinding
}

func firstOf(e cnm.Endpoint, f family) netip.Addr {
	for _, a := range e.Addrs {
		if familyOf(a.Addr()).proto == f.proto {
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
			r.translate(t, p)
		}
		r.hold(p)
	}
	return nil
}

// translate adds one element for a range that keeps its numbers, and one a
// port for a range that changes them: a map's data cannot be counted up.
func (r *endpointRender) translate(t target, p cnm.PortMapping) {
	if p.Port == p.HostPort {
		r.element(plan.Inet, t.family.ranges, []string{t.host.String(), string(p.Proto), portRange(p.HostPort, p.Count)}, []string{t.to.String()})
		return
	}
	for i := range p.Count {
		r.element(plan.Inet, t.family.ports,
			[]string{t.host.String(), string(p.Proto), number(p.HostPort + i)}, []string{t.to.String(), number(p.Port + i)})
	}
}

// hold binds the host's ports. A mapping for every address holds both
// families even where the endpoint has one: whoever bound the other half could
// answer clients that try "localhost" there first.
func (r *endpointRender) hold(p cnm.PortMapping) {
	addrs := []netip.Addr{netip.IPv4Unspecified()}
	if !r.h.NoIPv6 {
		addrs = append(addrs, netip.IPv6Unspecified())
	}
	if host := hostIP(r.o, p); host.IsValid() {
		addrs = []netip.Addr{host}
	}
	for _, a := range addrs {
		r.state.Ports = append(r.state.Ports,
			plan.PortHold{Scope: endpointScope(r.e), Addr: a, Proto: p.Proto, From: p.HostPort, To: p.HostPort + p.Count - 1})
	}
}

func number(n uint16) string { return strconv.Itoa(int(n)) }

func portRange(from, count uint16) string {
	if count == 1 {
		return number(from)
	}
	return number(from) + "-" + number(from+count-1)
}

func portText(p cnm.PortMapping) string {
	if p.Port == 0 || p.Count == 0 || int(p.Port)+int(p.Count)-1 > 65535 {
		return number(p.Port) + "/" + string(p.Proto)
	}
	return portRange(p.Port, p.Count) + "/" + string(p.Proto)
}
