package docker

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/plan"
)

// This file has ports, which Docker has one by one and the engine in ranges.

// How many ports of one container may be published, and exposed.
const (
	maxPublished = 1 << 16
	maxExposed   = 1 << 12
)

// span is a range of ports of one protocol: 80/tcp, 8000-8010/udp.
func span(text string) (first, count uint32, proto plan.L4, err error) {
	p, err := network.ParsePortRange(text)
	if err != nil {
		return 0, 0, "", invalid("port", text, "is no port or range of ports: "+err.Error(),
			"write PORT[-PORT][/tcp|udp|sctp]")
	}
	return uint32(p.Start()), uint32(p.End()-p.Start()) + 1, plan.L4(p.Proto()), nil
}

func decodeExposed(ports map[string]struct{}) ([]plan.NamePort, error) {
	var out []plan.NamePort
	for _, text := range sortedKeys(ports) {
		first, count, proto, err := span(text)
		if err != nil {
			return nil, err
		}
		if _, err := cnm.NewPortMapping(proto, netip.Addr{}, 0, first, count); err != nil {
			return nil, err
		}
		if len(out)+int(count) > maxExposed {
			return nil, invalid("ExposedPorts", text, fmt.Sprintf("more than %d ports are exposed", maxExposed),
				"expose fewer")
		}
		for i := range count {
			out = append(out, plan.NamePort{Proto: proto, Port: uint16(first + i)})
		}
	}
	return out, nil
}

// decodeBindings reads where ports are published. Clients send ranges as single ports: what follows one another is
// put together again.
func decodeBindings(bindings map[string][]portBinding) ([]cnm.PortMapping, error) {
	var out []cnm.PortMapping
	for _, text := range sortedKeys(bindings) {
		first, count, proto, err := span(text)
		if err != nil {
			return nil, err
		}
		for _, b := range bindings[text] {
			m, err := decodeBinding(b, text, proto, first, count)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b cnm.PortMapping) int {
		return cmp.Or(cmp.Compare(a.Proto, b.Proto), a.HostIP.Compare(b.HostIP), cmp.Compare(a.Port, b.Port),
			cmp.Compare(a.HostPort, b.HostPort))
	})
	out, total := joinPorts(out), 0
	for _, m := range out {
		if total += int(m.Count); total > maxPublished {
			return nil, invalid("PortBindings", m.String(),
				fmt.Sprintf("more than %d ports are published", maxPublished), "publish fewer")
		}
	}
	return out, nil
}

func decodeBinding(b portBinding, text string, proto plan.L4, first, count uint32) (cnm.PortMapping, error) {
	var on netip.Addr
	var err error
	if b.HostIP != "" {
		if on, err = netip.ParseAddr(b.HostIP); err != nil {
			return cnm.PortMapping{}, invalid("HostIp", b.HostIP, "is no IP address", "give one of the host's, or none")
		}
	}
	if b.HostPort == "" || b.HostPort == "0" {
		return cnm.NewPortMapping(proto, on, 0, first, count)
	}
	host, hostCount, _, err := span(b.HostPort)
	switch {
	case err != nil || strings.Contains(b.HostPort, "/"):
		return cnm.PortMapping{}, invalid("HostPort", b.HostPort, "is no port or range of ports",
			"give a number, or none for one that is picked")
	case hostCount != count && count == 1:
		return cnm.PortMapping{}, unsupported("HostPort", b.HostPort, "no port is picked of a range: port "+text+
			" would have to get one of several", "name one host port, or none for one that is free")
	case hostCount != count:
		return cnm.PortMapping{}, invalid("HostPort", b.HostPort, fmt.Sprintf("is a range of %d ports for the %d of %s",
			hostCount, count, text), "give both ranges the same length")
	}
	return cnm.NewPortMapping(proto, on, host, first, count)
}

// joinPorts makes ranges of what follows one another.
func joinPorts(ports []cnm.PortMapping) []cnm.PortMapping {
	var out []cnm.PortMapping
	for _, m := range ports {
		if n := len(out); n > 0 {
			last := &out[n-1]
			if !m.Dynamic && !last.Dynamic && m.Proto == last.Proto && m.HostIP == last.HostIP &&
				int(m.Port) == int(last.Port)+int(last.Count) &&
				int(m.HostPort) == int(last.HostPort)+int(last.Count) {
				last.Count += m.Count
				continue
			}
		}
		out = append(out, m)
	}
	return out
}

// encodeBindings are the ports as they were asked for.
func encodeBindings(ports []cnm.PortMapping) network.PortMap {
	out := network.PortMap{}
	for _, m := range ports {
		for i := range max(m.Count, 1) {
			b := network.PortBinding{HostIP: m.HostIP}
			if !m.Dynamic {
				b.HostPort = strconv.Itoa(int(m.HostPort + i))
			}
			if p, ok := network.PortFrom(m.Port+i, network.IPProtocol(m.Proto)); ok {
				out[p] = append(out[p], b)
			}
		}
	}
	return out
}

// published are the ports of a container that runs, by where they are published. Those that it serves without are
// there with nothing.
func published(c server.ContainerView, exposed []plan.NamePort) network.PortMap {
	out := network.PortMap{}
	if !lives(c.Status) || shared(c.Spec) {
		return out
	}
	for _, e := range exposed {
		if p, ok := network.PortFrom(e.Port, network.IPProtocol(e.Proto)); ok {
			out[p] = nil
		}
	}
	for _, e := range c.Sandbox.Endpoints {
		for _, m := range e.Ports {
			for i := range max(m.Count, 1) {
				p, ok := network.PortFrom(m.Port+i, network.IPProtocol(m.Proto))
				if !ok {
					continue
				}
				for _, on := range m.HostIPs() {
					out[p] = append(out[p], network.PortBinding{HostIP: on,
						HostPort: strconv.Itoa(int(m.HostPort + i))})
				}
			}
		}
	}
	return out
}

// portSummaries are the same ports in a list.
func portSummaries(ports network.PortMap) []container.PortSummary {
	out := []container.PortSummary{}
	for p, bindings := range ports {
		if len(bindings) == 0 {
			out = append(out, container.PortSummary{PrivatePort: p.Num(), Type: string(p.Proto())})
		}
		for _, b := range bindings {
			n, _ := strconv.ParseUint(b.HostPort, 10, 16) // it was made of a number
			out = append(out, container.PortSummary{IP: b.HostIP, PrivatePort: p.Num(), PublicPort: uint16(n),
				Type: string(p.Proto())})
		}
	}
	slices.SortFunc(out, func(a, b container.PortSummary) int {
		return cmp.Or(cmp.Compare(a.PrivatePort, b.PrivatePort), cmp.Compare(a.Type, b.Type), a.IP.Compare(b.IP),
			cmp.Compare(a.PublicPort, b.PublicPort))
	})
	return out
}

// lives reports whether a container has processes.
func lives(s engine.Status) bool { return s == engine.Running || s == engine.Paused }

// shared reports whether a container's network is that of another.
func shared(s engine.Spec) bool { return container.NetworkMode(networkMode(s)).IsContainer() }

func decodeMAC(text string, to *plan.MAC) error {
	var hw network.HardwareAddr
	if err := hw.UnmarshalText([]byte(text)); err != nil || len(hw) != len(to) {
		return invalid("MacAddress", text, "is no MAC address of six bytes", "give one such as 02:42:0a:00:00:05")
	}
	copy(to[:], hw)
	return nil
}
