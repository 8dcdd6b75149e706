// Package udp carries the packets of routed networks between nodes in UDP datagrams.
//
// A [Host] runs the tunnels of this process: it reads IP packets from a TUN link and sends
// each as the payload of one datagram, without a header of its own, which is flannel's udp
// format. It is for hosts whose kernel or underlay has nothing better; docs/design/udp.md says
// what it promises. Links, addresses and routes are not its affair: internal/kern makes them.
package udp
