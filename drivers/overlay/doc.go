// Package overlay renders networks whose one subnet spans all nodes: on each node a bridge, with a VXLAN
// device (RFC 7348) as one of its ports. Every endpoint of another node is a neighbour entry, from which the
// device answers ARP and neighbour solicitations, and a forwarding entry that says which node has it.
// Nothing is learned and nothing is flooded. See docs/design/overlay.md.
package overlay
