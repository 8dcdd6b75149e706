// Package controller changes the networks, sandboxes and endpoints of a node: each
// change is one commit of records, one pass of the [cnm.Fabric] that makes the kernel
// agree, and nothing in memory that the records could not rebuild.
//
// A [Controller] is made of parts, each named after what it changes: networks of
// this node, networks shared with a cluster, endpoints with their addresses and ports,
// sandboxes, and the removal of all of these. What the values are and which of them are
// right says package cnm; this package renders nothing and never touches the kernel.
package controller
