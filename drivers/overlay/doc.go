// Package overlay renders networks whose one subnet spans all nodes: on each node a bridge, with a VXLAN
// device (RFC 7348) as one of its ports. Addresses of another node's blocks lead to that node, where both have the fast
// path; see docs/design/fastpath.md. Every other endpoint of another node is a neighbour entry, from which the device
// answers ARP and neighbour solicitations, and a forwarding entry that says which node has it. Nothing is learned. See
// docs/design/overlay.md.
package overlay
