// Package docker answers the network and IPAM driver protocol of dockerd, so that containers of Docker are on the
// networks of this node. An endpoint of Docker is a sandbox whose link is handed over: dockerd takes it into the
// container. Each request is answered within a bound, whatever the state of netd; what takes longer goes on, and a
// repeated request finds it.
package docker
