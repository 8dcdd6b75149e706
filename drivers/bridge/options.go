package bridge

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
)

// GatewayMode says how a network's endpoints meet the world outside.
type GatewayMode string

// The gateway modes.
const (
	// NAT hides endpoints behind the host's address; only published ports are reachable from outside.
	NAT GatewayMode = "nat"
	// Routed leaves addresses as they are and lets the outside in, for networks the world has a route to.
	Routed GatewayMode = "routed"
)

// MTU limits: RFC 791 for IPv4, RFC 8200 for IPv6, and what an IP packet can be.
const (
	minMTU     = 68
	minMTUIPv6 = 1280
	maxMTU     = 65535
)

// maxLinkName is IFNAMSIZ without the terminating NUL.
const maxLinkName = 15

// Options are a bridge network's options, decoded.
type Options struct {
	MTU              int // bytes; 0: that of the host's egress link
	Masquerade       bool
	ICC              bool // endpoints of the network may talk to each other
	SourceValidation bool
	HostBinding      netip.Addr // where ports without a host address are published; the zero value: everywhere
	GatewayMode      GatewayMode
	BridgeName       string // "": derived from the network's ID
}

// option is one known option. Set decodes its text.
type option struct {
	name  string
	alias string // Docker's name for it, or ""
	set   func(o *Options, value string) error
}

func knownOptions() []option {
	return []option{
		{"bridge-name", "com.docker.network.bridge.name", setBridgeName},
		{"gateway-mode", "", setGatewayMode},
		{"host-binding", "com.docker.network.bridge.host_binding_ipv4", setHostBinding},
		{"icc", "com.docker.network.bridge.enable_icc", boolean(func(o *Options) *bool { return &o.ICC })},
		{"masquerade", "com.docker.network.bridge.enable_ip_masquerade", boolean(func(o *Options) *bool { return &o.Masquerade })},
		{"mtu", "com.docker.network.driver.mtu", setMTU},
		{"source-validation", "", boolean(func(o *Options) *bool { return &o.SourceValidation })},
	}
}

// DecodeOptions decodes a network's options. An unknown name, a malformed
// value and one option under both of its names are errors that say so.
func DecodeOptions(given map[string]string) (Options, error) {
	o := Options{Masquerade: true, ICC: true, SourceValidation: true, GatewayMode: NAT}
	seen := map[string]string{}
	for _, name := range sortedKeys(given) {
		i := slices.IndexFunc(knownOptions(), func(k option) bool { return name == k.name || k.alias != "" && name == k.alias })
		if i < 0 {
			return Options{}, unknownOption(name)
		}
		known := knownOptions()[i]
		if other, twice := seen[known.name]; twice {
			return Options{}, fmt.Errorf("option %q and option %q are the same: give one of them", other, name)
		}
		seen[known.name] = name
		if err := known.set(&o, given[name]); err != nil {
			return Options{}, fmt.Errorf("option %s=%q: %w", name, given[name], err)
		}
	}
	if o.GatewayMode == Routed {
		if _, explicit := seen["masquerade"]; explicit && o.Masquerade {
			return Options{}, fmt.Errorf("option gateway-mode=routed does not masquerade: leave out %s or set it to false", seen["masquerade"])
		}
		o.Masquerade = false
	}
	return o, nil
}

func setMTU(o *Options, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < minMTU || n > maxMTU {
		return fmt.Errorf("want a number of bytes from %d to %d", minMTU, maxMTU)
	}
	o.MTU = n
	return nil
}

func boolean(field func(*Options) *bool) func(*Options, string) error {
	return func(o *Options, value string) error {
		b, err := strconv.ParseBool(value)
		if err != nil {
			return fmt.Errorf("want true or false")
		}
		*field(o) = b
		return nil
	}
}

func setHostBinding(o *Options, value string) error {
	a, err := netip.ParseAddr(value)
	if err != nil || a.Zone() != "" {
		return fmt.Errorf("want an IP address of this host, such as 127.0.0.1")
	}
	o.HostBinding = a.Unmap()
	return nil
}

func setGatewayMode(o *Options, value string) error {
	switch m := GatewayMode(value); m {
	case NAT, Routed:
		o.GatewayMode = m
		return nil
	}
	return fmt.Errorf("want %s or %s", NAT, Routed)
}

// setBridgeName holds to what the kernel takes (dev_valid_name) and what an
// nft interface name can be compared with.
func setBridgeName(o *Options, value string) error {
	bad := strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/:*"\`, r) })
	switch {
	case value == "" || len(value) > maxLinkName:
		return fmt.Errorf("a link name has 1 to %d bytes", maxLinkName)
	case bad || value == "." || value == "..":
		return fmt.Errorf("a link name has printable ASCII characters without spaces, quotes and any of / : * \\")
	case value == "lo" || value == "all" || value == "default":
		return fmt.Errorf("the kernel uses this name itself")
	case strings.HasPrefix(value, bridgePrefix) || strings.HasPrefix(value, endpointPrefix):
		return fmt.Errorf("names that begin with %s and %s are made from IDs; choose one that does not", bridgePrefix, endpointPrefix)
	}
	o.BridgeName = value
	return nil
}

func unknownOption(name string) error {
	var names []string
	best, bestDist := "", len(name)/2+1
	for _, k := range knownOptions() {
		names = append(names, k.name)
		for _, candidate := range []string{k.name, k.alias} {
			if d := distance(name, candidate); candidate != "" && d < bestDist {
				best, bestDist = candidate, d
			}
		}
	}
	hint := ""
	if best != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", best)
	}
	return fmt.Errorf("unknown option %q%s: driver bridge knows %s", name, hint, strings.Join(names, ", "))
}

// distance is the Levenshtein distance in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// options decodes a network's options; the error names the network.
func options(n cnm.Network) (Options, error) {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return Options{}, fmt.Errorf("network %s: %w", n.Name, err)
	}
	return o, nil
}
