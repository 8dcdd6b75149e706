// Package registrytest has registries for tests: one in memory that misbehaves as it is told ([Serve]), and Debian's
// docker-registry as a process ([Debian]), with certificates that the test makes ([NewCA]).
package registrytest
