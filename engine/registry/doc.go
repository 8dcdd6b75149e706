// Package registry speaks to registries of images: the OCI distribution specification 1.1, with the settings that a
// host has for its registries, and with a bound on all that a registry answers.
//
// It knows no store. A [Repository] is what an image is pulled from and pushed to; it asks mirrors before the registry
// itself, goes on where a connection broke, and says in its errors who answered what.
//
// Tokens and challenges are go-containerregistry's work. What is ours is the transport below it, which every request
// goes through, those for tokens too: TLS of one host is never used for another, what a server says is read to a limit,
// and a server cannot send us on to an address that it could not reach itself.
package registry
