// Package render turns records into the kernel state that they ask for: networks, sandboxes,
// endpoints and peers, each by its driver, and what all networks share.
//
// Everything here is pure but for reading the store. What applies the state, and when, is
// [reconcile]'s business.
package render
