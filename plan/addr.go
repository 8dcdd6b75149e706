package plan

import "net/netip"

// Addr is an address on an owned link. IPv6 addresses are added without
// duplicate address detection (IFA_F_NODAD, RFC 4862 section 5.4): the
// fabric's own allocator is what makes them unique.
type Addr struct {
	NS     NetNS
	Link   string
	Prefix netip.Prefix // host bits kept: 10.1.0.5/16
}

// Key is the link and the address with its prefix length.
func (a Addr) Key() string { return in(a.NS, a.Link) + " " + a.Prefix.String() }

func (a Addr) String() string { return words(a.NS, "addr", a.Prefix.String(), "dev", a.Link) }

func (a Addr) about() about { return about{kind: "addr", ns: a.NS, link: a.Link} }
