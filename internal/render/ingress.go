package render

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
)

// ingress renders the ports of this host that lead to a peer: they are held here as on the peer's own node, and what
// comes for them goes on to that node's address on the underlay, which publishes them.
func (r *Renderer) ingress(n cnm.Network, p cnm.Peer) plan.State {
	var st plan.State
	if len(p.Ingress) == 0 || n.Phase == cnm.Deleting || n.Cluster == nil || n.Gone() || n.Left() {
		return st
	}
	host, owner := r.Host(), cnm.IngressOwner(p.ID)
	e := firewall.Elements{Owner: owner}
	for _, i := range p.Ingress {
		m := cnm.PortMapping{Proto: i.Proto, HostPort: i.Port, Port: i.Port, Count: i.Count}
		for _, held := range m.Reservations(owner) {
			if !host.NoIPv6 || held.Addr.Is4() {
				st.Ports = append(st.Ports, held)
			}
		}
		for _, node := range ways(p, host) {
			for k := range i.Count {
				e.Ingress(i.Proto, i.Port+k, node)
			}
		}
	}
	st.Rules.Elements = e.List
	return st
}

// ways are the addresses of a peer's node that lead to the peer: of the families that it has, and this host too.
func ways(p cnm.Peer, h cnm.Host) []netip.Addr {
	var out []netip.Addr
	for _, way := range []struct{ node, here netip.Addr }{{p.Addr4, h.Uplink.Addr4}, {p.Addr6, h.Uplink.Addr6}} {
		has := func(a netip.Prefix) bool { return way.node.IsValid() && a.Addr().Is4() == way.node.Is4() }
		if way.node.IsValid() && way.here.IsValid() && slices.ContainsFunc(p.Prefixes, has) {
			out = append(out, way.node)
		}
	}
	return out
}

// ingressByID renders the ports that lead to a peer: none without its record or its network's.
func (r *Renderer) ingressByID(ctx context.Context, id string) (plan.State, error) {
	n, p, err := r.peerOf(ctx, id)
	if errors.Is(err, cnm.ErrNotFound) {
		return plan.State{}, nil
	}
	if err != nil {
		return plan.State{}, err
	}
	return r.ingress(n, p), nil
}
