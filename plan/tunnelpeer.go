package plan

import "net/netip"

// TunnelPeer is the far end of a [Tunnel] that a prefix is reached by. Packets from Dst must
// have their source in one of its prefixes.
type TunnelPeer struct {
	Link   string
	Prefix netip.Prefix // masked
	Dst    netip.Addr
}

// Key is the link and the prefix.
func (p TunnelPeer) Key() string { return p.Link + " " + p.Prefix.Masked().String() }

func (p TunnelPeer) String() string {
	return "remote " + p.Prefix.Masked().String() + " dev " + p.Link + " dst " + p.Dst.String()
}

func (p TunnelPeer) about() about { return about{kind: "remote", link: p.Link} }

func tunnelPeerKind() kind {
	return plain("remote", func(s *State) *[]TunnelPeer { return &s.TunnelPeers },
		func(a, b TunnelPeer) bool { return a.Dst == b.Dst })
}
