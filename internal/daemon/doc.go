// Package daemon puts the rooms together into netd: it is the only one that
// knows everyone, and it decides nothing that one of them could decide.
package daemon
