// Package shim is what netd and net-shim say to each other: the bundle that
// describes a container, the frames on the socket, and the client netd uses to
// launch a supervisor, attach to it, and find it again after a restart.
//
// net-shim imports this package, so it stays on the standard library and
// x/sys: the supervisor of every container must start fast and stay small.
// How containers are made is in [github.com/vethloom/vethloom/engine/shim/box],
// how they are watched over in [github.com/vethloom/vethloom/engine/shim/server].
package shim
