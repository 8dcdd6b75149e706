// Package volume keeps named directories that outlive containers.
//
// A volume starts empty. Filling a new one with what the image has at the
// mount's target is the engine's, which knows the target.
package volume
