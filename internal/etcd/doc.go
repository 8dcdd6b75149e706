// Package etcd is what the node needs of etcd besides its client: the
// configuration of a connection, a replica of a directory that
// follows every change and survives compactions, reconnects and restored or
// wiped clusters, and a lease that is kept alive and whose end is known by the
// local clock. It knows nothing of networks.
package etcd
