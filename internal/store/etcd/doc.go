// Package etcd is a [cnm.Store] in a directory of etcd, shared by nodes. A record of
// kind K with ID I is the key PREFIX/K/I, whose bytes other than printable ASCII are
// escaped as %XX; its revision is the key's mod revision. A commit is one
// transaction.
package etcd
