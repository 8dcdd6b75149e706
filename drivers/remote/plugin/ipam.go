package plugin

import (
	"context"
	"errors"
)

// IPAM has the methods of an IPAM driver.
type IPAM struct{ p *Plugin }

// IPAM is the plugin as an IPAM driver.
func (p *Plugin) IPAM() IPAM { return IPAM{p} }

// IPAMCapabilities are what an IPAM driver needs.
type IPAMCapabilities struct {
	RequiresMACAddress    bool // a request for an address tells the endpoint's hardware address
	RequiresRequestReplay bool // it forgets what it gave when it starts again
}

// PoolConfig is a pool that is asked for.
type PoolConfig struct {
	AddressSpace string
	Pool         string // a prefix, or "" to have one picked
	SubPool      string // the part of it that addresses are given from
	Options      map[string]string
	V6           bool
}

// Pool is one that was given.
type Pool struct {
	PoolID string
	Pool   string // a prefix
	Data   map[string]string
}

// Names of options and of data that both sides know.
const (
	GatewayData        = "com.docker.network.gateway"
	RequestAddressType = "RequestAddressType"
	MACAddressOption   = "com.docker.network.endpoint.macaddress"
)

// Address is one that was given.
type Address struct {
	Address string // with the length of its pool
	Data    map[string]string
}

type addressRequest struct {
	PoolID  string
	Address string
	Options map[string]string `json:",omitempty"`
}

func (i IPAM) call(ctx context.Context, method string, in, out any) error {
	if out == nil {
		out = &struct{}{}
	}
	return i.p.call(ctx, IPAMDriver+"."+method, in, out)
}

// Capabilities asks what the driver needs. One without the method needs nothing.
func (i IPAM) Capabilities(ctx context.Context) (IPAMCapabilities, error) {
	var c IPAMCapabilities
	err := i.call(ctx, "GetCapabilities", nil, &c)
	if errors.Is(err, errNoMethod) {
		err = nil
	}
	return c, err
}

// DefaultAddressSpaces asks for the names of the address spaces: for networks of one node, and of all.
func (i IPAM) DefaultAddressSpaces(ctx context.Context) (local, global string, err error) {
	var out struct{ LocalDefaultAddressSpace, GlobalDefaultAddressSpace string }
	err = i.call(ctx, "GetDefaultAddressSpaces", nil, &out)
	return out.LocalDefaultAddressSpace, out.GlobalDefaultAddressSpace, err
}

// RequestPool asks for a pool.
func (i IPAM) RequestPool(ctx context.Context, c PoolConfig) (Pool, error) {
	var out Pool
	err := i.call(ctx, "RequestPool", c, &out)
	return out, err
}

// ReleasePool gives a pool back.
func (i IPAM) ReleasePool(ctx context.Context, pool string) error {
	return i.call(ctx, "ReleasePool", struct{ PoolID string }{pool}, nil)
}

// RequestAddress asks for an address of a pool: a certain one, or any when it is "".
func (i IPAM) RequestAddress(ctx context.Context, pool, address string, options map[string]string) (Address, error) {
	var out Address
	err := i.call(ctx, "RequestAddress", addressRequest{pool, address, options}, &out)
	return out, err
}

// ReleaseAddress gives an address back.
func (i IPAM) ReleaseAddress(ctx context.Context, pool, address string) error {
	return i.call(ctx, "ReleaseAddress", addressRequest{PoolID: pool, Address: address}, nil)
}
