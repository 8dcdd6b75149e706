// Package engine is the integrated minimal container runtime: images,
// snapshots, containers and volumes.
//
// It decides nothing about networks: it asks a [Networks] for a sandbox, has
// it joined to networks while the root filesystem is mounted, and starts a net-shim with both.
// Container isolation itself is runc's libcontainer, inside net-shim.
package engine
