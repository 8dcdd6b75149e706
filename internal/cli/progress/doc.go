// Package progress shows how far transfers of images are: as bars on a terminal, as lines, as JSON, or not at all.
//
// What registries say is in the reports. It is written as [show.Plain] has it.
package progress
