// Package pack is the reverse of unpack: it makes tars of layers and of root filesystems out of overlayfs's
// directories, and lists what a container changed.
//
// What is in the trees was written by containers, and may change while it is read: no link is followed, no mount is
// crossed, nothing is opened that could block or act, and neither depth nor size takes descriptors or memory. What the
// layers below show is asked of overlayfs itself, see [snapshot.OpenMerged].
package pack
