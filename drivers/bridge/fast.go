package bridge

import (
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// maxFastPorts is how many published ports an endpoint of the fast path may have: each is an entry. One with more takes
// the slow path.
const maxFastPorts = 256

// MAC is the hardware address of the network's bridge.
func MAC(n cnm.Network) plan.MAC { return bridgeMAC(n.ID) }

// Fast reports whether packets of the network may take the fast path: where the network may have it, and rules of
// others are not about its bridge: they are to see it all.
func (o Options) Fast(n cnm.Network, h cnm.Host) bool {
	return o.MayBeFast(n, h) && !h.Filters.About(o.Link(n))
}

// MayBeFast reports whether the network may have the fast path's programs: where endpoints talk to each other at all,
// and what they send is theirs.
func (o Options) MayBeFast(n cnm.Network, h cnm.Host) bool {
	return h.Fast && o.FastPath && o.ICC && o.SourceValidation && !o.OnLAN() && cnm.FastNetwork(n) != ""
}

// fast has the network counted.
func (r *networkRender) fast() {
	if r.o.Fast(r.n, r.h) {
		r.state.Fast.Counters = []plan.FastCounter{{Network: cnm.FastNetwork(r.n)}}
	}
}

// fast leads to the endpoint, and has a program judge what it sends. An endpoint with a rate has queues that no packet
// may go round: it is known by its addresses at most.
func (r *endpointRender) fast(mtu int) {
	fast := r.o.Fast(r.n, r.h)
	if !fast && !r.o.ByAddress {
		return
	}
	network := cnm.FastNetwork(r.n)
	var f plan.Fast
	for _, a := range r.e.Addrs {
		for _, p := range r.e.Ports {
			if p.Proto == plan.SCTP {
				continue // it never takes the fast path
			}
			for i := range p.Count {
				f.Ports = append(f.Ports, plan.FastPort{Network: network, Addr: a.Addr(), Proto: p.Proto,
					Port: p.Port + i})
			}
		}
	}
	slow := !fast || r.e.RateIn != 0 || r.e.RateOut != 0 || r.h.Filters.About(r.host) || len(f.Ports) > maxFastPorts
	if slow && !r.o.ByAddress {
		return
	}
	if slow {
		f.Ports = nil
	} else {
		f.Programs = []plan.FastProgram{{Link: r.host, Network: network, MAC: r.e.MAC}}
	}
	for _, a := range r.e.Addrs {
		f.Endpoints = append(f.Endpoints, plan.FastEndpoint{Network: network, Addr: a.Addr(), Link: r.host,
			MAC: r.e.MAC, Via: bridgeMAC(r.n.ID), MTU: mtu, Publishes: len(f.Ports) > 0, Slow: slow})
	}
	r.state.Fast = f
}
