// Package apiv1 is the generated vethloom.v1 protocol.
package apiv1

//go:generate sh generate.sh
