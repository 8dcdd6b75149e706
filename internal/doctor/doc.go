// Package doctor examines a host: what its kernel can do, how it is set up,
// and what else on it stands in the way. Every finding that is not fine names
// the command that remedies it.
//
// The checks are pure functions of [Facts]; a [Probe] gathers those. Nothing
// is changed: what has to be tried is tried in a network namespace of its own.
package doctor
