package plan

import "net/netip"

// FDBEntry is a forwarding entry that does not age: of a VXLAN device, or of a bridge for one of its ports.
type FDBEntry struct {
	NS   NetNS
	Link string     // the device, or the port
	MAC  MAC        // what is behind it
	Dst  netip.Addr // of a VXLAN device: the remote tunnel endpoint; the zero value: the entry is the bridge's
	// Yields has an entry of a bridge not take the address from another port. It is not observed.
	Yields bool
}

// Key is the link, the hardware address, and whether the entry is the bridge's. The zero address stands for
// whatever has no entry of the device; it goes to many destinations, so each is an entry of its own.
func (f FDBEntry) Key() string {
	key := in(f.NS, f.Link) + " " + macText(f.MAC)
	switch {
	case !f.Dst.IsValid():
		key += " master"
	case f.MAC == MAC{}:
		key += " " + f.Dst.String()
	}
	return key
}

func (f FDBEntry) String() string {
	if !f.Dst.IsValid() {
		line := []string{"fdb", macText(f.MAC), "dev", f.Link, "master static"}
		if f.Yields {
			line = append(line, "yields")
		}
		return words(f.NS, line...)
	}
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
