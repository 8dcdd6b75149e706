package fake

import (
	"context"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster"
)

// clusterDrivers are the drivers whose networks the fake makes known to every node.
var clusterDrivers = []string{"overlay", "vxlan", "udp", "host-gw"}

// SetNodes sets what ListNodes returns; InspectNode finds them.
func (d *core) SetNodes(n ...server.NodeView) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes = n
}

// SetLeases sets what ListLeases returns.
func (d *core) SetLeases(l ...cluster.LeaseView) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases = l
}

// ListNodes implements [server.Nodes].
func (d *systemPart) ListNodes(context.Context) ([]server.NodeView, error) {
	if err := d.enter("ListNodes"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Clone(d.nodes), nil
}

// InspectNode implements [server.Nodes].
func (d *systemPart) InspectNode(_ context.Context, ref string) (server.NodeView, error) {
	if err := d.enter("InspectNode"); err != nil {
		return server.NodeView{}, err
	}
	defer d.mu.Unlock()
	for _, n := range d.nodes {
		if n.Name == ref || ref != "" && strings.HasPrefix(n.ID, ref) {
			return n, nil
		}
	}
	return server.NodeView{}, missing("node", ref)
}

// RemoveNode implements [server.Nodes].
func (d *systemPart) RemoveNode(ctx context.Context, ref string) (string, error) {
	n, err := d.InspectNode(ctx, ref)
	if err != nil {
		return "", err
	}
	if n.Alive {
		return "", &cnm.Error{Kind: cnm.ErrInUse, Field: "node", Value: n.Name, Reason: "it is a member that answers",
			Remedy: "stop netd there first, and wait until 'net node ls' shows it as away"}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.nodes = slices.DeleteFunc(d.nodes, func(o server.NodeView) bool { return o.ID == n.ID })
	return n.ID, nil
}

// ListLeases implements [server.Leases].
func (d *systemPart) ListLeases(context.Context) ([]cluster.LeaseView, error) {
	if err := d.enter("ListLeases"); err != nil {
		return nil, err
	}
	defer d.mu.Unlock()
	return slices.Clone(d.leases), nil
}

// spread makes a network one of the cluster. Of an overlay this node has the first
// /26 of each subnet, of others a lease of 256 addresses.
func spread(n *cnm.Network) {
	n.Scope, n.Cluster = cnm.Cluster, &cnm.ClusterNetwork{VNI: 4097, Port: 4789}
	for i := range n.Pools {
		p := &n.Pools[i]
		n.Cluster.Subnets = append(n.Cluster.Subnets, p.Subnet)
		bits := p.Subnet.Addr().BitLen()
		if n.Driver == "overlay" {
			block, _ := p.Subnet.Addr().Prefix(bits - 6)
			p.Blocks = append(p.Blocks, block)
			continue
		}
		n.Cluster.Leases = "/vethloom/leases/" + n.ID[:12]
		p.Subnet, _ = p.Subnet.Addr().Prefix(bits - 8)
		p.Range = p.Subnet
	}
}
