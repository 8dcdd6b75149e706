// Package clustertest runs members of a cluster by the hundreds: each with a client of etcd, a store, a controller
// and passes of its own, as netd has them, but without containers, and on a kernel in memory unless another is given.
package clustertest
