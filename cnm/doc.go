// Package cnm is the Container Network Model: networks, endpoints and
// sandboxes as values with revisions, the interfaces of what drives and stores them,
// and the Controller that changes them.
//
// It never touches the kernel: it commits records and asks the [Fabric] to
// make the kernel agree.
package cnm
