package plan

import (
	"net/netip"
	"slices"
	"strconv"
)

// FastWay is how the fast path gets a packet to another node.
type FastWay string

// The ways.
const (
	FastPlain FastWay = "plain" // by a route
	FastUDP   FastWay = "udp"   // in UDP, with nothing between
	FastVXLAN FastWay = "vxlan" // RFC 7348
)

// FastNetwork is how the fast path knows a network: the first 16 hexadecimal digits of its ID.
type FastNetwork string

// FastProgram has one of the fast path's programs at a link. At the host's end of an endpoint's pair it judges what
// the endpoint sends; at an uplink, what other nodes do. At the VXLAN device of a bridged network there are two: one
// answers who asks for addresses that other nodes have by block, and one gives what is for this node's bridge to
// endpoints.
type FastProgram struct {
	Link    string
	Network FastNetwork // "": the link is an uplink
	MAC     MAC         // of the endpoint, or of the bridge
	Bridged bool        // the link is the VXLAN device of a bridged network

	// Stale is seen only: it is another version of the program, or not all of what it needs is there.
	Stale bool
	// Leaves is of a program that is deleted with its link: the link's own removal takes it off, at no cost.
	Leaves bool
}

// Key is the link.
func (p FastProgram) Key() string { return p.Link }

func (p FastProgram) String() string {
	if p.Network == "" {
		return "fast-program " + p.Link + " uplink"
	}
	s := "fast-program " + p.Link + " network " + string(p.Network) + " address " + p.MAC.String()
	if p.Bridged {
		s += " bridged"
	}
	return s
}

func (p FastProgram) about() about { return about{kind: "fast-program", link: p.Link} }

// FastEndpoint is an address that the fast path leads to an endpoint of this node.
type FastEndpoint struct {
	Network FastNetwork
	Addr    netip.Addr
	// Plain is for what comes without a tunnel: it does not say its network.
	Plain bool
	Link  string // the host's end of its pair
	MAC   MAC    // the endpoint's
	Via   MAC    // of the network's bridge
	MTU   int    // bytes of an IP packet
	// Publishes tells that the endpoint has [FastPort]s.
	Publishes bool
	// Slow has all packets take the slow path: the entry is for those that come for the bridge of its network.
	Slow bool
}

// Key is the address in its network, or among all.
func (e FastEndpoint) Key() string {
	if e.Plain {
		return e.Addr.String()
	}
	return string(e.Network) + " " + e.Addr.String()
}

func (e FastEndpoint) String() string {
	s := "fast-endpoint " + e.Addr.String() + " network " + string(e.Network) + " dev " + e.Link + " address " +
		e.MAC.String() + " via " + e.Via.String() + " mtu " + strconv.Itoa(e.MTU)
	if e.Plain {
		s += " plain"
	}
	if e.Publishes {
		s += " publishes"
	}
	if e.Slow {
		s += " slow"
	}
	return s
}

func (e FastEndpoint) about() about { return about{kind: "fast-endpoint", link: e.Link} }

// FastPort is a port of an endpoint of this node that connection tracking may have translated: connections to and from
// it never take the fast path.
type FastPort struct {
	Network FastNetwork
	Addr    netip.Addr
	Proto   L4
	Port    uint16
}

// Key is all there is.
func (p FastPort) Key() string { return p.String() }

func (p FastPort) String() string {
	return "fast-port " + p.Addr.String() + " network " + string(p.Network) + " " + string(p.Proto) + " " +
		strconv.Itoa(int(p.Port))
}

func (p FastPort) about() about { return about{kind: "fast-port"} }

// FastPeer is a prefix of a network that the fast path leads to another node. What comes from that node must have its
// source in it.
type FastPeer struct {
	Network FastNetwork
	Prefix  netip.Prefix // masked
	Way     FastWay
	Node    netip.Addr // of the underlay; Self: the prefix is this node's own, and leaves tunnels for the slow path
	Self    netip.Addr // this node's end of the tunnel
	Link    string     // the uplink
	MTU     int        // of packets inside
	VNI     uint32     // of VXLAN
	Port    uint16     // UDP, of tunnels
	Via     MAC        // whom endpoints of this node address
	// Routed tells that the ends count hops. Frames in VXLAN have the addresses of the ends.
	Routed             bool
	SourceMAC, DestMAC MAC
	// Block tells that the prefix is the node's as a whole: who asks for an address of it is told Via.
	Block bool
	// Stale is seen only: the node is reached by another link or router by now.
	Stale bool
}

// Key is the prefix in its network.
func (p FastPeer) Key() string { return string(p.Network) + " " + p.Prefix.Masked().String() }

