package cnm

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"github.com/vethloom/vethloom/plan"
)

const lastPort = 1<<16 - 1

// NewPortMapping makes a mapping of numbers from outside, and refuses what is wrong with it by
// itself. No transport means TCP, no count 1, no host port a dynamic one, no source all of them.
func NewPortMapping(proto plan.L4, host netip.Addr, hostPort, port, count uint32, from ...netip.Prefix) (PortMapping,
	error) {
	count = max(count, 1)
	m := PortMapping{Proto: proto, HostIP: host.Unmap(), Dynamic: hostPort == 0}
	switch m.Proto {
	case plan.TCP, plan.UDP, plan.SCTP:
	case "":
		m.Proto = plan.TCP
	default:
		return m, &Error{Kind: ErrInvalid, Field: "publish", Value: string(proto),
			Reason: "is no transport that can be published", Remedy: "use tcp, udp or sctp"}
	}
	if err := checkPortRange("container port", port, count); err != nil {
		return m, err
	}
	if !m.Dynamic {
		if err := checkPortRange("host port", hostPort, count); err != nil {
			return m, err
		}
	}
	if m.HostIP.IsMulticast() || m.HostIP.Zone() != "" {
		return m, &Error{Kind: ErrInvalid, Field: "publish", Value: host.String(),
			Reason: "is no address that a host port can be on: it is multicast or has a zone",
			Remedy: "use an address of the host, or none for all of them"}
	}
	m.HostPort, m.Port, m.Count = uint16(hostPort), uint16(port), uint16(count)
	var err error
	m.From, err = checkSources(from, m.HostIP)
	return m, err
}

func checkPortRange(field string, first, count uint32) error {
	if first != 0 && first <= lastPort && count <= lastPort+1-first {
		return nil
	}
	reason := "is not a port"
	if count > 1 {
		reason = fmt.Sprintf("is not a port, or its range of %d goes beyond the last", count)
	}
	return &Error{Kind: ErrInvalid, Field: field, Value: strconv.FormatUint(uint64(first), 10), Reason: reason,
		Remedy: "ports are 1 to 65535"}
}

// MaxIngress bounds the host ports of an endpoint that every node leads on: each holds them by open files.
const MaxIngress = 256

// OnEveryNode is the mapping with Cluster, or why there is none.
func (m PortMapping) OnEveryNode() (PortMapping, error) {
	refuse := func(reason, remedy string) (PortMapping, error) {
		return m, &Error{Kind: ErrInvalid, Field: "mode", Value: "cluster", Reason: reason, Remedy: remedy}
	}
	m.Cluster = true
	switch {
	case m.Dynamic:
		return refuse("a port that is picked is free on one node, and not on all",
			"name the host port: 8080:80,mode=cluster")
	case m.HostIP.IsValid():
		return refuse(fmt.Sprintf("%s is an address of one host", m.HostIP), "leave out the host address")
	case len(m.From) > 0:
		return refuse("what other nodes lead on carries their addresses, so from= would keep it out",
			"leave out from=, or publish on the container's own node alone")
	case m.Count > MaxIngress:
		return refuse(fmt.Sprintf("its %d ports are more than %d", m.Count, MaxIngress), "publish a smaller range")
	}
	return m, nil
}

// checked is the mapping made anew, as it must be.
func (m PortMapping) checked() (PortMapping, error) {
	n, err := NewPortMapping(m.Proto, m.HostIP, uint32(m.HostPort), uint32(m.Port), uint32(m.Count), m.From...)
	if err == nil && m.Cluster {
		n, err = n.OnEveryNode()
	}
	return n, err
}

// Check refuses what is wrong with the mapping by itself.
func (m PortMapping) Check() error {
	_, err := m.checked()
	return err
}

// NormalizePorts completes the mappings of one request and refuses what is wrong with them.
func NormalizePorts(ports []PortMapping) ([]PortMapping, error) {
	out := slices.Clone(ports)
	var taken Publications
	for i, m := range out {
		if m.Dynamic {
			m.HostPort = 0
		}
		m, err := m.checked()
		if err != nil {
			return nil, err
		}
		out[i] = m
		if o, found := taken.Overlap(m); found {
			return nil, m.Refuse("overlaps "+o.String()+" of the same request", "publish each host port once")
		}
		taken.Add(m)
	}
	return out, nil
}

// Publications finds mappings by the host ports that they take, whatever their number. Dynamic ones take none yet.
type Publications struct{ byPort map[hostPortKey][]PortMapping }

type hostPortKey struct {
	proto plan.L4
	port  uint16
}

// Add enters a mapping.
func (p *Publications) Add(m PortMapping) {
	if m.Dynamic {
		return
	}
	if p.byPort == nil {
		p.byPort = map[hostPortKey][]PortMapping{}
	}
	for i := range max(m.Count, 1) {
		key := hostPortKey{m.Proto, m.HostPort + i}
		p.byPort[key] = append(p.byPort[key], m)
	}
}

// Overlap finds one that takes a host port in common with another mapping.
func (p *Publications) Overlap(m PortMapping) (o PortMapping, found bool) {
	if m.Dynamic {
		return o, false
	}
	for i := range max(m.Count, 1) {
		for _, o := range p.byPort[hostPortKey{m.Proto, m.HostPort + i}] {
			if m.Overlaps(o) {
				return o, true
			}
		}
	}
	return o, false
}

// HostIPs are the host's addresses that the mapping is on; an unspecified one is every address of its
// family.
func (m PortMapping) HostIPs() []netip.Addr {
	if m.HostIP.IsValid() {
		return []netip.Addr{m.HostIP}
	}
	return []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
}

