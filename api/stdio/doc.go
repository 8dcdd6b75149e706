// Package stdio is the fast way of the bytes of standard streams through gRPC. The messages on the wire are those of
// the API; what is spared is reflection, memory for each message, and copies.
package stdio
