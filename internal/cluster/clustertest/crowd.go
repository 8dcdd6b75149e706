package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/plan"
	"github.com/vethloom/vethloom/subnet"
)

// Crowd writes to etcd what nodes would that do not exist.
type Crowd struct {
	Client  *clientv3.Client
	Network cnm.Network
	Avoid   netip.Prefix // a /24 that a node has which does exist
	// ByAddress has the nodes have the fast path, and blocks that endpoints are in.
	ByAddress bool
}

// firstNumber of the nodes that do not exist; those that do are below.
const firstNumber = 2000

func crowdNode(i int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", i) }

// batch is how many keys one transaction has; etcd takes 128.
const batch = 100

func (c Crowd) put(ctx context.Context, ops []clientv3.Op) error {
	for len(ops) > 0 {
		n := min(batch, len(ops))
		if _, err := c.Client.Txn(ctx).Then(ops[:n]...).Commit(); err != nil {
			return fmt.Errorf("write the crowd's records: %w", err)
		}
		ops = ops[n:]
	}
	return nil
}

func keyed(key string, v any) (clientv3.Op, error) {
	b, err := json.Marshal(v)
	return clientv3.OpPut(Prefix+"/"+key, string(b)), err
}

// Nodes writes the records of nodes from up to to.
func (c Crowd) Nodes(ctx context.Context, from, to int) error {
	var ops []clientv3.Op
	for i := from; i < to; i++ {
		id := crowdNode(i)
		node, err := keyed("node/"+id, record.Node{ID: id, Name: fmt.Sprintf("c%d", i), Addr4: Addr(firstNumber + i),
			MTU: 1500, Version: "test", Drivers: []string{"overlay", "vxlan"}, Boot: "boot", ByAddress: c.ByAddress})
		if err != nil {
			return err
		}
		alive, err := keyed("alive/"+id, map[string]string{"instance": id[:16], "boot": "boot",
			"addr": Addr(firstNumber + i).String()})
		if err != nil {
			return err
		}
		ops = append(ops, node, alive)
	}
	return c.put(ctx, ops)
}

// Blocks writes a block of the network for each of the nodes from up to to.
func (c Crowd) Blocks(ctx context.Context, from, to int) error {
	var ops []clientv3.Op
	for i := from; i < to; i++ {
		op, err := keyed("block/"+record.BlockKey(c.Network.ID, netip.PrefixFrom(c.address(i, 0), 26)).ID,
			record.Block{Node: crowdNode(i)})
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	return c.put(ctx, ops)
}

// address is one of a node's block: the network's second /16 is cut into those.
func (c Crowd) address(node, number int) netip.Addr {
	b := c.Network.Cluster.Subnets[0].Addr().As4()
	return netip.AddrFrom4([4]byte{b[0], b[1] | 1, b[2] + byte(node>>2), byte(node<<6 | number)})
}

// Leases writes leases of nodes from up to to, each of another /24 of the network.
func (c Crowd) Leases(ctx context.Context, from, to int) error {
	var ops []clientv3.Op
	for i := from; i < to; i++ {
		a := subnet.Attrs{PublicIP: Addr(firstNumber + i), BackendType: "vxlan", NodeID: crowdNode(i),
			BackendData: fmt.Appendf(nil, `{"VNI":%d,"VtepMAC":"%s"}`, c.Network.Cluster.VNI, crowdMAC(i))}
		b, err := json.Marshal(a)
		if err != nil {
			return err
		}
		ops = append(ops, clientv3.OpPut(c.Network.Cluster.Leases+"/subnets/"+c.leaseKey(i), string(b)))
	}
	return c.put(ctx, ops)
}

func (c Crowd) leaseKey(i int) string { return subnet.Subnets{V4: c.lease(i)}.Key() }

func (c Crowd) lease(i int) netip.Prefix {
	b := c.Network.Cluster.Subnets[0].Addr().As4()
	at := func(i int) netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{b[0], b[1] + byte(i>>8), byte(i), 0}), 24)
	}
	if p := at(i + 1); p != c.Avoid {
		return p
	}
	return at(0)
}

// LeasePeer is the ID of the peer that a lease of Leases is.
func (c Crowd) LeasePeer(i int) string { return cnm.PeerID(c.Network.ID, c.leaseKey(i)) }

// Endpoints writes endpoints from up to to of the crowd, spread over nodes.
func (c Crowd) Endpoints(ctx context.Context, from, to, nodes int) error {
	var ops []clientv3.Op
	for i := from; i < to; i++ {
		a := c.address(i%nodes, i/nodes)
		op, err := keyed("endpoint/"+c.Network.ID+"."+endpointID(i),
			record.Endpoint{ID: endpointID(i), Network: c.Network.ID, Node: crowdNode(i % nodes),
				Name: fmt.Sprintf("e%d", i), MAC: crowdMAC(i), Addrs: []netip.Addr{a},
				Addr4: Addr(firstNumber + i%nodes)})
		if err != nil {
			return err
		}
		ops = append(ops, op)
	}
	return c.put(ctx, ops)
}

// EndpointPeer is the ID of the peer that an endpoint of Endpoints is.
func (c Crowd) EndpointPeer(i int) string { return cnm.PeerID(c.Network.ID, cnm.Short(endpointID(i))) }

func endpointID(i int) string { return fmt.Sprintf("%012x%052x", i, 1) }

func crowdMAC(i int) plan.MAC {
	return plan.MAC{2, 0x42, byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
}
