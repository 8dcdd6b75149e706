// Package snapshot gives each container a writable root filesystem on top of
// its image's layers.
//
// It emits mounts and never mounts: net-shim performs them in a mount
// namespace of its own, so the kernel drops them with the last process of the
// container, whatever happens to the daemon.
package snapshot
