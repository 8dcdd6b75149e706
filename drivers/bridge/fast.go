package bridge

import (
	"fmt"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// maxFastPorts is how many published ports an endpoint of the fast path may have: each is an entry. One with more takes
// the slow path.
const maxFastPorts = 256

// MAC is the hardware address of the network's bridge.
func MAC(n cnm.Network) plan.MAC { return bridgeMAC(n.ID) }

// Fast reports whether packets of the network may take the fast path.
func (o Options) Fast(n cnm.Network, h cnm.Host) bool { return o.slow(n, h) == "" }

// without says why the network has no programs of the fast path; "" where it may. Endpoints have to talk to each other
// at all, and what they send has to be theirs.
func (o Options) without(n cnm.Network, h cnm.Host) string {
	switch {
	case !h.Fast:
		return "this host has no fast path: " + h.NoFast
	case !o.FastPath:
		return "the network has fastpath=off"
	case !o.ICC:
		return "the network has icc=false"
	case !o.SourceValidation:
		return "the network has source-validation=false"
	case o.OnLAN():
		return "the network is on a LAN"
	case cnm.FastNetwork(n) == "":
		return "the network has too short an ID"
	}
	return ""
}

// MayBeFast reports whether the network may have the fast path's programs, though rules of others may be about its
// bridge.
func (o Options) MayBeFast(n cnm.Network, h cnm.Host) bool { return o.without(n, h) == "" }

// slow says why no packet of the network takes the fast path; "" where they may. Where rules of others are about the
// network's bridge, they are to see it all. So are chains at the link to the other nodes, which programs there go
// before, and policies of IPsec, which may protect what goes to these.
func (o Options) slow(n cnm.Network, h cnm.Host) string {
	why := o.without(n, h)
	if why == "" && h.Filters.About(o.Link(n)) {
		why = "firewall rules of others are about the network's bridge"
	}
	if why == "" && n.Cluster != nil {
		why = slowBetweenNodes(n, h)
	}
	return why
}

// slowBetweenNodes says the same of networks of the cluster: the links of their tunnels are on the way too.
func slowBetweenNodes(n cnm.Network, h cnm.Host) string {
	for _, prefix := range []string{linkname.VXLAN, linkname.VXLAN6, linkname.TUN} {
		if h.Filters.About(linkname.Of(prefix, n.ID)) {
			return "firewall rules of others are about the network's tunnel"
		}
	}
	switch {
	case h.Filters.At(h.Uplink.Link):
		return "firewall chains of others are at the link to other nodes"
	case h.Filters.IPsec:
		return "the host has policies of IPsec (ip xfrm policy)"
	}
	return ""
}

// SlowPath says why packets of an endpoint take the slow path; "" where they may take the fast one. An endpoint with a
// rate has queues that no packet may go round.
func SlowPath(n cnm.Network, e cnm.Endpoint, o Options, h cnm.Host) string {
	if why := o.slow(n, h); why != "" {
		return why
	}
	ports := 0
	for _, p := range e.Ports {
		if p.Proto != plan.SCTP { // it never takes the fast path
			ports += int(p.Count) * len(e.Addrs)
		}
	}
	switch {
	case e.RateIn != 0 || e.RateOut != 0:
		return "it has a rate"
	case ports > maxFastPorts:
		return fmt.Sprintf("it publishes more than %d ports, each address counted", maxFastPorts)
	case h.Filters.About(EndpointLinkName(e.ID)):
		return "firewall rules of others are about its link"
	}
	return ""
}

// SlowPath implements [cnm.PathTeller].
func (Driver) SlowPath(n cnm.Network, e cnm.Endpoint, h cnm.Host) string {
	o, err := options(n)
	if err != nil {
		return err.Error()
	}
	return SlowPath(n, e, o, h)
}

// fast has the network counted.
func (r *networkRender) fast() {
	if r.o.Fast(r.n, r.h) {
		r.state.Fast.Counters = []plan.FastCounter{{Network: cnm.FastNetwork(r.n)}}
	}
}

// fast leads to the endpoint, and has a program judge what it sends. One that takes the slow path is known by its
// addresses at most.
func (r *endpointRender) fast(mtu int) {
	slow := SlowPath(r.n, r.e, r.o, r.h) != ""
	if slow && !r.o.ByAddress {
		return
	}
	network := cnm.FastNetwork(r.n)
	var f plan.Fast
	for _, a := range r.e.Addrs {
		for _, p := range r.e.Ports {
			if p.Proto == plan.SCTP {
				continue
			}
			for i := range p.Count {
				f.Ports = append(f.Ports, plan.FastPort{Network: network, Addr: a.Addr(), Proto: p.Proto,
					Port: p.Port + i})
			}
		}
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

// bigGSO is how much TCP hands to a link at once that leads nowhere but to other endpoints and the host.
const bigGSO = 185000

// big has TCP hand more to the endpoint's link at once than an IP header tells the length of, where that is a gain:
// what an endpoint of an internal network sends meets no link on its way that would have to cut it. Elsewhere it is a
// loss, and over IPv6 the kernel forwards no such packet, see docs/design/fastpath.md.
func big(n cnm.Network, s plan.State) {
	if n.Internal && len(s.Fast.Programs) > 0 {
		s.Links[0].GSO = bigGSO
	}
}
