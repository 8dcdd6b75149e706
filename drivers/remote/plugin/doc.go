// Package plugin is a client of Docker's plugin protocol: it finds plugins in the folders that Docker looks in, and
// calls the methods of network and IPAM drivers by HTTP and JSON.
//
// Nothing that a plugin does is trusted: each call has a bounded wait and each answer a bounded length, and an answer
// that is not one JSON object of the right types is an error. Whether the values make sense is the caller's to check.
package plugin
