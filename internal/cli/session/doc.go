// Package session connects this process's standard streams and terminal with a process in a container: raw mode,
// size, signals, detach keys, and the way back when netd restarts in between.
package session
