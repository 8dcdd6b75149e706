package plan

import (
	"net/netip"
	"strconv"
	"strings"
)

// L4 is a transport protocol.
type L4 string

// The transports a port can be published for.
const (
	TCP  L4 = "tcp"
	UDP  L4 = "udp"
	SCTP L4 = "sctp"
)

// PortReservation is a range of host ports held by bound sockets of this process, so
// that no other process can take them and a conflict is an error at once. The
// sockets go with the process; the next pass binds them again.
type PortReservation struct {
	Owner Owner // the owner; another owner's hold of the same port is a conflict
	NS    NetNS
	Addr  netip.Addr // 0.0.0.0 and :: are every address of their family
	Proto L4
	From  uint16
	To    uint16 // inclusive, at least From
}

// Key is the owner, the address, the transport and the ports. The owner is part of
// it because two owners never share a port: the second one must fail.
func (p PortReservation) Key() string {
	key := in(p.NS, string(p.Proto)+" "+p.ports())
	if p.Owner != "" {
		key += " " + string(p.Owner)
	}
	return key
}

func (p PortReservation) String() string { return words(p.NS, "port", p.ports(), string(p.Proto)) }

func (p PortReservation) ports() string { return hostPorts(p.Addr.String(), portText(p.From, p.To)) }

// Overlaps reports whether two holds want a port in common. An unspecified address is
// every address of its family.
func (p PortReservation) Overlaps(q PortReservation) bool {
	if p.NS != q.NS || p.Proto != q.Proto || p.Addr.Is4() != q.Addr.Is4() {
		return false
	}
	if p.Addr != q.Addr && !p.Addr.IsUnspecified() && !q.Addr.IsUnspecified() {
		return false
	}
	return p.From <= q.To && q.From <= p.To
}

func portText(from, to uint16) string {
	if from == to {
		return strconv.Itoa(int(from))
	}
	return strconv.Itoa(int(from)) + "-" + strconv.Itoa(int(to))
}

// hostPorts is "addr:ports", with brackets around an IPv6 address or prefix.
func hostPorts(host, ports string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + ports
}

func (p PortReservation) about() about { return about{kind: "port", ns: p.NS, owner: p.Owner} }
