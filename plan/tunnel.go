package plan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Tunnel carries a [TUN] link's packets over UDP, each packet a datagram. It goes with this process, while the link
// stays, unless another process holds it for the next one.
type Tunnel struct {
	Link   string         // the TUN link, in the fabric's namespace
	Local  netip.Addr     // what the socket is bound to
	Port   uint16         // UDP, here and on every remote
	Inside []netip.Prefix // the sources that this end may send, and the destinations it takes in
	Plain  bool           // without offloads
}

// Key is the name of the link.
func (t Tunnel) Key() string { return t.Link }

func (t Tunnel) String() string {
	parts := []string{"tunnel", "dev", t.Link, "local", t.Local.String(), "port", strconv.Itoa(int(t.Port))}
	for _, p := range t.inside() {
		parts = append(parts, "inside", p.String())
	}
	if t.Plain {
		parts = append(parts, "plain")
	}
	return strings.Join(parts, " ")
}

// inside is the set of prefixes: masked, sorted, each once.
func (t Tunnel) inside() []netip.Prefix {
	out := make([]netip.Prefix, len(t.Inside))
	for i, p := range t.Inside {
		out[i] = p.Masked()
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

// sameTunnel reports whether two tunnels are the same; the order of prefixes is none of it.
func sameTunnel(a, b Tunnel) bool {
	return a.Local == b.Local && a.Port == b.Port && a.Plain == b.Plain && slices.Equal(a.inside(), b.inside())
}

func (t Tunnel) about() about { return about{kind: "tunnel", link: t.Link} }

func tunnelKind() kind {
	return plain("tunnel", func(s *State) *[]Tunnel { return &s.Tunnels }, sameTunnel)
}
