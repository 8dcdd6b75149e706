// Package worker is what goes on in net-copy: it makes the files of a container the root of this process, and works
// on them there. It changes the process for good.
package worker
