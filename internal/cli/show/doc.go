// Package show writes what commands of net tell: lists as tables, IDs, JSON lines or by a template, single things as
// JSON or by a template.
//
// Names, labels and errors come from images, containers and other nodes. Nothing of them reaches a terminal
// that it would take for a command: see [Plain].
package show
