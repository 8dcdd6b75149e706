// Package netns makes network namespaces, pins them by a mount each, and runs code in them.
package netns
