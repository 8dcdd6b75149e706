package plan

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// KindOf is the word for an object's type: namespace, link, addr, route,
// neigh, fdb, tunnel, remote, sysctl, port, chain, set, element, flow or accept.
func KindOf(o Object) string {
	switch o.(type) {
	case Namespace:
		return "namespace"
	case Link:
		return "link"
	case Addr:
		return "addr"
	case Route:
		return "route"
	case Neigh:
		return "neigh"
	case FDBEntry:
		return "fdb"
	case Tunnel:
		return "tunnel"
	case Remote:
		return "remote"
	case Sysctl:
		return "sysctl"
	case PortHold:
		return "port"
	case Chain:
		return "chain"
	case Set:
		return "set"
	case Element:
		return "element"
	case Flow:
		return "flow"
	case ForeignAccept:
		return "accept"
	}
	return fmt.Sprintf("%T", o)
}

// LinkOf names the link an object is or sits on. The name is empty for
// objects that belong to no link.
func LinkOf(o Object) (NetNS, string) {
	switch o := o.(type) {
	case Link:
		return o.NS, o.Name
	case Addr:
		return o.NS, o.Link
	case Route:
		return o.NS, o.Link
	case Neigh:
		return o.NS, o.Link
	case FDBEntry:
		return o.NS, o.Link
	case Tunnel:
		return "", o.Link
	case Remote:
		return "", o.Link
	case Sysctl:
		return o.NS, o.Link()
	}
	return "", ""
}

// NetNSOf is the network namespace an object lives in. Rules and flows live
// in the fabric's own.
func NetNSOf(o Object) NetNS {
	switch o := o.(type) {
	case Namespace:
		return o.Name
	case PortHold:
		return o.NS
	case Sysctl:
		return o.NS
	}
	ns, _ := LinkOf(o)
	return ns
}

// in qualifies a key by the namespace; the fabric's own adds nothing. Neither
// namespaces nor links can have a slash in their names.
func in(ns NetNS, key string) string {
	if ns == "" {
		return key
	}
	return string(ns) + "/" + key
}

// words joins a line's parts and says last which namespace it is about.
func words(ns NetNS, parts ...string) string {
	line := strings.Join(parts, " ")
	if ns != "" {
		line += " netns " + string(ns)
	}
	return line
}

// Key is the namespace's name.
func (n Namespace) Key() string { return string(n.Name) }

func (n Namespace) String() string { return "netns " + string(n.Name) }

// Key is the name of the link, or of the first end of a veth pair, in its namespace.
func (l Link) Key() string { return in(l.NS, l.Name) }

func (l Link) String() string {
	parts := []string{"link", l.Name, string(l.Kind)}
	if l.Kind == VXLAN {
		parts = append(parts, l.VXLAN.String())
	}
	if m := l.MAC.String(); m != "" {
		parts = append(parts, "address", m)
	}
	if l.MTU != 0 {
		parts = append(parts, "mtu", strconv.Itoa(l.MTU))
	}
	if l.Master != "" {
		parts = append(parts, "master", l.Master)
		if l.Port.Isolated {
			parts = append(parts, "isolated")
		}
		if l.Port.Hairpin {
			parts = append(parts, "hairpin")
		}
	}
	if l.Up {
		parts = append(parts, "up")
	} else {
		parts = append(parts, "down")
	}
	if l.Kind == Veth {
		parts = append(parts, "peer", l.Peer.String())
	}
	if l.Scope != "" {
		parts = append(parts, "alias", AliasPrefix+string(l.Scope))
	}
	return words(l.NS, parts...)
}

// String is the peer as a part of its link's line.
func (p VethPeer) String() string {
	text := in(p.NS, p.Name)
	if m := p.MAC.String(); m != "" {
		text += " address " + m
	}
	return text
}

// peerKey is the key a veth's other end would have as a link.
func (l Link) peerKey() string { return in(l.Peer.NS, l.Peer.Name) }

// Key is the link and the address with its prefix length.
func (a Addr) Key() string { return in(a.NS, a.Link) + " " + a.Prefix.String() }

func (a Addr) String() string { return words(a.NS, "addr", a.Prefix.String(), "dev", a.Link) }

// Normal is the route with the kernel's defaults filled in: the main table,
// metric 1024 for IPv6, a masked destination, no link for a blackhole.
func (r Route) Normal() Route {
	if r.Table == 0 {
		r.Table = mainTable
	}
	if r.Metric == 0 && r.Dst.Addr().Is6() {
		r.Metric = ip6Metric
	}
	if r.Type == Blackhole {
		r.Link = "" // IPv6 shows such routes on lo
	}
	r.Dst = r.Dst.Masked()
	return r
}

const (
	mainTable = 254  // RT_TABLE_MAIN
	ip6Metric = 1024 // IP6_RT_PRIO_USER
)

// Key is what makes a second route an error or a replacement: the namespace,
// the table, the destination and the metric.
func (r Route) Key() string {
	r = r.Normal()
	return in(r.NS, fmt.Sprintf("%d %s %d", r.Table, r.Dst, r.Metric))
}

