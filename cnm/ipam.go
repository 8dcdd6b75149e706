package cnm

import (
	"context"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// PoolRequest asks for one subnet of a new network. The zero value asks for a
// free IPv4 subnet of the default size.
type PoolRequest struct {
	// the zero value: pick a free one of Bits in the family of IPv6
	Subnet  netip.Prefix          `json:"subnet,omitzero"`
	Bits    int                   `json:"bits,omitempty"`   // length of the picked subnet; 0: the default
	IPv6    bool                  `json:"ipv6,omitempty"`   // family of the picked subnet
	Range   netip.Prefix          `json:"range,omitzero"`   // where addresses are given from; the zero value: all of it
	Gateway netip.Addr            `json:"gateway,omitzero"` // the zero value: the first usable one, unless NoGateway
	Aux     map[string]netip.Addr `json:"aux,omitempty"`    // addresses never given, by what they are for
	LAN     bool                  `json:"-"`                // the subnet may be one that the host is on
	// NoGateway leaves the pool without a gateway: the driver has none in this family.
	NoGateway bool `json:"-"`
}

// Is6 reports whether the subnet is one of IPv6.
func (r PoolRequest) Is6() bool {
	if r.Subnet.IsValid() {
		return r.Subnet.Addr().Is6()
	}
	return r.IPv6
}

// Claim is a set of addresses that become the owner's (or, from
// [IPAM.Release], cease to be) with the commit that its Writes are part of. Until Done is
// called they are held in memory against other claims.
type Claim struct {
	Addrs  []netip.Prefix // with the subnet's length, IPv4 first
	Writes []Write
	Finish func(committed bool) // may be nil
	// MAC and Leased are the endpoint's where who gives the address decides on them; else the zero value and nil.
	MAC    plan.MAC
	Leased *Leased
}

// Done reports whether the commit with the claim's writes succeeded. It must be
// called exactly once.
func (c *Claim) Done(committed bool) {
	if c.Finish != nil {
		c.Finish(committed)
	}
}

// EndpointClaimer is an [IPAM] that must know more of an endpoint than its ID.
type EndpointClaimer interface {
	IPAM
	// ClaimFor is Claim for an endpoint that has no addresses yet.
	ClaimFor(ctx context.Context, n Network, e Endpoint, want, before []netip.Addr) (*Claim, error)
}

// IPAM gives networks their subnets and endpoints their addresses. Package
// ipam implements it.
type IPAM interface {
	// Pools resolves the requests for the new network n and holds the subnets
	// for it until Forget.
	Pools(ctx context.Context, n Network, requests []PoolRequest) ([]Pool, error)
	// Forget frees the subnets of a network that was removed or never made.
	Forget(network string)
	// Claim gives the owner one address of each family that n has pools of: the wanted ones, at
	// most one a family, else those of before that are free, else free ones of the first pool that has any. An owner
	// that has addresses already gets the same ones, without writes.
	Claim(ctx context.Context, n Network, owner string, want, before []netip.Addr) (*Claim, error)
	// Release gives back everything the owner has in the network; no address
	// at all is no error.
	Release(ctx context.Context, network, owner string) (*Claim, error)
	// Update tells of a cluster network's subnets and of what this node's share of them is now, in
	// n.Pools. It refuses a network it did not know whose subnets another one has (ErrExists), and holds them
	// until Forget.
	Update(n Network) error
	// Renew gives the owner addresses of the network's present pools in place of those that are not of
	// them any more; without writes when there are none. An address whose family has no pool now is left alone.
	Renew(ctx context.Context, network, owner string) (*Claim, error)
}
