// Package hostgw reaches the subnets of other nodes by plain routes, with the node itself as the
// next hop: for nodes on one link. With direct-routing=true, nodes beyond the link are reached by a tunnel.
package hostgw
