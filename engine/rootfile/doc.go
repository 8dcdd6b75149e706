// Package rootfile reads files that a container may have written. Such a file can be
// anything: a link out of the root filesystem, a FIFO that blocks who opens it, or a
// terabyte of holes. What netd and net-shim read of one, they read here, and here they remove
// the trees that containers and archives have made.
package rootfile
