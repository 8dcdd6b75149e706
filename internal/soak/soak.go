package soak

import "os"

// Stride is how many steps a walk goes on after each that it tries: some, or one when VETHLOOM_SOAK is set. With the
// race detector a step takes several times as long, and what that looks for is not in the single step: twice as many.
func Stride(some int) int {
	if os.Getenv("VETHLOOM_SOAK") != "" {
		return 1
	}
	if race {
		return 2 * some
	}
	return some
}
