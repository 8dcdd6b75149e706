// Package cnm is the Container Network Model: networks, endpoints and
// sandboxes as values with revisions, what can be right about them, how they are stored,
// and the interfaces of what drives, stores and addresses them.
//
// It changes nothing: package controller below it does.
package cnm
