// Package embedded runs an etcd of one member inside the process, for clusters that
// have none of their own and for tests. It listens nowhere unless it is told
// to, is ready in a fraction of a second, and survives being killed.
package embedded
