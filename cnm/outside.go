package cnm

import (
	"context"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// Outside knows drivers that are no part of this program, and make their networks by themselves when they are asked to.
type Outside interface {
	// Find finds a driver that can be asked now, for a new network. The error is an [ErrNotFound] that says where was
	// looked when there is none of that name.
	Find(ctx context.Context, name string) (OutsideDriver, error)
	// Driver is the driver of that name, whether it can be asked now or not.
	Driver(name string) OutsideDriver
}

// OutsideDriver is a [Driver] that is asked for what it makes, step by step. What it answers is in a [Call], and from
// that the rest is rendered.
type OutsideDriver interface {
	Driver
	// RenderGiven renders an endpoint of which the driver has made its part. RenderEndpoint, without that, is an error.
	RenderGiven(Network, Endpoint, Given, Host) (plan.State, error)
}

// Step is what an outside driver is asked to do.
type Step string

// The steps of a network are StepCreate and StepDelete. Those of an endpoint are all of them, in this order;
// StepPublish and StepRevoke are about what is outside of the network.
const (
	StepCreate  Step = "create"
	StepJoin    Step = "join"
	StepPublish Step = "publish"
	StepRevoke  Step = "revoke"
	StepLeave   Step = "leave"
	StepDelete  Step = "delete"
)

// Call is the last that an outside driver was asked for on behalf of a network or an endpoint. It is written before the
// driver is asked, so that after a crash nothing is forgotten that the driver may have made; without Done, what came of
// it is not known. It outlives the record it is about for as long as the driver has not been told.
type Call struct {
	Driver   string     `json:"driver"`
	Network  string     `json:"network"`
	Endpoint string     `json:"endpoint,omitempty"` // "" for the network itself
	NetNS    plan.NetNS `json:"netns,omitempty"`    // of the endpoint's sandbox
	Step     Step       `json:"step"`
	Done     bool       `json:"done,omitempty"`
	Given    Given      `json:"given,omitzero"`
	// Published are the ports that the driver was told of.
	Published []PortMapping `json:"published,omitempty"`
	Revision  uint64        `json:"-"`
}

// ID is the ID of the call's record.
func (c Call) ID() string {
	if c.Endpoint != "" {
		return CallID(KindEndpoint, c.Endpoint)
	}
	return CallID(KindNetwork, c.Network)
}

// CallID is the ID of the record about a network or an endpoint.
func CallID(kind Kind, id string) string { return string(kind) + "/" + id }

// Joined reports whether the driver has made all that a sandbox needs of an endpoint.
func (c Call) Joined() bool { return c.Step == StepPublish || c.Step == StepJoin && c.Done }

// Given is what an outside driver has answered of an endpoint, checked.
type Given struct {
	Link     string       `json:"link,omitempty"`   // its name on the host
	Prefix   string       `json:"prefix,omitempty"` // what its name in the sandbox begins with; "": eth
	After    uint32       `json:"after,omitempty"`  // greatest index of a link there was before
	MAC      plan.MAC     `json:"mac,omitzero"`     // the zero value: as the link has it
	Gateways []netip.Addr `json:"gateways,omitempty"`
	Routes   []GivenRoute `json:"routes,omitempty"`
}

// GivenRoute is a route of the sandbox beside the default route.
type GivenRoute struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"` // the zero value: on the link
}

// Grant is what an IPAM driver of somebody else was asked for on behalf of a network or an endpoint. Each part is
// written before it is asked for. Like a [Call] it outlives what it is about until the driver has all of it back.
type Grant struct {
	Driver   string      `json:"driver"`
	Network  string      `json:"network"`
	Endpoint string      `json:"endpoint,omitempty"` // "" for the network itself
	Parts    []GrantPart `json:"parts"`
	Revision uint64      `json:"-"`
}

// ID is the ID of the grant's record.
func (g Grant) ID() string { return Call{Network: g.Network, Endpoint: g.Endpoint}.ID() }

// GrantPart is a pool, or an address of one.
type GrantPart struct {
	PoolID string            `json:"poolID,omitempty"` // the driver's name of the pool
	Pool   bool              `json:"pool,omitempty"`   // it is the pool itself
	Asked  string            `json:"asked,omitempty"`  // the subnet or address that was asked for; "" for any
	Given  netip.Prefix      `json:"given,omitzero"`   // the subnet, or the address with its length
	Range  netip.Prefix      `json:"range,omitzero"`   // of a pool: the part to give addresses from
	IPv6   bool              `json:"ipv6,omitempty"`   // of a pool: its family
	Data   map[string]string `json:"data,omitempty"`   // options of the request
	Done   bool              `json:"done,omitempty"`   // it was answered
}
