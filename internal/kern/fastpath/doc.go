// Package fastpath loads the programs that forward packets of containers past bridge, netfilter and tunnel devices, and
// keeps their tables.
package fastpath
