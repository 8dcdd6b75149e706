// Package backend is how the nodes of a routed network reach each other's subnets. Each
// [Backend] renders the device it needs, if any, and the way to one peer; the rest of a
// routed network is its driver's.
//
// Renders are pure, as drivers' are. A backend that moves packets itself says so with a plan.Tunnel and is asked
// for its data path by the caller that applies it.
package backend
