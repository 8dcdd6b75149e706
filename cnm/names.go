package cnm

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// The longest name and the longest part of one that DNS has, in bytes (RFC 1035 section 2.3.4).
const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// ResolverAddr is where every sandbox asks for names, as Docker's do.
func ResolverAddr() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// DNSNames are what others on an endpoint's network can look it up by: its name, its further names, the beginning
// of its sandbox's ID, which is the container's, and what that calls itself. Those that are no names in DNS are left
// out.
func DNSNames(e Endpoint) []string {
	return CleanNames(append(append([]string{e.Name}, e.Aliases...), Short(e.Sandbox), e.Hostname))
}

// CleanNames are the names among those given, in lower case and each once.
func CleanNames(names []string) []string {
	var out []string
	for _, n := range names {
		n = strings.ToLower(strings.TrimSuffix(n, "."))
		if IsDNSName(n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// IsDNSName reports whether DNS can have a name: letters, digits, dashes and underscores between dots.
func IsDNSName(name string) bool {
	if name == "" || len(name) > maxDNSName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxDNSLabel {
			return false
		}
		for _, r := range label {
			if !isAlnum(r) && r != '-' && r != '_' {
				return false
			}
		}
	}
	return true
}

// maxServed bounds how many ports of an endpoint have SRV records.
const maxServed = 256

// DNSPorts are the ports that an endpoint serves: those it says, and the published ones.
func DNSPorts(e Endpoint) []plan.NamePort {
	var out []plan.NamePort
	add := func(p plan.NamePort) {
		if len(out) < maxServed && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range e.Serves {
		add(p)
	}
	for _, m := range e.Ports {
		for i := range min(int(m.Count), maxServed) {
			add(plan.NamePort{Proto: m.Proto, Port: m.Port + uint16(i)})
		}
	}
	return out
}
