// Package bridge renders networks of one host: a Linux bridge with a gateway
// address, a veth pair per endpoint, and elements of the static nftables
// chains that [Fabric] describes.
//
// It is pure: it turns records into a plan.State and touches nothing.
package bridge
