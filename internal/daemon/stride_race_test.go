//go:build race

package daemon_test

// stride is the steps from one kill to the next: with the race detector a round takes several times as long, and what
// it looks for is not in the single step.
const stride = 5
