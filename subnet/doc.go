// Package subnet gives each node a subnet of its own from a network that all nodes share.
//
// A [Directory] is a place in etcd with the layout and JSON of flannel's, so that flanneld can be a
// member of it and an existing network of flannel's can be joined:
//
//	<dir>/config                          the network, see [Config]
//	<dir>/subnets/10.5.1.0-24             a lease, see [Attrs]
//	<dir>/subnets/10.5.1.0-24&fc00::-64   one of both families
//	<dir>/unpaired                        ours alone, see below
//
// A lease's key hangs on the etcd lease of its holder. A key without one is a reservation: it
// belongs to the node whose public address it has, and stays whatever becomes of that node.
//
// # How a subnet has one owner
//
// Every write is a transaction that compares what was read. For a lease of one family the key says it all:
// the node that creates it has the subnet. A lease of both families has two subnets in one key, and two keys may
// differ in the one and agree in the other. So a node takes the two at the same position of their ranges, which
// makes the IPv4 half decide. Where that is not possible (one of the two is taken by a flanneld, which picks both
// at random), the two that are free are taken in a transaction that fails when any lease was created meanwhile,
// and that writes the key unpaired, which every creation compares. Of leases that overlap nevertheless, all nodes
// use the older one.
package subnet
