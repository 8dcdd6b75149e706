// Package lan is what networks have in common that are on a LAN of the host's, whatever their links are: the parent,
// which is the host's link to the LAN, or a VLAN of it that is the network's own.
package lan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/linkname"
	"github.com/vethloom/vethloom/plan"
)

// lastVLAN is the largest identifier of a VLAN (IEEE 802.1Q).
const lastVLAN = 4094

// Parent is the host's link to a LAN.
type Parent struct {
	Link string
	VLAN uint16 // 0: the link as it is; else a VLAN of it that is made for the network
	// Untagged is vlan=none: a dot in the link's name means nothing.
	Untagged bool
}

// SetLink reads the option parent.
func (p *Parent) SetLink(value string) error {
	p.Link = value
	return nil
}

// SetVLAN reads the option vlan.
func (p *Parent) SetVLAN(value string) error {
	if value == "none" {
		p.Untagged = true
		return nil
	}
	n, err := strconv.ParseUint(value, 10, 16)
	if err != nil || n == 0 || n > lastVLAN {
		return fmt.Errorf("want a number from 1 to %d, or none", lastVLAN)
	}
	p.VLAN = uint16(n)
	return nil
}

// Settle makes the options agree with each other once all are set.
func (p *Parent) Settle() error {
	if p.Link == "" {
		return errors.New("no option parent: name the host's link to the LAN, as in -o parent=eth0")
	}
	if base, tag, dotted := cutLast(p.Link, '.'); dotted && p.VLAN == 0 && !p.Untagged {
		if err := p.SetVLAN(tag); err == nil { // eth0.100, as Docker has it
			p.Link = base
		}
	}
	switch {
	case len(p.Link) > 15 || strings.ContainsAny(p.Link, "/ \t\n") || p.Link == "." || p.Link == "..":
		return fmt.Errorf("option parent=%q: not the name of a link", p.Link)
	case linkname.IsOurs(p.Link) || p.Link == "lo":
		return fmt.Errorf("option parent=%s: not a link to a LAN", p.Link)
	case p.VLAN != 0 && p.Untagged:
		return errors.New("option vlan: a number and none exclude each other")
	}
	return nil
}

// cutLast cuts text at the last separator.
func cutLast(text string, sep byte) (before, after string, found bool) {
	if i := strings.LastIndexByte(text, sep); i > 0 {
		return text[:i], text[i+1:], true
	}
	return text, "", false
}

// Lower is the link that the network's links sit on.
func (p Parent) Lower(n cnm.Network) string {
	if p.VLAN != 0 {
		return linkname.Of(linkname.VLAN, n.ID)
	}
	return p.Link
}

// Name is the LAN in the words of ip-link(8). No two networks are on the same.
func (p Parent) Name() string {
	if p.VLAN != 0 {
		return p.Link + "." + strconv.Itoa(int(p.VLAN))
	}
	return p.Link
}

// Render renders the network's VLAN, where it has one, as a port of a bridge or of none.
func (p Parent) Render(n cnm.Network, h cnm.Host, bridge string) (s plan.State) {
	if p.VLAN == 0 {
		return s
	}
	lower := p.Lower(n)
	s.Links = []plan.Link{{Name: lower, Owner: cnm.NetworkOwner(n.ID), Kind: plan.VLAN, Up: true, Master: bridge,
		Lower: plan.Lower{Link: p.Link, Tag: p.VLAN}}}
	if !h.NoIPv6 { // the host has no business on it
		s.Sysctls = []plan.Sysctl{{Path: "ipv6/conf/" + lower + "/disable_ipv6", Value: "1"}}
	}
	return s
}
