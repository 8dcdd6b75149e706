// Package fake is a domain in memory for tests of the API and of the command
// line: networks without links, containers whose processes are goroutines.
//
// It keeps the rules a client can see (names are taken, what is in use
// stays) and none of the others.
package fake
