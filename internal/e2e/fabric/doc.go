// Package fabric proves networks across hosts with the real programs in a lab of hosts: who reaches whom, and that
// it stays so while etcd, nodes and the underlay fail.
package fabric
