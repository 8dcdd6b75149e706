// Package kern reads and changes the kernel's network state: the only place
// with netlink sockets, network namespaces and firewall rules.
//
// A [Kernel] is bound to one network namespace, the fabric's own, and to the
// namespaces pinned under its run directory. [Kernel.Observe] reads the objects that carry
// our mark, [Kernel.Apply] carries out operations of a plan, and
// [Kernel.Drift] tells when somebody else has changed what is ours. It decides nothing:
// what should exist is rendered elsewhere and compared by plan.
//
// The marks are: the alias "vethloom:<scope>" of links, and their group (the far end of a veth
// pair has " peer" after its alias), protocol 117 of routes, neighbours and addresses, the
// nftables tables named vethloom, and the directory of pinned namespaces.
package kern
