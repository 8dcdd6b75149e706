// Package iptables has the rules of a [plan.Ruleset] in the tables of iptables, ip6tables and ebtables, for hosts
// whose kernel or administrator has no use for nftables.
//
// The plan speaks nftables. Its chains and elements are compiled to chains of iptables named VETHLOOM-…: an element
// is a rule, or several. What iptables cannot say is refused, but only once an element asks for it. A chain that
// nothing jumps to, the ledger, has each object of the plan as the comment of a rule. To observe is to read the
// ledger, compile what it says again, and compare that with what there is.
package iptables
