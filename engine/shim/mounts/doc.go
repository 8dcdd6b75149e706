// Package mounts makes what a container's root and mounts are made of, in the mount namespace of this process:
// the root filesystem of its layers, and a source for each mount. The supervisor does so for a container that
// starts, and who copies files of one that does not run.
//
// Sources that need more than a path are mounted by descriptor below the bundle's state directory, so that nothing
// is looked up twice in a directory that other containers may be changing. All of it ends with the process.
package mounts
