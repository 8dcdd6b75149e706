// Package packet sends and receives whole Ethernet frames on one link, beside the kernel's own IP: it announces
// addresses, and asks a LAN whether somebody has them.
package packet
