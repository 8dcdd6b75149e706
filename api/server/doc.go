// Package server serves the vethloom.v1 API: it translates between the
// protocol and the domain, and decides nothing.
//
// What it needs of the domain it names in small interfaces of its own; the
// daemon puts the implementations behind them. It knows who calls by the
// socket's peer credentials, and gives every error a gRPC code and the exit
// code a command line should end with.
package server
