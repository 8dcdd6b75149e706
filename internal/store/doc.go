// Package store holds what every [cnm.Store] of this tree does alike: the
// rules of a valid commit, the conflict error and the watchers. The stores themselves are its
// subdirectories.
package store
