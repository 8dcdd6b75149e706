// Package health finds out how the paths to other nodes are doing, and why one is not well.
//
// A path is the underlay, or one network's tunnel. A [Prober] sends echo requests (RFC 792,
// RFC 4443) over each: small ones, and with the "don't fragment" flag ones as large as the path's
// MTU, since a path that loses only those looks well until somebody sends a file. Probes
// are spread evenly, and their number a second is bounded whatever the number of paths.
//
// [Diagnose] names the likely cause of what the probes saw; it is pure.
package health
