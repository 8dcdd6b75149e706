package health

import (
	"net/netip"
	"time"
)

// Underlay is the Path of the targets that are nodes' own addresses.
const Underlay = "underlay"

// Target is the far end of a path to a node.
type Target struct {
	Node   string         // its ID
	Name   string         // its name, for people
	Path   string         // [Underlay], or driver and network: "vxlan web"
	Addr   netip.Addr     // what is to answer
	Source netip.Addr     // the zero value: the kernel's choice
	MTU    int            // bytes, IP header included; 0: large packets are not tried
	Outer  netip.AddrPort // of a tunnel over UDP: where its packets go on the underlay
}

// key is what a target keeps while its other fields change.
type key struct {
	node, path string
	addr       netip.Addr
}

func (t Target) key() key { return key{t.Node, t.Path, t.Addr} }

// Result is what the latest probes of a target found.
type Result struct {
	Target
	Checked time.Time     // zero: not yet
	Small   bool          // small packets arrive, and their answers
	Large   bool          // packets of MTU bytes do, too
	RTT     time.Duration // of a small packet; 0: none arrived
	PathMTU int           // bytes; the largest packet that arrives, 0: not known
	Loss    float64       // of the latest 16 small packets, 0 to 1
	From    netip.Addr    // who answered, when it was another address than was asked
	Refused Refusals
}

// Refusals are the errors that probes met, instead of an answer.
type Refusals struct {
	Neighbour  bool // nobody answered ARP or neighbour discovery on the link
	NoRoute    bool // this host has no route there
	Denied     bool // this host's own firewall refused to send
	Prohibited bool // a firewall said so, on the way or there
	Host       bool // a router said that the host or its network cannot be reached
	Port       bool // nothing listens on the tunnel's UDP port
	Link       bool // larger than the MTU of the link that it would leave by
	TooBig     int  // bytes: the MTU that a router named; 0: none did
}

// window remembers what became of the latest small packets, the newest in the lowest bit.
type window struct {
	arrived uint16
	sent    int
}

func (w *window) add(arrived bool) {
	w.arrived <<= 1
	if arrived {
		w.arrived |= 1
	}
	w.sent = min(w.sent+1, 16)
}

func (w *window) loss() float64 {
	lost := 0
	for i := range w.sent {
		if w.arrived>>i&1 == 0 {
			lost++
		}
	}
	return float64(lost) / float64(max(w.sent, 1))
}
