// Package storetest is the conformance suite of [cnm.Store]: what every
// store must do, whatever it keeps its records in.
package storetest
