package bridge

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/firewall"
	"github.com/vethloom/vethloom/plan"
)

// ownOptions are the options of the driver itself: those that drivers with bridges share, and those of LANs.
func ownOptions() []Option[Options] {
	return append(knownOptions(),
		Option[Options]{"duplicate-detection", "", boolean(func(o *Options) *bool { return &o.Detect })},
		Option[Options]{"parent", "", func(o *Options, value string) error { return o.Parent.SetLink(value) }},
		Option[Options]{"unmanaged", "", boolean(func(o *Options) *bool { return &o.Unmanaged })},
		Option[Options]{"vlan", "", func(o *Options, value string) error { return o.Parent.SetVLAN(value) }},
	)
}

// OnLAN reports whether the network is a LAN of the host's.
func (o Options) OnLAN() bool { return o.Parent.Link != "" || o.Unmanaged }

// settleLAN refuses what a LAN does not have: its router is none of ours, so nothing is translated.
func (o *Options) settleLAN(given map[string]string) error {
	if !o.OnLAN() {
		for _, name := range []string{"vlan", "duplicate-detection"} {
			if _, there := given[name]; there {
				return fmt.Errorf("option %s: it is for a network with a parent: name the host's link to the LAN, as "+
					"in -o parent=eth1", name)
			}
		}
		return nil
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch own, _ := (Driver{}).Option(name); own {
		case "gateway-mode", "gateway-mode-ipv4", "gateway-mode-ipv6", "host-binding", "masquerade", "outbound-ip",
			"outbound-ip6":
			return fmt.Errorf("option %s: the network is a LAN, of which nothing is translated: leave it out", name)
		}
	}
	o.mode, o.Masquerade = Isolated, false // the host has no address on it
	if _, said := given["duplicate-detection"]; !said {
		o.Detect = true
	}
	switch {
	case !o.Unmanaged && o.BridgeName != "":
		return fmt.Errorf("option bridge-name=%s: with a parent the bridge has a name of its own; for a bridge that "+
			"you have made: -o unmanaged=true and no parent", o.BridgeName)
	case !o.Unmanaged:
		return o.Parent.Settle()
	case o.BridgeName == "":
		return errors.New("option unmanaged: name the bridge that you have made, as in -o bridge-name=br0")
	case o.Parent.Link != "" || o.Parent.VLAN != 0:
		return errors.New("option parent: an unmanaged bridge has the ports that you give it: leave out parent and " +
			"vlan")
	}
	return nil
}

// LAN implements [cnm.LANDriver].
func (Driver) LAN(n cnm.Network) cnm.LAN {
	o, err := DecodeOptions(n.Options)
	if err != nil || !o.OnLAN() {
		return cnm.LAN{}
	}
	link := o.BridgeName
	if !o.Unmanaged {
		link = o.Parent.Lower(n)
	}
	return cnm.LAN{Link: link, Detect: o.Detect, OwnMACs: !o.Unmanaged}
}

// checkLAN refuses what a network on a LAN cannot be.
func checkLAN(n cnm.Network, o Options) error {
	if o.OnLAN() && n.Internal {
		return errors.New("the network is a LAN of the host's, which is not internal: leave out one of the two")
	}
	return nil
}

// renderLAN renders a network on a LAN. Of a bridge of somebody else's nothing is. Of ours the parent is a port. The
// host takes no part: it has no address there, and forwards nothing that reaches it by the bridge. Frames between ports
// are seen by the firewall only with br_netfilter, and pass.
func renderLAN(n cnm.Network, o Options, h cnm.Host) plan.State {
	if o.Unmanaged {
		return plan.State{}
	}
	link := o.Link(n)
	s := o.Parent.Render(n, h, link)
	s.Links = append([]plan.Link{{Name: link, Owner: networkScope(n), Kind: plan.Bridge, MAC: bridgeMAC(n.ID),
		MTU: o.mtu(n, h), Up: true}}, s.Links...)
	if o.Parent.VLAN == 0 {
		s.Members = []plan.MemberLink{{Link: o.Parent.Link, Bridge: link}}
	}
	s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv4/conf/" + link + "/forwarding", Value: "0"},
		plan.Sysctl{Path: "ipv4/conf/" + link + "/arp_ignore", Value: "8"})
	if !h.NoIPv6 {
		s.Sysctls = append(s.Sysctls, plan.Sysctl{Path: "ipv6/conf/" + link + "/disable_ipv6", Value: "1"})
	}
	e := firewall.Elements{Owner: networkScope(n)}
	e.Bridge(link)
	e.Forward(link, link)
	e.Internal(link)
	e.Restricted(link)
	s.Rules.Elements = e.List
	return s
}
