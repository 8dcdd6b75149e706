// Package record is what the nodes of a cluster write into etcd for each other: nodes, signs of life, endpoints,
// address blocks; and what a node keeps of its own membership in its local store.
//
// Anybody with access to etcd may have written a record. What is decoded is checked here for what the record itself
// must hold true; what it says of addresses is for the drivers to judge.
package record
