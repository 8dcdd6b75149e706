package firewall

import (
	"github.com/vethloom/vethloom/plan"
)

// The sets and maps. Networks and endpoints add and remove their elements.
const (
	setBridges     = "bridges"
	setForward     = "forward"
	setInternal    = "internal"
	setTunnels     = "tunnels"
	setNetworks    = "networks"
	setRestricted  = "restricted"
	setTunnelPorts = "tunnel_ports"

	setGuarded   = "guarded"
	setSourceMAC = "sourcemac"
	setStretched = "stretched"
)

// family holds what differs between the two IP families, so that everything
// else is written once.
type family struct {
	proto        string // meta nfproto
	ether        string // meta protocol
	ip           string // address family of translations
	addr         plan.DataType
	saddr, daddr plan.Field
	local        string // address . ifname: its own bridge
	cluster      string // address . address: between the nodes' parts of a network
	nodes        string // addresses of the nodes that tunnels lead to
	masq         string
	leave        string // the host's address that an address leaves by
	leaveNet     string // and a subnet
	open         string // ifname: reached from outside at every port
	anywhere     string // where ports on every address lead
	ports        string // where those on one address do
	ranges       string
	from         string // as ports and ranges, by source too
	fromRanges   string
	ingress      string // as anywhere, to the node that publishes a port for all
	onward       string // address . proto . port: where these lead
	source       string
	loopback     string
	any          string
	multicast    []string // never masqueraded
}

func v4() family {
	return family{
		proto: "ipv4", ether: "ip", ip: "ip", addr: plan.TypeIPv4, saddr: plan.IPSaddr, daddr: plan.IPDaddr,
		local: "local4", cluster: "cluster4", nodes: "nodes4", masq: "masq4", leave: "leave4", leaveNet: "leavenet4",
		open:     "open4",
		anywhere: "any4", ports: "ports4", ranges: "range4",
		from: "from4", fromRanges: "fromrange4", ingress: "ingress4", onward: "onward4",
		source: "source4", loopback: "127.0.0.0/8", any: "0.0.0.0/0",
		multicast: []string{"224.0.0.0/4", "255.255.255.255"},
	}
}

func v6() family {
	return family{
		proto: "ipv6", ether: "ip6", ip: "ip6", addr: plan.TypeIPv6, saddr: plan.IP6Saddr, daddr: plan.IP6Daddr,
		local: "local6", cluster: "cluster6", nodes: "nodes6", masq: "masq6", leave: "leave6", leaveNet: "leavenet6",
		open:     "open6",
		anywhere: "any6", ports: "ports6", ranges: "range6",
		from: "from6", fromRanges: "fromrange6", ingress: "ingress6", onward: "onward6",
		source: "source6", loopback: "::1", any: "::/0",
		multicast: []string{"ff00::/8"},
	}
}

func families() []family { return []family{v4(), v6()} }

func baseSets() []plan.Set {
	inet := func(name string, key ...plan.DataType) plan.Set {
		return plan.Set{Family: plan.Inet, Name: name, KeyTypes: key}
	}
	br := func(name string, key ...plan.DataType) plan.Set {
		return plan.Set{Family: plan.BridgeTable, Name: name, KeyTypes: key}
	}
	interval := func(s plan.Set, data ...plan.DataType) plan.Set {
		s.Interval, s.Data = true, data
		return s
	}
	numbered := func(s plan.Set, addr plan.DataType) plan.Set {
		s.Data = []plan.DataType{addr, plan.TypePort}
		return s
	}
	mapped := func(s plan.Set, data plan.DataType) plan.Set {
		s.Data = []plan.DataType{data}
		return s
	}
	verdicts := func(s plan.Set) plan.Set {
		return mapped(s, plan.TypeVerdict)
	}
	sets := []plan.Set{
		inet(setBridges, plan.TypeIfName),
		verdicts(inet(setForward, plan.TypeIfName, plan.TypeIfName)),
		inet(setInternal, plan.TypeIfName),
		inet(setTunnels, plan.TypeIfName),
		inet(setNetworks, plan.TypeIfName),
		inet(setRestricted, plan.TypeIfName),
		inet(setTunnelPorts, plan.TypePort),
		br(setGuarded, plan.TypeIfName),
		br(setSourceMAC, plan.TypeIfName, plan.TypeEther),
		br(setStretched, plan.TypeIfName),
	}
	for _, f := range families() {
		port := []plan.DataType{f.addr, plan.TypeInetProto, plan.TypePort}
		fromPort := append([]plan.DataType{f.addr}, port...)
		sets = append(sets,
			interval(inet(f.local, f.addr, plan.TypeIfName)),
			interval(inet(f.cluster, f.addr, f.addr)),
			inet(f.nodes, f.addr),
			interval(inet(f.masq, f.addr)),
			mapped(inet(f.leave, f.addr), f.addr),
			interval(inet(f.leaveNet, f.addr), f.addr),
			inet(f.open, plan.TypeIfName),
			numbered(inet(f.anywhere, port[1:]...), f.addr),
			numbered(inet(f.ports, port...), f.addr),
			interval(inet(f.ranges, port...), f.addr),
			interval(inet(f.from, fromPort...), f.addr, plan.TypePort),
			interval(inet(f.fromRanges, fromPort...), f.addr),
			numbered(inet(f.ingress, port[1:]...), f.addr),
			inet(f.onward, port...),
			br(f.source, plan.TypeIfName, plan.TypeEther, f.addr),
		)
	}
	return sets
}
