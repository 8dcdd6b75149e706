package health

import (
	"fmt"
	"net/netip"
	"strings"
)

// Peer is what is known of a node besides its probes.
type Peer struct {
	Alive     bool           // the cluster hears of it
	Announced netip.Addr     // the underlay address that its own record in the cluster has; the zero value: not known
	Link      string         // this node's link to it
	Self      netip.Addr     // this node's address on the underlay
	OnLink    []netip.Prefix // what is reached on Link without a router; none: not known
}

// Diagnosis is why a path is not well, and what to do. The zero value: it is well, or nothing is known yet.
type Diagnosis struct{ Cause, Remedy string }

// Diagnose finds the likely cause of what probes of one path found. The underlay is that of the same
// node and family; of the underlay itself, it is r.
func Diagnose(p Peer, underlay, r Result) Diagnosis {
	switch {
	case r.Checked.IsZero():
		return Diagnosis{}
	case p.moved(underlay.Addr) && !r.Large:
		return Diagnosis{
			fmt.Sprintf("%s announces the address %s, and this path leads to %s: it has moved, and an old record "+
				"is left", r.name(), p.Announced, underlay.Addr),
			fmt.Sprintf("on %s: net status shows its address; choose it with netd --node-ip or --iface, and "+
				"restart netd", r.name()),
		}
	case r.Small && r.From.IsValid():
		return Diagnosis{
			fmt.Sprintf("%s has another address than it announces: %s answers for %s", r.name(), r.From, r.Addr),
			fmt.Sprintf("on %s: netd --node-ip %s, or --iface with the link that has %s", r.name(), r.From, r.Addr),
		}
	case r.Small && r.Large:
		return Diagnosis{}
	case r.Path == Underlay && r.Small:
		return narrowUnderlay(p, r)
	case r.Path == Underlay:
		return deafUnderlay(p, r)
	case r.Small:
		return narrowTunnel(p, underlay, r)
	}
	return deafTunnel(p, underlay, r)
}

// moved reports whether the node announces another address of addr's family.
func (p Peer) moved(addr netip.Addr) bool {
	return p.Announced.IsValid() && addr.IsValid() && p.Announced.Is4() == addr.Is4() && p.Announced != addr
}

// beyondRouter reports whether an address is known not to be on this node's link.
func (p Peer) beyondRouter(addr netip.Addr) bool {
	known := false // a prefix of addr's family
	for _, on := range p.OnLink {
		if on.Contains(addr) {
			return false
		}
		known = known || on.Addr().Is4() == addr.Is4()
	}
	return known && addr.IsValid()
}

func (r Result) name() string {
	if r.Name != "" {
		return r.Name
	}
	return r.Addr.String()
}

// unanswered reports whether an underlay has been probed in vain for another reason than that pings are
// filtered, which nobody can tell from silence alone.
func (r Result) unanswered() bool {
	x := r.Refused
	return !r.Checked.IsZero() && !r.Small && (x.Neighbour || x.NoRoute || x.Denied || x.Host)
}

