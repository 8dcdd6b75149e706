package render

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/plan"
)

// zone is what a resolver knows of a network, from what is rendered for it: the addresses of the host on it are those
// that its links get.
func zone(n cnm.Network, st plan.State) plan.NameZone {
	z := plan.NameZone{ID: cnm.Short(n.ID), Name: strings.ToLower(n.Name), Internal: n.Internal}
	for _, p := range n.Pools {
		z.Subnets = append(z.Subnets, p.Subnet)
	}
	if n.Cluster != nil && len(n.Cluster.Subnets) > 0 {
		z.Subnets = n.Cluster.Subnets
	}
	for _, a := range gateways(n, st) {
		z.Host = append(z.Host, a.Prefix.Addr())
	}
	return z
}

// gateways are the host's addresses on a network's links.
func gateways(n cnm.Network, st plan.State) []plan.Addr {
	var out []plan.Addr
	for _, a := range st.Addrs {
		inside := func(p cnm.Pool) bool { return p.Subnet.Contains(a.Prefix.Addr()) }
		if a.NS == "" && slices.ContainsFunc(n.Pools, inside) {
			out = append(out, a)
		}
	}
	return out
}

// nameServers are those at a network's gateway addresses, for containers of other engines. They are on bridges of ours
// alone: who is on a LAN is a stranger.
func nameServers(n cnm.Network, st plan.State) plan.State {
	var out plan.State
	bridges := map[string]bool{}
	for _, l := range st.Links {
		bridges[l.Name] = l.Kind == plan.Bridge && l.NS == ""
	}
	for _, a := range gateways(n, st) {
		if bridges[a.Link] {
			out.NameServers = append(out.NameServers,
				plan.NameServer{Link: a.Link, Addr: a.Prefix.Addr(), Network: cnm.Short(n.ID)})
		}
	}
	return out
}

// Names renders the owner of a network's name servers. They are not the network's own objects: where somebody else
// has their port, the network is as good as without.
func (r *Renderer) Names(n cnm.Network) (plan.State, error) {
	st, err := r.Network(n)
	if err != nil {
		return plan.State{}, nil // the network's own render says why
	}
	if d, err := r.driver(n); err != nil || cnm.IsLAN(d, n) {
		return plan.State{}, err
	}
	return nameServers(n, st), nil
}

// namesByID renders the name servers of the network with that short ID: nothing without its record.
func (r *Renderer) namesByID(ctx context.Context, short string) (plan.State, error) {
	records, err := r.store.Find(ctx, cnm.KindNetwork, short)
	if err != nil || len(records) == 0 {
		return plan.State{}, err
	}
	n, err := cnm.NetworkOf(records[0])
	if err != nil {
		return plan.State{}, err
	}
	return r.Names(n)
}

// member is an endpoint as others know it by name.
func member(e cnm.Endpoint) plan.NameMember {
	m := plan.NameMember{Zone: cnm.Short(e.Network), ID: cnm.Short(e.ID), NS: e.NetNS,
		Rank:  (cnm.MaxGwPriority-e.GwPriority)<<8 + e.Index,
		Names: cnm.DNSNames(e), Ports: cnm.DNSPorts(e)}
	for _, a := range e.Addrs {
		m.Addrs = append(m.Addrs, a.Addr())
	}
	return m
}

// peerMember is another node's endpoint. It has no addresses outside of the network, whatever that node says.
func peerMember(n cnm.Network, p cnm.Peer) plan.NameMember {
	m := plan.NameMember{Zone: cnm.Short(p.Network), ID: p.ID, Names: p.Names, Ports: p.Ports}
	if !p.Endpoint || len(p.Names) == 0 {
		return m
	}
	for _, a := range p.Prefixes {
		if a.IsSingleIP() && slices.ContainsFunc(n.Cluster.Subnets, func(s netip.Prefix) bool {
			return s.Contains(a.Addr())
		}) {
			m.Addrs = append(m.Addrs, a.Addr())
		}
	}
	return m
}

// sandboxServer is where a sandbox asks for names.
func sandboxServer(b cnm.Sandbox) plan.NameServer {
	return plan.NameServer{NS: b.NetNS, Addr: cnm.ResolverAddr(), Upstreams: b.DNS}
}

// named reports whether a network's endpoints have names: those with addresses have.
func (r *Renderer) named(n cnm.Network) bool {
	d, err := r.driver(n)
	return err == nil && d.Capabilities().Addresses
}
