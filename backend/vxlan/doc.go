// Package vxlan reaches the subnets of other nodes by VXLAN (RFC 7348) the way flannel does: a device that routes
// lead to, with one neighbour and one forwarding entry a node, and no broadcast domain across nodes.
package vxlan