func (p FastPeer) String() string {
	s := "fast-peer " + p.Prefix.Masked().String() + " network " + string(p.Network) + " " + string(p.Way) + " " +
		p.Node.String() + " dev " + p.Link + " mtu " + strconv.Itoa(p.MTU) + " via " + p.Via.String()
	if p.Way != FastPlain {
		s += " local " + p.Self.String() + " dstport " + strconv.Itoa(int(p.Port))
	}
	if p.Way == FastVXLAN {
		s += " id " + strconv.Itoa(int(p.VNI))
	}
	if p.Routed {
		s += " routed"
	}
	if p.Routed && p.Way == FastVXLAN {
		s += " " + p.SourceMAC.String() + " to " + p.DestMAC.String()
	}
	if p.Block {
		s += " block"
	}
	return s
}

func (p FastPeer) about() about { return about{kind: "fast-peer"} }

// FastTunnel is an end of a tunnel of this node that the fast path takes packets from.
type FastTunnel struct {
	Port uint16 // UDP
	IPv6 bool   // the underlay's family
	Way  FastWay
	// Network is whose packets these are: of VXLAN, those with the VNI. "": what there is at the port.
	Network FastNetwork
	VNI     uint32
	Self    netip.Addr
	MAC     MAC    // of VXLAN's device, where the ends are routers
	Link    string // of UDP: the device that what takes the slow path comes out of
	Routed  bool
}

// Key is the port and, of a network's end of VXLAN, the VNI.
func (t FastTunnel) Key() string {
	s := strconv.Itoa(int(t.Port)) + " inet"
	if t.IPv6 {
		s += "6"
	}
	if t.Way == FastVXLAN && t.Network != "" {
		s += " " + strconv.Itoa(int(t.VNI))
	}
	return s
}

func (t FastTunnel) String() string {
	s := "fast-tunnel " + string(t.Way) + " dstport " + t.Key()
	if t.Network == "" {
		return s
	}
	s += " network " + string(t.Network) + " local " + t.Self.String()
	if t.Link != "" {
		s += " dev " + t.Link
	}
	if t.Routed {
		s += " routed " + t.MAC.String()
	}
	return s
}

func (t FastTunnel) about() about { return about{kind: "fast-tunnel", link: t.Link} }

// FastCounter counts the packets of a network, by the path they take and the reason.
type FastCounter struct {
	Network FastNetwork
}

// Key is the network.
func (c FastCounter) Key() string { return string(c.Network) }

func (c FastCounter) String() string { return "fast-counter network " + string(c.Network) }

func (c FastCounter) about() about { return about{kind: "fast-counter"} }

// Fast is what the fast path has.
type Fast struct {
	Counters  []FastCounter
	Ports     []FastPort
	Endpoints []FastEndpoint
	Peers     []FastPeer
	Tunnels   []FastTunnel
	Programs  []FastProgram
}

// Merge adds what another one has.
func (f *Fast) Merge(o Fast) {
	f.Counters, f.Ports = append(f.Counters, o.Counters...), append(f.Ports, o.Ports...)
	f.Endpoints, f.Peers = append(f.Endpoints, o.Endpoints...), append(f.Peers, o.Peers...)
	f.Tunnels, f.Programs = append(f.Tunnels, o.Tunnels...), append(f.Programs, o.Programs...)
}

// tabled is a kind of objects that are entries of tables. They stay when the links that they name go, so they are
// deleted before, and made again for a link that is made anew: it is another one to them.
func tabled[T interface {
	Object
	comparable
}](name string, field func(*State) *[]T) kind {
	k := kindOf(name, field)
	k.compare = func(want, have *State, absent func(Object) bool) delta {
		d := compare(*field(want), *field(have), func(w, h T) bool { return w == h },
			func(h T) bool { return absent(h) })
		for _, h := range *field(have) {
			if absent(h) {
				d.delete = append(d.delete, h)
			}
		}
		byKey(d.delete)
		return d
	}
	return k
}

// programs tells which programs go with their links: at once, and not in the kernel's own time with a namespace, when
// they would be seen meanwhile.
func (d *diff) programs(x *delta) {
	for i, o := range x.delete {
		if p, ok := o.(FastProgram); ok && d.isLost("", p.Link) && !d.late[in("", p.Link)] {
			p.Leaves = true
			x.delete[i] = p
		}
	}
}

// publishing has connections of published ports take the slow path before a rule translates them: one that opens in
// between would be known to connection tracking, and go round it.
func (d *diff) publishing() {
	for i := range d.plain {
		x := &d.plain[i]
		x.create = slices.DeleteFunc(x.create, func(o Object) bool {
			_, ok := o.(FastPort)
			if ok {
				d.add(Create, []Object{o})
			}
			return ok
		})
		x.modify = slices.DeleteFunc(x.modify, func(c change) bool {
			old, is := c.old.(FastEndpoint)
			old.Publishes = true
			if is = is && c.new == Object(old); is {
				d.addModify([]change{c})
			}
			return is
		})
	}
}
