// Package cluster is this node's part in a cluster of nodes. It copies what the cluster's etcd says into the
// local store (networks, and as peers what other nodes have of them), and what this
// node has into etcd: its identity, its leases and address blocks, its endpoints.
//
// Nothing here touches the kernel, and no render waits for etcd: both only meet in the local store.
// See docs/design/fabric.md.
package cluster
