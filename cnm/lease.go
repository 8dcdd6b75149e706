package cnm

import (
	"net/netip"
	"time"

	"github.com/vethloom/vethloom/plan"
)

// DHCP is the IPAM driver of networks whose endpoints have addresses of their LAN's DHCP server (RFC 2131).
const DHCP = "dhcp"

// Leased is what an endpoint has of a DHCP server besides its address.
type Leased struct {
	Router netip.Addr   `json:"router,omitzero"` // the zero value: that of the network
	Routes []GivenRoute `json:"routes,omitempty"`
}

// Lease is an address that a DHCP server has given to an endpoint. It is written before the server is asked for good,
// and outlives the endpoint until the server has it back.
type Lease struct {
	Endpoint string       `json:"endpoint"` // which is the ID of the record too
	Network  string       `json:"network"`
	Link     string       `json:"link"` // of the host, on the LAN
	MAC      plan.MAC     `json:"mac"`
	Hostname string       `json:"hostname,omitempty"`
	Addr     netip.Prefix `json:"addr"` // with the length of the network's subnet
	Server   netip.Addr   `json:"server"`
	Via      plan.MAC     `json:"via,omitzero"` // hardware address that the server's answer came from
	// Since is the time from which the others count; the zero value: the server has not said yes so far.
	Since  time.Time     `json:"since,omitzero"`
	For    time.Duration `json:"for,omitempty"`    // 0: for ever
	Renew  time.Duration `json:"renew,omitempty"`  // T1
	Rebind time.Duration `json:"rebind,omitempty"` // T2
	Lost   bool          `json:"lost,omitempty"`   // it has ended, and the endpoint has no address
	Leased Leased        `json:"leased,omitzero"`

	Revision uint64 `json:"-"`
}
