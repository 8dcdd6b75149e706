package firewall

import (
	"net/netip"
	"strconv"

	"github.com/vethloom/vethloom/plan"
)

// Elements gathers the elements of one owner.
type Elements struct {
	Owner plan.Owner
	List  []plan.Element
}

func (e *Elements) add(f plan.Family, set string, key []string, data ...string) {
	e.List = append(e.List, plan.Element{Family: f, Set: set, Keys: key, Data: data, Owner: e.Owner})
}

func (e *Elements) inet(set string, key ...string) { e.add(plan.Inet, set, key) }

// Network is a link that containers of a network send by, or that leads to some on other nodes: what comes by
// it does not reach the ports of tunnels.
func (e *Elements) Network(link string) { e.inet(setNetworks, link) }

// Bridge is the bridge of a network. What goes out by it is dropped unless something lets it pass.
func (e *Elements) Bridge(link string) {
	e.inet(setBridges, link)
	e.Network(link)
}

// Internal cuts a link off from everything but its own network.
func (e *Elements) Internal(link string) { e.inet(setInternal, link) }

// Restricted has what comes by a link to the host itself looked at: on internal networks and tunnels.
func (e *Elements) Restricted(link string) { e.inet(setRestricted, link) }

// Open lets everything of a's family from outside the host's networks pass to a bridge.
func (e *Elements) Open(a netip.Addr, link string) { e.inet(familyOf(a).open, link) }

// Tunnel is a link that leads to other nodes of one network. What comes by it must be from a subnet that is
// [Elements.Local] to it.
func (e *Elements) Tunnel(link string) {
	e.inet(setTunnels, link)
	e.Network(link)
	e.Restricted(link)
}

// Local is a subnet that is behind a link.
func (e *Elements) Local(subnet netip.Prefix, link string) {
	e.inet(familyOf(subnet.Addr()).local, subnet.String(), link)
}

// Masquerade gives what leaves a subnet for the outside the host's address.
func (e *Elements) Masquerade(subnet netip.Prefix) {
	e.inet(familyOf(subnet.Addr()).masq, subnet.String())
}

// Leave gives what leaves a subnet, or one address, for the outside the address of the host that is chosen for it. One
// address's choice counts before that of its subnet.
func (e *Elements) Leave(from netip.Prefix, by netip.Addr) {
	f := familyOf(by)
	set, key := f.leaveNet, from.String()
	if from.IsSingleIP() {
		set, key = f.leave, from.Addr().String()
	}
	e.add(plan.Inet, set, []string{key}, by.String())
}

// Cluster is a pair of subnets of one network whose traffic between nodes keeps its addresses.
func (e *Elements) Cluster(from, to netip.Prefix) {
	e.inet(familyOf(from.Addr()).cluster, from.String(), to.String())
}

// Forward lets what comes by one link leave by the other.
func (e *Elements) Forward(in, out string) {
	e.add(plan.Inet, setForward, []string{in, out}, string(plan.Accept))
}

// ForwardCluster is Forward for pairs of subnets of [Elements.Cluster] only.
func (e *Elements) ForwardCluster(in, out string) {
	e.add(plan.Inet, setForward, []string{in, out}, string(plan.Jump)+" "+chainCluster)
}

// Stretched is a bridge port that leads to other nodes' bridges of the same network. What bridges and routers say to
// those on their own link does not come in by it.
func (e *Elements) Stretched(port string) { e.add(plan.BridgeTable, setStretched, []string{port}) }

// Source lets a bridge port send from these addresses alone.
func (e *Elements) Source(port string, mac plan.MAC, addrs []netip.Prefix) {
	e.add(plan.BridgeTable, setGuarded, []string{port})
	e.add(plan.BridgeTable, setSourceMAC, []string{port, mac.String()})
	for _, a := range addrs {
		e.add(plan.BridgeTable, familyOf(a.Addr()).source, []string{port, mac.String(), a.Addr().String()})
	}
}

// Publication is a range of host ports and where they lead.
type Publication struct {
	On              netip.Prefix // the host's addresses: one or all of a family
	Proto           plan.L4
	HostPort, Count uint16
	To              netip.Addr
	Port            uint16
	From            []netip.Prefix // the sources that are led there, of both families; empty for all
}

// Publish leads ports of the host to an address. A range that keeps its numbers is one element; one that changes them
// has one for each port, as the data of a map cannot be counted up. Single ports are in maps without intervals, which
// cost the same whatever else is in them. With sources there is one of these for each of the family, and for none of
// the family there is nothing: who is not led on finds a port that nobody listens on.
func (e *Elements) Publish(p Publication) {
	f := familyOf(p.To)
	if len(p.From) == 0 {
		e.publish(p, f)
		return
	}
	for _, from := range p.From {
		if from.Addr().Is4() != p.To.Is4() {
			continue
		}
		key := func(ports string) []string { return []string{from.String(), p.On.String(), string(p.Proto), ports} }
		if p.Port == p.HostPort {
			e.add(plan.Inet, f.fromRanges, key(p.span()), p.To.String())
			continue
		}
		for i := range p.Count {
			e.add(plan.Inet, f.from, key(number(p.HostPort+i)), p.To.String(), number(p.Port+i))
		}
	}
}

func (e *Elements) publish(p Publication, f family) {
	proto := string(p.Proto)
	if p.Port == p.HostPort && p.Count > 1 {
		e.add(plan.Inet, f.ranges, []string{p.On.String(), proto, p.span()}, p.To.String())
		return
	}
	for i := range p.Count {
		set, key := f.anywhere, []string{proto, number(p.HostPort + i)}
		if p.On.Bits() > 0 {
			set, key = f.ports, append([]string{p.On.Addr().String()}, key...)
		}
		e.add(plan.Inet, set, key, p.To.String(), number(p.Port+i))
	}
}

// Ingress leads a port of every node to the node that publishes it.
func (e *Elements) Ingress(proto plan.L4, port uint16, node netip.Addr) {
	f, number := familyOf(node), number(port)
	e.add(plan.Inet, f.ingress, []string{string(proto), number}, node.String(), number)
	e.inet(f.onward, node.String(), string(proto), number)
}

// span is the host ports as nft(8) writes them.
func (p Publication) span() string {
	if p.Count <= 1 {
		return number(p.HostPort)
	}
	return number(p.HostPort) + "-" + number(p.HostPort+p.Count-1)
}

// TunnelPort is a UDP port that a tunnel of this node receives on: what sends to it speaks for a node, to
// all networks that use it, so containers may not.
func (e *Elements) TunnelPort(port uint16) { e.inet(setTunnelPorts, number(port)) }

// TunnelPeer is the address of a node that may send to the ports of [Elements.TunnelPort].
func (e *Elements) TunnelPeer(node netip.Addr) { e.inet(familyOf(node).nodes, node.String()) }

func number(n uint16) string { return strconv.Itoa(int(n)) }

// Everywhere is every address of a's family.
func Everywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return v4()
	}
	return v6()
}
