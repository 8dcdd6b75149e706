// Package docker serves the Docker Engine API, over HTTP, from the interfaces that package server serves over gRPC. It
// translates and decides nothing: what a request means, and whether it may be, is said below these interfaces.
//
// What a client sends is hostile: bodies are bounded, nothing of them is waited for without an end, and a panic ends
// one request only.
package docker