// Reservations are the host ports that the mapping takes.
func (m PortMapping) Reservations(owner plan.Owner) []plan.PortReservation {
	var out []plan.PortReservation
	for _, a := range m.HostIPs() {
		out = append(out, plan.PortReservation{
			Owner: owner, Addr: a, Proto: m.Proto, From: m.HostPort, To: m.HostPort + m.Count - 1,
		})
	}
	return out
}

// Overlaps reports whether both mappings take a host port in common.
func (m PortMapping) Overlaps(o PortMapping) bool {
	for _, a := range m.Reservations("") {
		if slices.ContainsFunc(o.Reservations(""), a.Overlaps) {
			return true
		}
	}
	return false
}

// Names reports whether the mapping, as somebody names what is to go, means o: by a range of container ports that o
// lies in, or by the host ports as well, on one address or any, for some sources or any.
func (m PortMapping) Names(o PortMapping) bool {
	if m.Proto != o.Proto || m.HostIP.IsValid() && m.HostIP != o.HostIP ||
		len(m.From) > 0 && !slices.Equal(m.From, o.From) {
		return false
	}
	if m.HostPort == 0 {
		return o.Port >= m.Port && int(o.Port)+int(max(o.Count, 1)) <= int(m.Port)+int(max(m.Count, 1))
	}
	return !o.Dynamic && m.HostPort == o.HostPort && m.Port == o.Port && max(m.Count, 1) == max(o.Count, 1)
}

// String is the mapping as a user asks for it: 127.0.0.1:8080:80/tcp,from=127.0.0.0/8.
func (m PortMapping) String() string {
	to := m.Target()
	for _, p := range m.From {
		to += ",from=" + p.String()
	}
	if m.Cluster {
		to += ",mode=cluster"
	}
	switch from := portSpan(m.HostPort, m.Count); {
	case m.HostIP.IsValid() && m.HostPort == 0:
		return hostPort(m.HostIP.String(), "") + ":" + to
	case m.HostIP.IsValid():
		return hostPort(m.HostIP.String(), from) + ":" + to
	case m.HostPort == 0:
		return to
	default:
		return from + ":" + to
	}
}

// Published is the mapping as lists show it, by host address: 0.0.0.0:8080->80/tcp.
func (m PortMapping) Published() []string {
	out := m.Addresses()
	for i := range out {
		out[i] += "->" + m.Target()
	}
	return out
}

// Addresses are where the mapping is published on the host: 0.0.0.0:8080-8090, with port 0 for one to be picked.
func (m PortMapping) Addresses() []string {
	var out []string
	for _, a := range m.HostIPs() {
		out = append(out, hostPort(a.String(), portSpan(m.HostPort, m.Count)))
	}
	return out
}

// Target is what the mapping leads to in the container: 80-90/tcp.
func (m PortMapping) Target() string { return portSpan(m.Port, m.Count) + "/" + string(m.Proto) }

// portSpan is one port or the first and the last of several.
func portSpan(first, count uint16) string {
	if count <= 1 {
		return strconv.Itoa(int(first))
	}
	return fmt.Sprintf("%d-%d", first, int(first)+int(count)-1)
}

// Refuse is the error of a mapping that cannot be.
func (m PortMapping) Refuse(reason, remedy string) error {
	return &Error{Kind: ErrInvalid, Field: "port", Value: m.String(), Reason: reason, Remedy: remedy}
}

// CheckPublish refuses ports that the network cannot publish.
func CheckPublish(n Network, d Driver, ports []PortMapping) error {
	if len(ports) == 0 {
		return nil
	}
	if !d.Capabilities().Ports {
		return ports[0].Refuse(fmt.Sprintf("network %q (driver %s) cannot publish ports", n.Name, n.Driver),
			"publish on a bridge network")
	}
	if IsLAN(d, n) {
		return ports[0].Refuse(fmt.Sprintf("network %q is a LAN: every port of the container can be reached at "+
			"its own address, and none is published on the host", n.Name),
			"leave the port out, or publish on another network")
	}
	if n.Internal {
		return ports[0].Refuse(fmt.Sprintf("network %q is internal, nothing outside reaches it", n.Name),
			"publish on a network that is not internal")
	}
	return nil
}

// CheckModes refuses ports of every node on a network that other nodes do not have or that publishes on an address of
// its own, and more of them than nodes hold.
func CheckModes(n Network, ports []PortMapping) error {
	sum := 0
	for _, m := range ports {
		if err := m.checkMode(n); err != nil {
			return err
		}
		if m.Cluster {
			sum += int(m.Count)
		}
		if sum > MaxIngress {
			return m.Refuse(fmt.Sprintf("with it every node would hold %d ports for the container, more than %d", sum,
				MaxIngress), "publish fewer with mode=cluster")
		}
	}
	return nil
}

func (m PortMapping) checkMode(n Network) error {
	switch {
	case !m.Cluster:
		return nil
	case n.Cluster == nil:
		return m.Refuse(fmt.Sprintf("network %q is of this host alone", n.Name),
			"leave out mode=cluster, or publish on a network of the cluster")
	case m.HostIP.IsValid():
		return m.Refuse(fmt.Sprintf("network %q publishes on %s (option host-binding), an address of one host", n.Name,
			m.HostIP), "leave out mode=cluster, or publish on another network")
	}
	return nil
}

// CheckFamily refuses a mapping from a host address to an endpoint that
// has no address of that family to translate to.
func (m PortMapping) CheckFamily(addrs []netip.Prefix) error {
	if !m.HostIP.IsValid() {
		return nil
	}
	for _, a := range addrs {
		if a.Addr().Is4() == m.HostIP.Is4() {
			return nil
		}
	}
	return m.Refuse(fmt.Sprintf("the endpoint has no address of the family of %s", m.HostIP),
		"publish on an address of the other family, or turn the family on for the network")
}
