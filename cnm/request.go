package cnm

import (
	"fmt"
	"net/netip"

	"github.com/vethloom/vethloom/plan"
)

// NetworkRequest asks for a new network.
type NetworkRequest struct {
	Name        string
	Driver      string        // "": bridge
	Pools       []PoolRequest // a family in use without one gets a free default subnet
	Internal    bool
	Attachable  bool
	IPv6        bool
	DisableIPv4 bool
	Options     map[string]string
	Labels      map[string]string
	IPAM        string // who gives subnets and addresses; "" and [DefaultIPAM]: package ipam, else a plugin
	IPAMOptions map[string]string
	ConfigOnly  bool   // hold what other networks are made from, and be none oneself
	ConfigFrom  string // the network of that kind to take pools, families and options from
}

// NetworkChange asks for a network to become other than it is, with what is on it.
type NetworkChange struct {
	Options       map[string]string // to be set, by either name of an option
	RemoveOptions []string          // to be as if they had never been given
	Labels        map[string]string // to be set
	RemoveLabels  []string
	Internal      *bool // nil: as it is
}

// AttachRequest asks for an endpoint on a network: of a sandbox that exists, of one that is
// made with it, or of a container, which keeps the request for its next start.
type AttachRequest struct {
	Network string       `json:"network"`         // name, ID or the unambiguous beginning of an ID
	Name    string       `json:"name,omitempty"`  // what the sandbox is called, for people and for name resolution
	Addrs   []netip.Addr `json:"addrs,omitempty"` // at most one a family; a family without one gets a free address
	Before  []netip.Addr `json:"-"`               // it had these the last time: given again where they are free
	// Reserved are the keys of reservations that the endpoint takes over, at most one a family
	Reserved []string `json:"-"`
	MAC      plan.MAC `json:"mac"`               // the zero value: derived from the first address
	Aliases  []string `json:"aliases,omitempty"` // further names on this network
	// gateway priority: the highest provides the default route
	GwPriority int           `json:"priority,omitempty"`
	Ports      []PortMapping `json:"ports,omitempty"`
	LinkOptions
	// addresses of the host that what leaves it for the outside carries, at most one a family
	Outbound []netip.Addr `json:"outbound,omitempty"`
	// ports that it serves beside those published, for name resolution
	Serves   []plan.NamePort `json:"-"`
	Hostname string          `json:"-"` // what its container calls itself, where somebody chose that
	Origin   string          `json:"-"` // what the sandbox's engine calls the network
}

// Check refuses what cannot be right, whatever the state.
func (r AttachRequest) Check() error {
	if r.GwPriority < -MaxGwPriority || r.GwPriority > MaxGwPriority {
		return &Error{
			Kind: ErrInvalid, Field: "gateway priority", Value: fmt.Sprint(r.GwPriority), Reason: "out of range",
			Remedy: fmt.Sprintf("choose one from -%d to %d; the highest provides the default route", MaxGwPriority,
				MaxGwPriority),
		}
	}
	for _, a := range r.Aliases {
		if err := CheckName("alias", a); err != nil {
			return err
		}
	}
	if err := r.LinkOptions.Check(); err != nil {
		return err
	}
	if err := checkAddrs("address", "ask for a unicast address of the network's subnet", r.Addrs); err != nil {
		return err
	}
	if err := checkAddrs("outbound-ip", "choose a unicast address of this host", r.Outbound); err != nil {
		return err
	}
	return CheckMAC(r.MAC)
}

// checkAddrs refuses addresses that are not unicast, and two of a family.
func checkAddrs(field, remedy string, addrs []netip.Addr) error {
	for i, a := range addrs {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.Zone() != "" {
			return &Error{Kind: ErrInvalid, Field: field, Value: a.String(),
				Reason: "not an address an endpoint can have", Remedy: remedy}
		}
		for _, b := range addrs[:i] {
			if a.Unmap().Is4() == b.Unmap().Is4() {
				return &Error{
					Kind: ErrInvalid, Field: field, Value: a.String(),
					Reason: fmt.Sprintf("%s of the same family is asked for too", b),
					Remedy: "ask for at most one address of each family",
				}
			}
		}
	}
	return nil
}

// Identity is what an engine calls a container of which it tells only once its sandbox is there.
type Identity struct {
	Container string   // its ID
	Name      string   // for people and for name resolution
	Aliases   []string // further names
}

// SandboxRequest asks for a network stack with endpoints in it.
type SandboxRequest struct {
	ID        string // chosen by the caller, which makes the call idempotent; "": the controller chooses
	Engine    string // whose container it is; "": this program's own
	Container string
	// Adopt is the path of a network namespace that the engine has made; "": one is made
	Adopt  string
	Handed bool   // the engine takes the links' inner ends away; in place of Adopt
	Name   string // of endpoints whose request has none
	Labels map[string]string
	Host   bool            // the fabric's own namespace; the same as attaching to network host alone
	Attach []AttachRequest // network host or none stands alone
	Ports  []PortMapping   // published on the endpoint that provides the default route
	DNS    []netip.Addr    // servers that it asks for names that are none of ours; none: the host's
}
