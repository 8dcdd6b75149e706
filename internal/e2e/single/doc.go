// Package single holds the end-to-end tests of one node: the programs netd, net and
// net-shim as they are installed, each test in a network namespace of its own.
//
// VETHLOOM_BIN names the directory with the programs; without it they are built.
package single
