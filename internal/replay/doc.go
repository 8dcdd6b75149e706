// Package replay keeps the end of a stream for a reader that comes back after its connection broke off, and counts what
// it has to do without.
package replay
