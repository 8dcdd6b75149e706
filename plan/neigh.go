package plan

import "net/netip"

// Neigh is a permanent neighbour entry.
type Neigh struct {
	NS   NetNS
	Link string
	IP   netip.Addr
	MAC  MAC
}

// Key is the link and the neighbour's address.
func (n Neigh) Key() string { return in(n.NS, n.Link) + " " + n.IP.String() }

func (n Neigh) String() string {
	return words(n.NS, "neigh", n.IP.String(), "lladdr", n.MAC.String(), "dev", n.Link, "nud permanent")
}

func (n Neigh) about() about { return about{kind: "neigh", ns: n.NS, link: n.Link} }

func neighKind() kind {
	return plain("neigh", func(s *State) *[]Neigh { return &s.Neighs }, func(a, b Neigh) bool { return a.MAC == b.MAC })
}
