// Package sample makes images to measure engines with: the same bytes each time, which compress about as those of
// programs do. They are given by a registry, and are in archives.
package sample
