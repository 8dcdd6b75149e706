// Package pack is the reverse of unpack: it makes tars of layers and of root filesystems out of overlayfs's
// directories, and lists what a container changed.
package pack
