package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
)

// attendance serves the API's networks, with who is on them, on this node and on others.
type attendance struct {
	*networks
	daemon *daemon
}

// ListEndpoints implements [server.Networks]. Of other nodes it lists what they have published.
func (a attendance) ListEndpoints(ctx context.Context, network string) ([]server.EndpointView, error) {
	wanted := func(string) bool { return true }
	if network != "" {
		n, err := a.ctrl.Network(ctx, network)
		if err != nil {
			return nil, err
		}
		wanted = func(id string) bool { return id == n.ID }
	}
	own, err := a.ctrl.Endpoints(ctx)
	if err != nil {
		return nil, err
	}
	var out []server.EndpointView
	for _, e := range own {
		if !wanted(e.Network) {
			continue
		}
		v, err := a.endpointView(ctx, e)
		if err != nil {
			return nil, err
		}
		v.Node = a.daemon.cfg.NodeName
		out = append(out, v)
	}
	peers, err := cnm.ListPeers(ctx, a.daemon.store)
	if err != nil {
		return nil, err
	}
	names := a.nodeNames()
	for _, p := range peers {
		if !p.Endpoint || !wanted(p.Network) {
			continue
		}
		n, err := a.ctrl.Network(ctx, p.Network)
		if err != nil {
			continue // it is being removed
		}
		out = append(out, elsewhere(n, p, names[p.Node]))
	}
	return out, nil
}

// nodeNames are the names of the cluster's nodes, by ID.
func (a attendance) nodeNames() map[string]string {
	names := map[string]string{}
	for _, v := range a.daemon.member.Nodes() {
		names[v.ID] = v.Name
	}
	return names
}

// elsewhere is an endpoint of another node.
func elsewhere(n cnm.Network, p cnm.Peer, node string) server.EndpointView {
	if node == "" {
		node = cnm.Short(p.Node)
	}
	_, id, _ := strings.Cut(p.ID, "/")
	v := server.EndpointView{NetworkName: n.Name, Node: node,
		Endpoint: cnm.Endpoint{ID: id, Network: p.Network, MAC: p.MAC, Addrs: slices.Clone(p.Prefixes),
			Engine: p.Engine}}
	if len(p.Names) > 0 {
		v.ContainerName = p.Names[0]
	}
	if p.Since > 0 {
		v.Created = time.Unix(p.Since, 0)
	}
	return v
}
