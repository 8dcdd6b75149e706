package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// NameServer is where names are asked for: a UDP and a TCP socket that netd opens and the resolver's process answers
// at. In a sandbox they are reached at port 53 of Addr without being bound there, so that a program in it can have
// that port. In the fabric's namespace they take in what comes by Link alone.
//
// A server in a namespace answers for the networks that members with that namespace are on, one on a link for Network.
type NameServer struct {
	NS      NetNS
	Link    string // the bridge, in the fabric's namespace; "" in a sandbox
	Addr    netip.Addr
	Network string // [NameZone.ID] of the network on the link; "" in a sandbox
	// Upstreams are the servers that are asked, from inside of NS, for names that are none of ours; none: the host's.
	Upstreams []netip.Addr
}

// NameZone is a network as a resolver knows it.
type NameZone struct {
	ID       string // the beginning of the network's ID
	Name     string
	Internal bool           // who is on such networks alone gets no answers from elsewhere
	Subnets  []netip.Prefix // addresses in them have no names elsewhere
	Host     []netip.Addr   // the host's addresses on the network; none where it has none
}

// NameMember is an endpoint with the names that others on its network know it by.
type NameMember struct {
	Zone  string // [NameZone.ID]
	ID    string // of the endpoint, unique in the zone
	NS    NetNS  // where it asks from; "" where it is another node's
	Rank  int    // of several networks of one namespace the lowest is asked first
	Names []string
	Addrs []netip.Addr
	Ports []NamePort
}

// NamePort is a port that an endpoint serves, for SRV records (RFC 2782).
type NamePort struct {
	Proto L4
	Port  uint16
}

// Key is the place and the address.
func (n NameServer) Key() string {
	if n.Link != "" {
		return in(n.NS, n.Link) + " " + n.Addr.String()
	}
	return in(n.NS, n.Addr.String())
}

func (n NameServer) String() string {
	parts := []string{"nameserver", n.Addr.String()}
	if n.Link != "" {
		parts = append(parts, "dev", n.Link, "zone", n.Network)
	}
	for _, u := range n.Upstreams {
		parts = append(parts, "upstream", u.String())
	}
	return words(n.NS, parts...)
}

func (n NameServer) about() about { return about{kind: "nameserver", ns: n.NS, link: n.Link} }

// sameServer reports whether two name servers are the same.
func sameServer(a, b NameServer) bool {
	return a.Network == b.Network && slices.Equal(a.Upstreams, b.Upstreams)
}

// nameServerKind compares as other kinds do, but that the sockets of a link or a namespace that goes do not go with
// it: they hold on to it. So there is an operation for each of them.
func nameServerKind() kind {
	k := kindOf("nameserver", func(s *State) *[]NameServer { return &s.NameServers })
	k.compare = func(want, have *State, absent func(Object) bool) delta {
		lost := map[string]bool{}
		for _, h := range have.NameServers {
			lost[h.Key()] = absent(h)
		}
		return compare(want.NameServers, have.NameServers,
			func(w, h NameServer) bool { return !lost[h.Key()] && sameServer(w, h) }, nil)
	}
	return k
}

// Key is the network.
func (z NameZone) Key() string { return z.ID }

func (z NameZone) String() string {
	parts := []string{"zone", z.ID, fmt.Sprintf("%q", z.Name)}
	for _, s := range z.Subnets {
		parts = append(parts, "subnet", s.String())
	}
	for _, h := range z.Host {
		parts = append(parts, "host", h.String())
	}
	if z.Internal {
		parts = append(parts, "internal")
	}
	return strings.Join(parts, " ")
}

func (z NameZone) about() about { return about{kind: "zone"} }

func nameZoneKind() kind {
	return plain("zone", func(s *State) *[]NameZone { return &s.NameZones }, func(a, b NameZone) bool {
		return a.Name == b.Name && a.Internal == b.Internal && slices.Equal(a.Subnets, b.Subnets) &&
			slices.Equal(a.Host, b.Host)
	})
}

// Key is the network and the endpoint.
func (m NameMember) Key() string { return m.Zone + " " + m.ID }

func (m NameMember) String() string {
	parts := []string{"name", m.ID, "zone", m.Zone}
	if m.NS != "" {
		parts = append(parts, "from", string(m.NS), fmt.Sprintf("rank %d", m.Rank))
	}
	for _, n := range m.Names {
		parts = append(parts, fmt.Sprintf("%q", n))
	}
	for _, a := range m.Addrs {
		parts = append(parts, "addr", a.String())
	}
	for _, p := range m.Ports {
		parts = append(parts, fmt.Sprintf("port %d/%s", p.Port, p.Proto))
	}
	return strings.Join(parts, " ")
}

func (m NameMember) about() about { return about{kind: "name"} }

func nameMemberKind() kind {
	return plain("name", func(s *State) *[]NameMember { return &s.NameMembers }, func(a, b NameMember) bool {
		return a.NS == b.NS && a.Rank == b.Rank && slices.Equal(a.Names, b.Names) && slices.Equal(a.Addrs, b.Addrs) &&
			slices.Equal(a.Ports, b.Ports)
	})
}
