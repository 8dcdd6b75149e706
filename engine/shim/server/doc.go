// Package server is net-shim's life: it makes one container, carries its stdio
// to the attached clients and to the log, leaves the exit status where netd finds
// it, and goes. It knows nothing of images, networks or records.
package server
