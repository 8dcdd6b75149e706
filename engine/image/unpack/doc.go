// Package unpack turns a layer's tar into a directory that overlayfs takes as
// a lowerdir.
//
// An archive is hostile until proven otherwise: the kernel resolves every path
// inside the directory (openat2(2) with RESOLVE_IN_ROOT), so that no order of
// entries and symbolic links reaches outside it. Whiteouts become overlayfs's own:
// see Documentation/filesystems/overlayfs.rst and the OCI image layer specification.
package unpack
