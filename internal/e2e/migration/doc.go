// Package migration runs what docs/migration.md says, with a real dockerd and the reference plugins of CNI.
package migration
