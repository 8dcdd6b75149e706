// Package image keeps container images: their configuration as records in
// the store, their layers as directories that overlayfs takes as lowerdirs.
//
// Everything is content-addressed. An image's ID is the digest of its
// configuration, a layer is named by its diff ID (the digest of its
// uncompressed tar). Nothing counts references: what a layer is needed for is
// computed from the records whenever something is removed.
//
// It runs nothing and mounts nothing; that is package snapshot's and net-shim's.
package image
