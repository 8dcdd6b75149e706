package ipam

import (
	"context"
	"net/netip"

	"github.com/vethloom/vethloom/cnm"
)

// BlockUsage is how full a block of this node's is.
type BlockUsage struct {
	Block netip.Prefix
	Used  int // addresses that endpoints have, wanted ones outside of the network's range too
	Free  int // addresses that can still be picked
}

// Usage tells how full this node's parts of a network are, in the order of its pools and their blocks.
// A pool that is not shared with other nodes is one block, its range. Nil for a network that is not known.
func (m *IPAM) Usage(network string) []BlockUsage { return nil }

// Resolve resolves the requests for pools of a new cluster network: as [IPAM.Pools], but keeping clear of
// the taken subnets of other cluster networks as well, and holding nothing. Subnets that are picked are a
// /16 of 10.0.0.0/8 and a /56 of this site's unique local addresses.
func (m *IPAM) Resolve(ctx context.Context, requests []cnm.PoolRequest, taken []netip.Prefix) ([]cnm.Pool, error) {
	return nil, nil
}

// Update implements [cnm.IPAM].
func (m *IPAM) Update(n cnm.Network) error { return nil }

// Renew implements [cnm.IPAM].
func (m *IPAM) Renew(ctx context.Context, network, owner string) (*cnm.Claim, error) {
	return nil, nil
}
