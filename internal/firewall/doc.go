// Package firewall is vethloom's rules: the chains and sets that all networks share, and the elements by
// which networks and endpoints take part in them. See docs/design/firewall.md.
//
// Chains are static. What comes and goes is an element of a set or a map, owned by whom it is about. Drivers say
// what is to be allowed; only this package knows what the rules look like.
package firewall
