// Package macvlan is the driver of networks whose endpoints are on a LAN of the host's, each with an address of that
// LAN and a hardware address of its own (the kernel's macvlan). Nothing is translated and nothing filtered: whoever is
// on the LAN reaches them, and the host alone does not, unless it has a link of the same kind (option host-access).
package macvlan
