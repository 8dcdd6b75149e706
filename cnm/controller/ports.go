package controller

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// portKey is one host port of one transport.
type portKey struct {
	proto plan.L4
	port  uint16
}

// portUse is who has a host port, and by which mapping.
type portUse struct {
	m        cnm.PortMapping
	endpoint string
}

// ports holds every published host port of the records, and gives out free ones.
type ports struct {
	used    map[portKey][]portUse
	dynamic func() (from, to uint16, reserved func(uint16) bool)
	cursor  int // where the next dynamic port is looked for
}

func (p *ports) add(endpoint string, mappings ...cnm.PortMapping) {
	for _, m := range mappings {
		for i := range m.Count {
			k := portKey{m.Proto, m.HostPort + i}
			p.used[k] = append(p.used[k], portUse{m, endpoint})
		}
	}
}

func (p *ports) remove(endpoint string, mappings ...cnm.PortMapping) {
	for _, m := range mappings {
		for i := range m.Count {
			k := portKey{m.Proto, m.HostPort + i}
			p.used[k] = slices.DeleteFunc(p.used[k], func(u portUse) bool { return u.endpoint == endpoint })
			if len(p.used[k]) == 0 {
				delete(p.used, k)
			}
		}
	}
}

// conflict finds the first port of the mapping that an endpoint has.
func (p *ports) conflict(m cnm.PortMapping) (port uint16, by string, found bool) {
	for i := range m.Count {
		for _, u := range p.used[portKey{m.Proto, m.HostPort + i}] {
			if u.m.Overlaps(m) {
				return m.HostPort + i, u.endpoint, true
			}
		}
	}
	return 0, "", false
}

// heldError is the refusal of a port that another endpoint has. Who asked sees a [cnm.PortTakenError] instead.
type heldError struct {
	m    cnm.PortMapping
	port uint16
	by   string // the endpoint's ID
}

func (e *heldError) Error() string { return fmt.Sprintf("endpoint %s has host port %d", e.by, e.port) }

// assign gives the endpoint its host ports in place of those it has: the fixed ones unless another
// endpoint has them (a [heldError]), free ones for the dynamic. They are not held before they are added.
func (p *ports) assign(e *cnm.Endpoint, want []cnm.PortMapping) error {
	p.remove(e.ID, e.Ports...)
	var got []cnm.PortMapping
	defer func() { p.remove(e.ID, got...) }()
	for _, dynamic := range []bool{false, true} {
		for _, m := range want {
			if m.Dynamic != dynamic {
				continue
			}
			if err := p.assignOne(*e, &m); err != nil {
				return err
			}
			p.add(e.ID, m)
			got = append(got, m)
		}
	}
	e.Ports = got
	return nil
}

func (p *ports) assignOne(e cnm.Endpoint, m *cnm.PortMapping) error {
	if err := m.CheckFamily(e.Addrs); err != nil {
		return err
	}
	if m.Dynamic {
		return p.pick(m)
	}
	if port, by, taken := p.conflict(*m); taken {
		return &heldError{*m, port, by}
	}
	return nil
}

// pick finds a free range of host ports, going on from where the last
// one was found.
func (p *ports) pick(m *cnm.PortMapping) error {
	from, to, reserved := p.dynamic()
	size := int(to) - int(from) + 1
	if p.cursor < int(from) || p.cursor > int(to) {
		p.cursor = int(from)
	}
	for seen := 0; seen < size; {
		first := p.cursor
		if first+int(m.Count)-1 > int(to) {
			seen += int(to) - first + 1
			p.cursor = int(from)
			continue
		}
		m.HostPort = uint16(first)
		step := 1
		port, _, taken := p.conflict(*m)
		if taken {
			step = int(port) - first + 1
		} else if at, bad := firstReserved(*m, reserved); bad {
			taken, step = true, int(at)-first+1
		}
		if !taken {
			p.cursor = first + int(m.Count)
			return nil
		}
		seen += step
		p.cursor += step
	}
	return &cnm.Error{
		Kind:   cnm.ErrExhausted,
		Reason: fmt.Sprintf("no %d free %s host ports in a row are left between %d and %d", m.Count, m.Proto, from, to),
		Remedy: "name a host port, or remove endpoints that publish ports",
	}
}

func firstReserved(m cnm.PortMapping, reserved func(uint16) bool) (uint16, bool) {
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

// bound completes ports that name no address of the host by the one that the network publishes on.
func (k *endpoints) bound(n cnm.Network, ports []cnm.PortMapping) []cnm.PortMapping {
	d, ok := k.driverOf(n).(cnm.PortBinder)
	if !ok || len(ports) == 0 {
		return ports
	}
	addr := d.PortAddr(n)
	out := slices.Clone(ports)
	for i := range out {
		if !out[i].HostIP.IsValid() {
			out[i].HostIP = addr
		}
	}
	return out
}

// assignPorts gives the endpoint its host ports, or says which endpoint of which network has one of
// them. The caller holds mu.
func (k *endpoints) assignPorts(e *cnm.Endpoint, want []cnm.PortMapping) error {
	if n := k.ix.networks[e.Network]; n != nil {
		want = k.bound(n.v, want)
		if err := cnm.CheckModes(n.v, want); err != nil {
			return err
		}
	}
	err := k.ix.ports.assign(e, want)
	var held *heldError
	if !errors.As(err, &held) {
		return err
	}
	who := "another endpoint"
	if other := k.ix.endpoints[held.by]; other != nil {
		who = k.ix.title(other.v)
		if n := k.ix.networks[other.v.Network]; n != nil {
			who += " on network " + n.v.Name
		}
	}
	return &cnm.PortTakenError{Proto: held.m.Proto, Addr: held.m.HostIP, Port: held.port, By: who}
}
