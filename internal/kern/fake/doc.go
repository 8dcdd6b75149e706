// Package fake is a kernel in memory for tests that need no privileges: it
// takes the same operations as kern.Kernel and is as strict as the real one about their
// order. [Kernel.Dump] is its whole state as text, for goldens; [Kernel.FailOn]
// injects failures.
//
// It is not a model of forwarding: no packet ever moves, and rules are only checked
// for what they refer to.
package fake
