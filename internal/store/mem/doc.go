// Package mem is a [cnm.Store] in memory: for tests, and the model that the
// other stores are compared with.
package mem
