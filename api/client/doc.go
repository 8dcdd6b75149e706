// Package client connects to netd and turns what can go wrong with that into
// errors a person can act on. The calls themselves are the generated clients
// of [apiv1].
package client
