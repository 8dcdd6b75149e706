// Package linkname makes the names of links on the host: a prefix that says what the link is, and the start of
// the ID of what it is for. They have twelve bytes; the kernel allows 15 (IFNAMSIZ-1).
package linkname

import "strings"

// The prefixes.
const (
	Bridge  = "vlb-" // a network's bridge
	Veth    = "vle-" // an endpoint's end on the host
	VXLAN   = "vlx-" // a network's VXLAN device
	VXLAN6  = "vly-" // a routed network's second one, over IPv6
	TUN     = "vlt-" // a network's TUN link
	MACVLAN = "vlm-" // the host's end on a macvlan network
	VLAN    = "vlv-" // a network's VLAN
	Loose   = "vlp-" // an endpoint's other end, until its engine takes it into the container
	IFB     = "vli-" // what comes from an endpoint goes through it, to be held to a rate
)

// Prefixes are all of them: no user's name for a bridge may begin with one.
func Prefixes() []string {
	return []string{Bridge, Veth, VXLAN, VXLAN6, TUN, MACVLAN, VLAN, IFB, Loose}
}

// IDLen is how many digits of an ID a name holds.
const IDLen = 8

// Of is the name of the link with the prefix that is for what has the ID.
func Of(prefix, id string) string { return prefix + id[:min(IDLen, len(id))] }

// IsLoose reports whether a name is that of an end that is to be taken away.
func IsLoose(name string) bool { return strings.HasPrefix(name, Loose) }

// IsOurs reports whether a name is one that this package could have made.
func IsOurs(name string) bool {
	for _, p := range Prefixes() {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	return false
}
