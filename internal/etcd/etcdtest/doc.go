// Package etcdtest gives tests an etcd inside their own process, and clients of it.
package etcdtest
