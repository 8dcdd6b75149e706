package macvlan

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/bridge"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

const ipvlanName = "ipvlan"

// IPvlan renders ipvlan networks: as [Driver] has them, and all links have the parent's hardware address. The zero
// value is ready for use.
type IPvlan struct{}

var (
	_ cnm.LinkNamer       = IPvlan{}
	_ cnm.LANDriver       = IPvlan{}
	_ cnm.EndpointChecker = IPvlan{}
	_ cnm.Updater         = IPvlan{}
)

// Name is the driver's name in records and on the command line.
func (IPvlan) Name() string { return ipvlanName }

// Scope is local: the LAN itself leads to other hosts.
func (IPvlan) Scope() cnm.Scope { return cnm.Local }

// Capabilities: addresses of the LAN, no ports, and nobody has a hardware address of their own.
func (IPvlan) Capabilities() cnm.Capabilities {
	return cnm.Capabilities{Addresses: true, OwnMACs: true}
}

func ipvlanOptions() []bridge.Option[Options] {
	out := []bridge.Option[Options]{
		{Name: "flag", Alias: "ipvlan_flag",
			Set: oneOf(plan.IPvlanFlags(), func(o *Options) *string { return &o.Flag })},
		{Name: "mode", Alias: "ipvlan_mode",
			Set: oneOf(plan.IPvlanModes(), func(o *Options) *string { return &o.Mode })},
	}
	for _, k := range knownOptions() {
		if k.Name != "mode" && k.Name != "host-access" {
			out = append(out, k)
		}
	}
	return out
}

func oneOf(values []string, field func(*Options) *string) func(*Options, string) error {
	return func(o *Options, value string) error {
		if !slices.Contains(values, value) {
			return fmt.Errorf("want %s", strings.Join(values, ", "))
		}
		*field(o) = value
		return nil
	}
}

// Option implements [cnm.Updater].
func (IPvlan) Option(name string) (own string, inPlace bool) {
	return bridge.OptionOf(ipvlanOptions(), []string{"flag", "mode", "parent", "vlan"}, name)
}

func decodeIPvlan(n cnm.Network) (Options, error) {
	o := Options{Mode: "l2", Flag: "bridge", Detect: true}
	err := bridge.Decode(ipvlanName, ipvlanOptions(), n.Options, &o)
	if err == nil {
		err = o.Settle()
	}
	if err != nil {
		return o, invalid(err)
	}
	return o, nil
}

// NetworkLink is the LAN that the network is on: no two networks are on the same, and a link has one mode.
func (IPvlan) NetworkLink(n cnm.Network) string {
	o, err := decodeIPvlan(n)
	if err != nil {
		return ""
	}
	return o.Name()
}

// LAN implements [cnm.LANDriver]. With the modes of layer 3 nobody is asked for addresses on the LAN.
func (IPvlan) LAN(n cnm.Network) cnm.LAN {
	o, err := decodeIPvlan(n)
	if err != nil {
		return cnm.LAN{}
	}
	return cnm.LAN{Link: o.Lower(n), Detect: o.Detect && o.Mode == "l2"}
}

// CheckNetwork refuses unknown or malformed options and pools that no LAN can have. The error is a [cnm.ErrInvalid].
func (IPvlan) CheckNetwork(n cnm.Network) error {
	o, err := decodeIPvlan(n)
	if err != nil {
		return err
	}
	return bridge.CheckNetwork(n, bridge.Options{MTU: o.MTU, Routes: o.Routes})
}

// RenderNetwork renders the network's VLAN, where it has one, and a link that is down and that nobody uses: a kernel
// without ipvlan, and a parent that is missing or has another mode, are told of when the network is made.
func (IPvlan) RenderNetwork(n cnm.Network, h cnm.Host) (plan.State, error) {
	o, err := decodeIPvlan(n)
	if err != nil || n.Phase == cnm.Deleting {
		return plan.State{}, err
	}
	s := o.Render(n, h, "")
	s.Links = append(s.Links, plan.Link{Name: linkname.Of(linkname.MACVLAN, n.ID), Owner: cnm.NetworkOwner(n.ID),
		Kind: plan.IPvlan, Lower: o.ipvlan(n)})
	return s, nil
}

// ipvlan says how a link sits on the parent.
func (o Options) ipvlan(n cnm.Network) plan.Lower {
	return plan.Lower{Link: o.Lower(n), Mode: o.Mode, Flag: o.Flag}
}

// CheckEndpoint refuses what [Driver.CheckEndpoint] refuses, and hardware addresses. The error is a [cnm.ErrInvalid].
func (IPvlan) CheckEndpoint(n cnm.Network, e cnm.Endpoint) error {
	if e.MAC != (plan.MAC{}) {
		return invalid(fmt.Errorf("MAC address %s: all containers on network %s have that of the parent: leave it "+
			"out, or use a network of driver macvlan", e.MAC, n.Name))
	}
	return checkEndpoint(ipvlanName, n, e)
}

// RenderEndpoint renders the endpoint's link in its sandbox with what it has there. With the modes of layer 3 the
// kernel answers to no neighbour: what leaves goes by the link, and the host's own routes lead on.
func (d IPvlan) RenderEndpoint(n cnm.Network, e cnm.Endpoint, h cnm.Host) (plan.State, error) {
	if n.Phase == cnm.Deleting || e.Phase == cnm.Deleting {
		return plan.State{}, nil
	}
	o, err := decodeIPvlan(n)
	if err := cmp.Or(err, d.CheckEndpoint(n, e)); err != nil {
		return plan.State{}, err
	}
	s := bridge.RenderInside(n, e, h)
	s.Routes = append(s.Routes, o.Routes.For(e, s)...)
	if o.Mode != "l2" {
		for i := range s.Routes {
			s.Routes[i].Via, s.Routes[i].OnLink = netip.Addr{}, false
		}
	}
	s.Links = append(s.Links, plan.Link{NS: e.NetNS, Name: e.LinkName(), Owner: cnm.EndpointOwner(e.ID),
		Kind: plan.IPvlan, MTU: o.MTU, Up: true, Lower: o.ipvlan(n)})
	return s, nil
}
