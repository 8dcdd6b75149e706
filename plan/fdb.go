package plan

import "net/netip"

// FDBEntry is a permanent forwarding entry of a VXLAN device.
type FDBEntry struct {
	NS   NetNS
	Link string
	MAC  MAC
	Dst  netip.Addr // the remote tunnel endpoint
}

// Key is the link and the hardware address. The zero address stands for
// whatever has no entry; it goes to many destinations, so each is an entry of its own.
func (f FDBEntry) Key() string {
	key := in(f.NS, f.Link) + " " + macText(f.MAC)
	if f.MAC == (MAC{}) {
		key += " " + f.Dst.String()
	}
	return key
}

func (f FDBEntry) String() string {
	return words(f.NS, "fdb", macText(f.MAC), "dev", f.Link, "dst", f.Dst.String())
}

func macText(m MAC) string {
	if m == (MAC{}) {
		return "00:00:00:00:00:00"
	}
	return m.String()
}

func (f FDBEntry) about() about { return about{kind: "fdb", ns: f.NS, link: f.Link} }

func fdbKind() kind {
	return plain("fdb", func(s *State) *[]FDBEntry { return &s.FDB },
		func(a, b FDBEntry) bool { return a.Dst == b.Dst })
}
