// Package copying reads and writes files of containers, in a process of its own for each request: net-copy.
//
// That process has a mount namespace of its own, in it the mounts that the container has, or would have if it were
// started, and its root there. So no link leads out of the container, whoever changes it meanwhile; a FIFO that
// blocks, or a file system that does not answer, blocks that process alone; and with it all goes that was mounted.
package copying