func deafUnderlay(p Peer, r Result) Diagnosis {
	x := r.Refused
	switch {
	case x.NoRoute:
		return Diagnosis{"underlay unreachable: this host has no route to " + r.Addr.String(),
			fmt.Sprintf("ip route get %s; choose the right link here with netd --iface, or on %s with netd "+
				"--iface or --node-ip there", r.Addr, r.name())}
	case x.Denied:
		return Diagnosis{"this host's own firewall refuses packets to " + r.Addr.String(),
			"nft list ruleset, iptables -S OUTPUT: look for what drops them"}
	case x.Neighbour && p.Alive:
		return Diagnosis{fmt.Sprintf("underlay unreachable: %s does not answer on link %s, though %s is alive: "+
			"one of the two is on the wrong link", r.Addr, p.link(), r.name()),
			fmt.Sprintf("ip neigh show %s; choose the link that both share with netd --iface, here or on %s", r.Addr,
				r.name())}
	case x.Neighbour:
		return Diagnosis{fmt.Sprintf("%s is away: nobody has %s on link %s", r.name(), r.Addr, p.link()),
			fmt.Sprintf("start the host and netd on it; if it runs, choose its link there with netd --iface, or "+
				"here when %s is the wrong one", p.link())}
	case x.Prohibited:
		return Diagnosis{"a firewall on the way, or on " + r.name() + ", refuses packets to " + r.Addr.String(),
			"allow traffic between the nodes: " + traceroute(r)}
	case x.Host:
		return Diagnosis{fmt.Sprintf("underlay unreachable: a router says that %s cannot be reached", r.Addr),
			traceroute(r) + " shows where it ends; see that " + r.name() + " is on"}
	case !p.Alive:
		return Diagnosis{r.name() + " is away: it answers nothing, and the cluster does not hear of it",
			"start the host, and netd on it: systemctl start netd"}
	}
	return Diagnosis{fmt.Sprintf(
		"%s answers no ping at %s, though it is alive: pings are filtered, or packets are lost on the way", r.name(),
		r.Addr),
		traceroute(r) + " shows where they end; to allow pings: " + allowPing(r.Addr)}
}

func (p Peer) link() string {
	if p.Link == "" {
		return "to it"
	}
	return p.Link
}

func traceroute(r Result) string { return "traceroute -n " + r.Addr.String() }

func allowPing(a netip.Addr) string {
	if a.Is4() {
		return "nft insert rule inet filter input icmp type echo-request accept"
	}
	return "nft insert rule inet filter input icmpv6 type echo-request accept"
}

func narrowUnderlay(p Peer, r Result) Diagnosis {
	if r.Refused.Link && r.PathMTU == 0 {
		return Diagnosis{fmt.Sprintf("the route to %s allows less than the %d bytes of %s", r.Addr, r.MTU, p.link()),
			"ip route get " + r.Addr.String() + " shows its MTU"}
	}
	how := "large packets are lost"
	if r.Refused.TooBig > 0 {
		how = "a router says so"
	}
	return Diagnosis{
		fmt.Sprintf("the underlay's MTU to %s is %d, smaller than the %d of %s: %s", r.name(), r.PathMTU, r.MTU,
			p.link(), how),
		fmt.Sprintf("ip link set %s mtu %d on every node, or lower it for one network: net network create -o "+
			"mtu=…; or repair the path, whose links and switches need %d", p.link(), r.PathMTU, r.MTU),
	}
}

func narrowTunnel(p Peer, underlay, r Result) Diagnosis {
	cause := fmt.Sprintf("packets above %d bytes are lost on the path to %s, and the network sends up to %d", r.PathMTU,
		r.name(), r.MTU)
	if underlay.Small && !underlay.Large && underlay.PathMTU > 0 {
		cause = fmt.Sprintf("the underlay's MTU to %s is %d, smaller than the %d of %s: packets above %d bytes "+
			"are lost in the tunnel",
			r.name(), underlay.PathMTU, underlay.MTU, p.link(), r.PathMTU)
	}
	_, network, _ := strings.Cut(r.Path, " ")
	return Diagnosis{cause, fmt.Sprintf(
		"make the network again with -o mtu=%d: net network rm %s, net network create …; or repair the path",
		r.PathMTU, network)}
}

