// Package box makes a container from a bundle with runc's libcontainer. It is
// the one importer of libcontainer, and runs in net-shim only: everything about
// isolation is there, nothing about sockets, logs or netd.
package box
