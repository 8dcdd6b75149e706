// Package registry speaks to registries of images: the OCI distribution specification 1.1, with the settings that a
// host has for its registries, and with a bound on all that a registry answers.
package registry
