// Package lan keeps the addresses that networks on a LAN give from those that others there have: the LAN is asked
// before an endpoint gets one.
package lan
