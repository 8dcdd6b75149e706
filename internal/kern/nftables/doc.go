// Package nftables reads and writes vethloom's tables of nf_tables: chains, sets and elements
// of a [plan.Ruleset], in one transaction each, over a netlink socket of its own. What was written is read
// back and compared as the kernel's own expressions, so that an edit by others is seen.
//
// It knows nothing of what the rules are for.
package nftables
