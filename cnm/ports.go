package cnm

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/internal/plan"
)

// portKey is one host port of one transport.
type portKey struct {
	proto plan.L4
	port  uint16
}

// portUse is who has a host port, on which of the host's addresses.
type portUse struct {
	host     netip.Addr
	endpoint string
}

// portTable holds every published host port of the records.
type portTable map[portKey][]portUse

func (t portTable) add(e Endpoint) {
	for _, m := range e.Ports {
		for i := range m.Count {
			k := portKey{m.Proto, m.HostPort + i}
			t[k] = append(t[k], portUse{m.HostIP, e.ID})
		}
	}
}

func (t portTable) remove(e Endpoint) {
	for _, m := range e.Ports {
		for i := range m.Count {
			k := portKey{m.Proto, m.HostPort + i}
			t[k] = slices.DeleteFunc(t[k], func(u portUse) bool { return u.endpoint == e.ID })
			if len(t[k]) == 0 {
				delete(t, k)
			}
		}
	}
}

// conflict finds the first port of the mapping that somebody has.
func (t portTable) conflict(m PortMapping) (port uint16, by string, found bool) {
	for i := range m.Count {
		for _, u := range t[portKey{m.Proto, m.HostPort + i}] {
			if hostsOverlap(u.host, m.HostIP) {
				return m.HostPort + i, u.endpoint, true
			}
		}
	}
	return 0, "", false
}

// hostsOverlap tells whether the same packet can be for both addresses. The
// zero value is every address, an unspecified one every address of its family.
func hostsOverlap(a, b netip.Addr) bool {
	switch {
	case !a.IsValid() || !b.IsValid() || a == b:
		return true
	case a.Is4() != b.Is4():
		return false
	}
	return a.IsUnspecified() || b.IsUnspecified()
}

func mappingsOverlap(a, b PortMapping) bool {
	return a.Proto == b.Proto && hostsOverlap(a.HostIP, b.HostIP) &&
		int(a.HostPort) < int(b.HostPort)+int(b.Count) && int(b.HostPort) < int(a.HostPort)+int(a.Count)
}

// describe is the mapping as a user writes it.
func (m PortMapping) describe() string {
	host := ""
	if m.HostIP.IsValid() {
		host = netipPort(m.HostIP.String(), m.HostPort)
	} else {
		host = fmt.Sprint(m.HostPort)
	}
	if m.Count > 1 {
		return fmt.Sprintf("%s-%d:%d-%d/%s", host, int(m.HostPort)+int(m.Count)-1, m.Port, int(m.Port)+int(m.Count)-1, m.Proto)
	}
	return fmt.Sprintf("%s:%d/%s", host, m.Port, m.Proto)
}

// normalizePorts completes the mappings and refuses what is wrong with them by
// itself.
func normalizePorts(ports []PortMapping) ([]PortMapping, error) {
	out := slices.Clone(ports)
	for i := range out {
		m := &out[i]
		if m.Proto == "" {
			m.Proto = plan.TCP
		}
		if m.Count == 0 {
			m.Count = 1
		}
		m.HostIP = m.HostIP.Unmap()
		m.Dynamic = m.Dynamic || m.HostPort == 0
		if m.Dynamic {
			m.HostPort = 0
		}
		if err := checkMapping(*m); err != nil {
			return nil, err
		}
		for _, o := range out[:i] {
			if !m.Dynamic && !o.Dynamic && mappingsOverlap(*m, o) {
				return nil, badPort(*m, "overlaps "+o.describe()+" of the same request", "publish each host port once")
			}
		}
	}
	return out, nil
}

func checkMapping(m PortMapping) error {
	switch m.Proto {
	case plan.TCP, plan.UDP, plan.SCTP:
	default:
		return badPort(m, fmt.Sprintf("%q is no transport", m.Proto), "use tcp, udp or sctp")
	}
	switch {
	case m.Port == 0:
		return badPort(m, "the container's port is 0", "name a port from 1 to 65535")
	case int(m.Port)+int(m.Count) > 1<<16 || !m.Dynamic && int(m.HostPort)+int(m.Count) > 1<<16:
		return badPort(m, "the range ends behind port 65535", "choose a shorter range or a lower port")
	case m.HostIP.IsMulticast() || m.HostIP.Zone() != "":
		return badPort(m, fmt.Sprintf("%s is no address a host port can be on", m.HostIP), "use an address of the host, or none for all of them")
	}
	return nil
}

