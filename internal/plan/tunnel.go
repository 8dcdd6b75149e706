package plan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// String is the device as a part of its link's line.
func (v VXLANDevice) String() string {
	text := "id " + strconv.FormatUint(uint64(v.VNI), 10)
	if v.Local.IsValid() {
		text += " local " + v.Local.String()
	}
	text += " dstport " + strconv.Itoa(int(v.Port))
	if v.Proxy {
		text += " proxy"
	}
	return text
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

// sameTunnel tells whether two tunnels are the same; the order of prefixes is none of it.
func sameTunnel(a, b Tunnel) bool {
	return a.Local == b.Local && a.Port == b.Port && a.Plain == b.Plain && slices.Equal(a.inside(), b.inside())
}

// Key is the link and the prefix.
func (r Remote) Key() string { return r.Link + " " + r.Prefix.Masked().String() }

func (r Remote) String() string {
	return "remote " + r.Prefix.Masked().String() + " dev " + r.Link + " dst " + r.Dst.String()
}
