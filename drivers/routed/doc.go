// Package routed renders networks whose nodes have subnets of their own: on each node a bridge
// network on the leased subnet, and a backend's way to the subnets of the others.
//
// A network's directory in etcd has flannel's layout, so that flanneld can be a member of it.
package routed