func deafTunnel(p Peer, underlay, r Result) Diagnosis {
	x := r.Refused
	driver, network, _ := strings.Cut(r.Path, " ")
	port := r.Outer.Port()
	switch {
	case underlay.unanswered():
		return deafUnderlay(p, underlay)
	case !p.Alive && underlay.Small && x.Port:
		return Diagnosis{fmt.Sprintf("netd is down on %s: the host answers, and nothing listens on UDP port %d",
			r.name(), port), "start it there: systemctl start netd"}
	case !p.Alive && !underlay.Small:
		return deafUnderlay(p, underlay)
	case x.Port:
		return Diagnosis{fmt.Sprintf("nothing listens on UDP port %d of %s: network %s is not set up there", port,
			r.name(), network),
			fmt.Sprintf("on %s: net status, net diff and net network inspect %s", r.name(), network)}
	case port == 0 && p.beyondRouter(underlay.Addr):
		return Diagnosis{fmt.Sprintf(
			"%s is not on link %s: a router is between, and routes by %s need the nodes on one link", underlay.Addr,
			p.link(), driver),
			fmt.Sprintf("make %s a network of driver vxlan or udp, or with -o direct-routing=true, which has a "+
				"tunnel for such nodes", network)}
	case x.Denied || x.NoRoute:
		return Diagnosis{fmt.Sprintf(
			"this host cannot send to %s by %s: its own firewall refuses, or the route is missing", r.Addr, driver),
			fmt.Sprintf("net diff; ip route get %s; nft list ruleset", r.Addr)}
	case port == 0:
		return Diagnosis{fmt.Sprintf("%s answers on the underlay, and not for network %s: it does not forward, or "+
			"something on the way drops its subnet", r.name(), network),
			fmt.Sprintf("on %s: net doctor, and sysctl net.ipv4.ip_forward; on a cloud's network, allow addresses "+
				"that are not the host's own, or use -d vxlan", r.name())}
	case !p.Alive:
		return Diagnosis{fmt.Sprintf("netd is down on %s, and its tunnel with it; the host answers", r.name()),
			"start it there: systemctl start netd"}
	case x.Prohibited:
		return Diagnosis{fmt.Sprintf("a firewall refuses UDP port %d between %s and %s", port, self(p),
			r.Outer.Addr()), allowUDP(port)}
	case !underlay.Small && !underlay.Checked.IsZero():
		return Diagnosis{fmt.Sprintf("neither pings nor UDP port %d pass between %s and %s", port, self(p),
			r.Outer.Addr()), traceroute(underlay) + "; " + allowUDP(port)}
	}
	return Diagnosis{fmt.Sprintf("UDP port %d is blocked between %s and %s, which reach each other otherwise", port,
		self(p), r.Outer.Addr()), allowUDP(port)}
}

func self(p Peer) string {
	if p.Self.IsValid() {
		return p.Self.String()
	}
	return "this host"
}

func allowUDP(port uint16) string {
	return fmt.Sprintf("allow it on both, and in what is between: nft insert rule inet filter input udp dport %d "+
		"accept, or iptables -I INPUT -p udp --dport %d -j ACCEPT", port, port)
}

// Verdict is a path with its diagnosis.
type Verdict struct {
	Result
	Diagnosis
	Reachable bool // small packets arrive; on the underlay also when only a tunnel's do
}

// Judge diagnoses all paths to one node together.
func Judge(p Peer, paths []Result) []Verdict {
	out := make([]Verdict, 0, len(paths))
	for _, r := range paths {
		v := Verdict{r, Diagnose(p, underlayOf(r, paths), r), r.Small}
		if r.Path == Underlay && !r.Small && !r.unanswered() && carries(r, paths) {
			v.Reachable = true
			v.Diagnosis = Diagnosis{Cause: fmt.Sprintf(
				"%s answers no ping at %s, and tunnels to it work: pings are filtered", r.name(), r.Addr),
				Remedy: "nothing, or for a better diagnosis on " + r.name() + ": " + allowPing(r.Addr)}
		}
		out = append(out, v)
	}
	return out
}

// carries reports whether a tunnel over this underlay works.
func carries(u Result, paths []Result) bool {
	for _, r := range paths {
		if r.Path != Underlay && r.Small && r.Outer.Addr() == u.Addr {
			return true
		}
	}
	return false
}

// underlayOf is the underlay that a path's packets go by.
func underlayOf(r Result, paths []Result) Result {
	if r.Path == Underlay {
		return r
	}
	var some Result
	for _, u := range paths {
		switch {
		case u.Path != Underlay:
		case u.Addr == r.Outer.Addr():
			return u
		case !some.Addr.IsValid():
			some = u
		}
	}
	return some
}
