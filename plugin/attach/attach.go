// Package attach is how programs that other engines start ask netd for a container's place on a network: one JSON
// object each way over a unix socket. gRPC would cost such a program, which lives for milliseconds, several times what
// it does. Package server has netd's side.
package attach

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
)

// Limits of both sides.
const (
	MaxRequest = 1 << 20 // bytes
	MaxAnswer  = 1 << 20 // bytes
)

// Version is that of the requests. A netd of another one says so.
const Version = 1

// Call is what is asked for.
type Call string

// The calls. Each of them may be made again: what is there already, or gone already, is no error.
const (
	Attach  Call = "attach"  // put a container on a network
	Reserve Call = "reserve" // addresses alone, for a link that another plugin makes
	Detach  Call = "detach"  // take it off, and give its addresses back
	Check   Call = "check"   // look whether it is as it was answered, and repair it
	Collect Call = "collect" // detach all of a network of the engine's but those in Valid
	Ready   Call = "ready"   // can a container be attached now?
	// what a network is, which is made where there is none
	Describe Call = "describe"
)

// Key names an attachment.
type Key struct {
	Engine    string `json:"engine"`
	Container string `json:"container"` // the engine's ID of it
	Interface string `json:"interface"` // in the container
}

// SandboxID is the ID of the sandbox that a container of an engine is here. Whoever asks again finds the same one.
func SandboxID(engine, container string) string {
	sum := sha256.Sum256([]byte(engine + "\x00" + container))
	return hex.EncodeToString(sum[:])
}

// Request is one call.
type Request struct {
	Version int  `json:"version"`
	Call    Call `json:"call"`
	Key
	Name    string `json:"name,omitempty"`  // what the container is called
	NetNS   string `json:"netns,omitempty"` // path of its network namespace
	Network string `json:"network,omitempty"`
	Origin  string `json:"origin,omitempty"` // what the engine calls the network
	// Create is made when there is no network of the name yet; nil: that is an error.
	Create     *Create        `json:"create,omitempty"`
	Addresses  []netip.Addr   `json:"addresses,omitempty"`
	MAC        string         `json:"mac,omitempty"`
	Aliases    []string       `json:"aliases,omitempty"`
	Ports      []Port         `json:"ports,omitempty"`
	RateIn     uint64         `json:"rateIn,omitempty"`  // bits a second to the container
	RateOut    uint64         `json:"rateOut,omitempty"` // bits a second from it
	GwPriority int            `json:"gatewayPriority,omitempty"`
	Valid      []Key          `json:"valid,omitempty"` // of Collect
	Had        []netip.Prefix `json:"had,omitempty"`   // of Check: the addresses that were answered
}

// Create is a network that is made when it is not there.
type Create struct {
	Driver   string            `json:"driver,omitempty"` // "": bridge
	Subnets  []netip.Prefix    `json:"subnets,omitempty"`
	IPv6     bool              `json:"ipv6,omitempty"`
	Internal bool              `json:"internal,omitempty"`
	Options  map[string]string `json:"options,omitempty"`
}

// Port publishes ports of the container on the host.
type Port struct {
	Proto    string     `json:"proto"`
	HostIP   netip.Addr `json:"hostIP,omitzero"`
	HostPort uint16     `json:"hostPort"`
	Port     uint16     `json:"port"`
	Count    uint16     `json:"count,omitempty"` // 0: one
}

// Answer is what comes back.
type Answer struct {
	Error    *Error   `json:"error,omitempty"`
	Result   *Result  `json:"result,omitempty"`   // of Attach, Reserve and Check
	Detached int      `json:"detached,omitempty"` // of Collect
	Network  *Network `json:"network,omitempty"`  // of Describe
}

// Network is one of netd's.
type Network struct {
	Driver   string    `json:"driver"`
	Internal bool      `json:"internal,omitempty"`
	Subnets  []Address `json:"subnets"` // with their gateways
}

// Has reports whether a subnet is the network's.
func (n *Network) Has(p netip.Prefix) bool {
	return slices.ContainsFunc(n.Subnets, func(a Address) bool { return a.Prefix == p.Masked() })
}

// Result is an attachment as it is in the kernel, or what was reserved for one.
type Result struct {
	Interface   string       `json:"interface"`
	HostLink    string       `json:"hostLink,omitempty"`
	MAC         string       `json:"mac,omitempty"`
	MTU         int          `json:"mtu,omitempty"` // bytes
	Addresses   []Address    `json:"addresses"`
	Routes      []Route      `json:"routes,omitempty"`
	NameServers []netip.Addr `json:"nameServers,omitempty"` // reached from inside of the container
}

// Address is one of an interface.
type Address struct {
	Prefix  netip.Prefix `json:"prefix"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
}

// Route is one of the container's main routing table.
type Route struct {
	Dst netip.Prefix `json:"dst"`
	Via netip.Addr   `json:"via,omitzero"` // the zero value: on the link
}

// Kind is what kind of error it is.
type Kind string

// The kinds of errors.
const (
	Invalid     Kind = "invalid"     // the request cannot be right
	NoNetNS     Kind = "no-netns"    // the network namespace is none that can be taken
	Conflict    Kind = "conflict"    // something is taken, or in use
	NotFound    Kind = "not-found"   // there is no such network, or attachment
	Exhausted   Kind = "exhausted"   // the network has no free address
	Unavailable Kind = "unavailable" // netd or the cluster's store is not there; later it may be
	Failed      Kind = "failed"      // all others
)

// Error is why a call was refused.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"` // with the field, the value and the remedy
}

func (e *Error) Error() string { return e.Message }
