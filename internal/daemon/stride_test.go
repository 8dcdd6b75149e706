//go:build !race

package daemon_test

// stride is the steps from one kill to the next: each is tried.
const stride = 1