func (r Route) String() string {
	parts := []string{"route"}
	if r.Type != Unicast {
		parts = append(parts, string(r.Type))
	}
	parts = append(parts, r.Dst.String())
	if r.Via.IsValid() {
		parts = append(parts, "via", r.Via.String())
	}
	if r.Link != "" {
		parts = append(parts, "dev", r.Link)
	}
	if r.Src.IsValid() {
		parts = append(parts, "src", r.Src.String())
	}
	if r.Metric != 0 {
		parts = append(parts, "metric", strconv.FormatUint(uint64(r.Metric), 10))
	}
	if r.OnLink {
		parts = append(parts, "onlink")
	}
	if r.MTU != 0 {
		parts = append(parts, "mtu", strconv.Itoa(r.MTU))
	}
	if t := r.Normal().Table; t != mainTable {
		parts = append(parts, "table", strconv.FormatUint(uint64(t), 10))
	}
	return words(r.NS, parts...)
}

// Key is the link and the neighbour's address.
func (n Neigh) Key() string { return in(n.NS, n.Link) + " " + n.IP.String() }

func (n Neigh) String() string {
	return words(n.NS, "neigh", n.IP.String(), "lladdr", n.MAC.String(), "dev", n.Link, "nud permanent")
}

// Key is the link and the hardware address. The zero address stands for
// whatever has no entry; it goes to many destinations, so each is an entry of its own.
func (f FDBEntry) Key() string {
	key := in(f.NS, f.Link) + " " + macText(f.MAC)
	if f.MAC == (MAC{}) {
		key += " " + f.Dst.String()
	}
	return key
}

func (f FDBEntry) String() string {
	return words(f.NS, "fdb", macText(f.MAC), "dev", f.Link, "dst", f.Dst.String())
}

func macText(m MAC) string {
	if m == (MAC{}) {
		return "00:00:00:00:00:00"
	}
	return m.String()
}

// Key is the path of the value.
func (s Sysctl) Key() string { return in(s.NS, "net/"+s.Path) }

func (s Sysctl) String() string {
	return words(s.NS, "sysctl", "net/"+s.Path, "=", s.Value)
}

// Link is the link a value is tied to, for keys such as
// "ipv4/conf/<link>/route_localnet"; it is empty for all others.
func (s Sysctl) Link() string {
	parts := strings.Split(s.Path, "/")
	if len(parts) != 4 || parts[1] != "conf" && parts[1] != "neigh" {
		return ""
	}
	if parts[2] == "all" || parts[2] == "default" {
		return ""
	}
	return parts[2]
}

// normal is the value as the kernel prints it back: single spaces.
func (s Sysctl) normal() string { return strings.Join(strings.Fields(s.Value), " ") }

// Key is the owner, the address, the transport and the ports. The owner is part of
// it because two owners never share a port: the second one must fail.
func (p PortHold) Key() string {
	key := in(p.NS, string(p.Proto)+" "+p.ports())
	if p.Scope != "" {
		key += " " + string(p.Scope)
	}
	return key
}

func (p PortHold) String() string { return words(p.NS, "port", p.ports(), string(p.Proto)) }

func (p PortHold) ports() string { return hostPorts(p.Addr.String(), portText(p.From, p.To)) }

// Overlaps tells whether two holds want a port in common. An unspecified address is
// every address of its family.
func (p PortHold) Overlaps(q PortHold) bool {
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

// Key is the whole selection.
func (f Flow) Key() string { return strings.TrimPrefix(f.String(), "flow ") }

func (f Flow) String() string {
	if f.Addr != "" {
		return "flow of " + f.Addr
	}
	text := "flow " + string(f.Proto) + " to " + f.Dst
	if f.Keep != "" {
		text += " unless at " + f.Keep
	}
	return text
}

// Target parses Dst: the prefix of original destinations and the ports, from
// and to inclusive.
func (f Flow) Target() (dst netip.Prefix, from, to uint16, err error) {
	i := strings.LastIndexByte(f.Dst, ':')
	if i < 0 {
		return dst, 0, 0, fmt.Errorf("flow destination %q: want address:port", f.Dst)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(f.Dst[:i], "["), "]")
	if dst, err = parsePrefix(host); err != nil {
		return dst, 0, 0, fmt.Errorf("flow destination %q: %w", f.Dst, err)
	}
	if from, to, err = parsePorts(f.Dst[i+1:]); err != nil {
		return dst, 0, 0, fmt.Errorf("flow destination %q: %w", f.Dst, err)
	}
	return dst, from, to, nil
}

func parsePrefix(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(a, a.BitLen()), nil
}

func parsePorts(s string) (from, to uint16, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if !isRange {
		b = a
	}
	low, err := strconv.ParseUint(a, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q: %w", a, err)
	}
	high, err := strconv.ParseUint(b, 10, 16)
	if err != nil {
		return 0, 0, fmt.Errorf("port %q: %w", b, err)
	}
	if high < low {
		return 0, 0, fmt.Errorf("ports %q: the end is before the start", s)
	}
	return uint16(low), uint16(high), nil
}
