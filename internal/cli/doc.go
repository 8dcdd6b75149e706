// Package cli is the net command line: Docker's grammar over the vethloom API.
//
// It starts fast, so it links only the API's client, and holds no logic of
// the fabric: what a flag means for a network is the daemon's to know.
package cli