func badPort(m PortMapping, reason, remedy string) error {
	return &Error{Kind: ErrInvalid, Field: "port", Value: m.describe(), Reason: reason, Remedy: remedy}
}

// checkPublish refuses ports that the network cannot publish.
func checkPublish(n Network, d Driver, ports []PortMapping) error {
	if len(ports) == 0 {
		return nil
	}
	if !d.Capabilities().Ports {
		return badPort(ports[0], fmt.Sprintf("network %q (driver %s) cannot publish ports", n.Name, n.Driver), "publish on a bridge network")
	}
	if n.Internal {
		return badPort(ports[0], fmt.Sprintf("network %q is internal, nothing outside reaches it", n.Name), "publish on a network that is not internal")
	}
	return nil
}

// checkHostFamily refuses a mapping from a host address to an endpoint that
// has no address of that family to translate to.
func checkHostFamily(m PortMapping, addrs []netip.Prefix) error {
	if !m.HostIP.IsValid() {
		return nil
	}
	for _, a := range addrs {
		if a.Addr().Is4() == m.HostIP.Is4() {
			return nil
		}
	}
	return badPort(m, fmt.Sprintf("the endpoint has no address of the family of %s", m.HostIP), "publish on an address of the other family, or turn the family on for the network")
}

// assignPorts gives the endpoint its host ports: the fixed ones unless
// somebody has them, free ones for the dynamic. The caller holds mu.
func (k *Controller) assignPorts(e *Endpoint, ports []PortMapping) error {
	k.ix.ports.remove(*e)
	held := Endpoint{ID: e.ID}
	defer func() { k.ix.ports.remove(held) }() // putEndpoint adds them for good
	for _, dynamic := range []bool{false, true} {
		for _, m := range ports {
			if m.Dynamic != dynamic {
				continue
			}
			if err := k.assignPort(e, &m); err != nil {
				return err
			}
			one := Endpoint{ID: e.ID, Ports: []PortMapping{m}}
			k.ix.ports.add(one)
			held.Ports = append(held.Ports, m)
		}
	}
	e.Ports = held.Ports
	return nil
}

func (k *Controller) assignPort(e *Endpoint, m *PortMapping) error {
	if err := checkHostFamily(*m, e.Addrs); err != nil {
		return err
	}
	if m.Dynamic {
		return k.pickPort(m)
	}
	port, by, taken := k.ix.ports.conflict(*m)
	if !taken {
		return nil
	}
	who := "another endpoint"
	if other := k.ix.endpoints[by]; other != nil {
		who = k.ix.title(other.v)
		if n := k.ix.networks[other.v.Network]; n != nil {
			who += " on network " + n.v.Name
		}
	}
	return &PortTakenError{Proto: m.Proto, Addr: m.HostIP, Port: port, By: who}
}

// pickPort finds a free range of host ports, going on from where the last
// one was found.
func (k *Controller) pickPort(m *PortMapping) error {
	from, to, reserved := k.dynamic()
	size := int(to) - int(from) + 1
	if k.ix.portCursor < int(from) || k.ix.portCursor > int(to) {
		k.ix.portCursor = int(from)
	}
	for seen := 0; seen < size; {
		first := k.ix.portCursor
		if first+int(m.Count)-1 > int(to) {
			seen += int(to) - first + 1
			k.ix.portCursor = int(from)
			continue
		}
		m.HostPort = uint16(first)
		step := 1
		port, _, taken := k.ix.ports.conflict(*m)
		if taken {
			step = int(port) - first + 1
		} else if p, bad := firstReserved(*m, reserved); bad {
			taken, step = true, int(p)-first+1
		}
		if !taken {
			k.ix.portCursor = first + int(m.Count)
			return nil
		}
		seen += step
		k.ix.portCursor += step
	}
	return &Error{
		Kind:   ErrExhausted,
		Reason: fmt.Sprintf("no %d free %s host ports in a row are left between %d and %d", m.Count, m.Proto, from, to),
		Remedy: "name a host port, or remove endpoints that publish ports",
	}
}

func firstReserved(m PortMapping, reserved func(uint16) bool) (uint16, bool) {
	if reserved == nil {
		return 0, false
	}
	for i := range m.Count {
		if reserved(m.HostPort + i) {
			return m.HostPort + i, true
		}
	}
	return 0, false
}
