// Package soak says how much of a long walk a test does: a sample of its steps, or, under `make soak`, each of them.
// It is not for leaving out tests.
package soak
