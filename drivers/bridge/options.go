package bridge

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/drivers/lan"
	"github.com/vethloom/vethloom/internal/linkname"
)

// GatewayMode says how a network's endpoints meet the world outside, in one family.
type GatewayMode string

// The gateway modes.
const (
	// NAT hides endpoints behind the host's address; only published ports are reachable from outside.
	NAT GatewayMode = "nat"
	// NATUnprotected is NAT that lets the outside in, where it has a route to the endpoints.
	NATUnprotected GatewayMode = "nat-unprotected"
	// Routed leaves addresses as they are and lets the outside in, for networks the world has a route to.
	Routed GatewayMode = "routed"
	// Isolated has no gateway: the host has no address on the network.
	Isolated GatewayMode = "isolated"
)

func gatewayModes() []GatewayMode { return []GatewayMode{NAT, NATUnprotected, Routed, Isolated} }

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
	FastPath         bool // packets of the network may take it
	// no option: the fast path knows every endpoint by its addresses, those that take the slow path too
	ByAddress    bool
	HostBinding  netip.Addr // where ports without a host address are published; the zero value: everywhere
	Mode4, Mode6 GatewayMode
	// addresses of the host that what leaves it carries; the zero value: that of the link it leaves by
	Outbound4, Outbound6 netip.Addr
	Routes               Routes
	BridgeName           string // "": derived from the network's ID
	// A network with a parent, or on a bridge that somebody else has made (unmanaged), is a LAN of the host's.
	Parent    lan.Parent
	Unmanaged bool
	Detect    bool // the LAN is asked whether anybody has an address before it is given

	mode            GatewayMode // of a family that has none of its own
	askedMasquerade bool
}

// Option is one option that a driver knows, whose options decode into a T.
type Option[T any] struct {
	Name  string
	Alias string // Docker's name for it, or ""
	Set   func(o *T, value string) error
}

// Defaults are the options of a network without any.
func Defaults() Options {
	return Options{Masquerade: true, ICC: true, SourceValidation: true, FastPath: true, mode: NAT}
}

func knownOptions() []Option[Options] {
	return []Option[Options]{
		{"bridge-name", "com.docker.network.bridge.name", setBridgeName},
		{"fastpath", "", setFastPath},
		{"gateway-mode", "", mode(func(o *Options) *GatewayMode { return &o.mode })},
		{"gateway-mode-ipv4", "com.docker.network.bridge.gateway_mode_ipv4",
			mode(func(o *Options) *GatewayMode { return &o.Mode4 })},
		{"gateway-mode-ipv6", "com.docker.network.bridge.gateway_mode_ipv6",
			mode(func(o *Options) *GatewayMode { return &o.Mode6 })},
		{"host-binding", "com.docker.network.bridge.host_binding_ipv4", setHostBinding},
		{"icc", "com.docker.network.bridge.enable_icc", boolean(func(o *Options) *bool { return &o.ICC })},
		{"masquerade", "com.docker.network.bridge.enable_ip_masquerade", setMasquerade},
		{"mtu", "com.docker.network.driver.mtu", setMTU},
		{"outbound-ip", "com.docker.network.host_ipv4", setOutbound(
			func(o *Options) *netip.Addr { return &o.Outbound4 }, netip.Addr.Is4,
			"an IPv4 address of this host, such as 192.0.2.9")},
		{"outbound-ip6", "com.docker.network.host_ipv6", setOutbound(
			func(o *Options) *netip.Addr { return &o.Outbound6 }, netip.Addr.Is6,
			"an IPv6 address of this host, such as 2001:db8::9")},
		{"routes", "", func(o *Options, value string) error { return o.Routes.Set(value) }},
		{"source-validation", "", boolean(func(o *Options) *bool { return &o.SourceValidation })},
	}
}

// OptionsIn are the bridge's options for a driver that keeps them, decoded, in a
// field of its own: they start as [Defaults], and [Options.Settle] ends the decoding.
func OptionsIn[T any](field func(*T) *Options) []Option[T] {
	var out []Option[T]
	for _, k := range knownOptions() {
		out = append(out, Option[T]{k.Name, k.Alias, func(o *T, value string) error { return k.Set(field(o), value) }})
	}
	return out
}

// Fixed are the options that name what a network has: with another value it would be another network.
func Fixed() []string { return []string{"bridge-name"} }

// OptionOf implements [cnm.Updater] for a driver that knows some options, of which some are fixed.
func OptionOf[T any](known []Option[T], fixed []string, name string) (own string, inPlace bool) {
	for _, k := range known {
		if name == k.Name || k.Alias != "" && name == k.Alias {
			return k.Name, !slices.Contains(fixed, k.Name)
		}
	}
	return "", false
}

// Option implements [cnm.Updater].
func (Driver) Option(name string) (own string, inPlace bool) {
	return OptionOf(ownOptions(), append(Fixed(), "parent", "unmanaged", "vlan"), name)
}

// DecodeOptions decodes the options of a network of the driver bridge. An unknown name, a
// malformed value and one option under both of its names are errors that say so.
func DecodeOptions(given map[string]string) (Options, error) {
	o := Defaults()
	if err := Decode("bridge", ownOptions(), given, &o); err != nil {
		return Options{}, err
	}
	if err := o.settleLAN(given); err != nil {
		return Options{}, err
	}
	return o, o.Settle()
}

// Decode sets what is given, in the order of the names, for a driver that
// knows some options. The errors are those of [DecodeOptions].
func Decode[T any](driver string, known []Option[T], given map[string]string, o *T) error {
	seen := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		i := slices.IndexFunc(known, func(k Option[T]) bool {
			return name == k.Name || k.Alias != "" &&
				name == k.Alias
		})
		if i < 0 {
			return unknownOption(driver, known, name)
		}
		k := known[i]
		if other, twice := seen[k.Name]; twice {
			return fmt.Errorf("option %q and option %q are the same: give one of them", other, name)
		}
		seen[k.Name] = name
		if err := k.Set(o, given[name]); err != nil {
			return fmt.Errorf("option %s=%q: %w", name, given[name], err)
		}
	}
	return nil
}

// Settle makes the options agree with each other once all are set.
func (o *Options) Settle() error {
	for _, m := range []*GatewayMode{&o.Mode4, &o.Mode6} {
		if *m == "" {
			*m = o.mode
		}
	}
	if o.askedMasquerade && !o.Mode4.masquerades() && !o.Mode6.masquerades() {
		return fmt.Errorf("option gateway-mode=%s does not masquerade: leave out masquerade or set it to false",
			o.Mode4)
	}
	return nil
}

// Mode is the gateway mode of an address's family.
func (o Options) Mode(a netip.Addr) GatewayMode {
	if a.Is4() {
		return o.Mode4
	}
	return o.Mode6
}

// Masquerades reports whether what leaves the host carries the host's address in place of one of a's family.
func (o Options) Masquerades(a netip.Addr) bool { return o.Masquerade && o.Mode(a).masquerades() }

func (m GatewayMode) masquerades() bool { return m == NAT || m == NATUnprotected }

// open reports whether the outside may open connections to every port.
func (m GatewayMode) open() bool { return m == NATUnprotected || m == Routed }

// setMasquerade remembers that it was asked for, as [Options.Settle] may have to refuse it.
func setMasquerade(o *Options, value string) error {
	if err := boolean(func(o *Options) *bool { return &o.Masquerade })(o, value); err != nil {
		return err
	}
	o.askedMasquerade = o.Masquerade
	return nil
}

func setFastPath(o *Options, value string) error {
	switch value {
	case "auto", "off":
		o.FastPath = value == "auto"
		return nil
	}
	return fmt.Errorf("want auto or off")
}

func setMTU(o *Options, value string) error {
	n, err := strconv.Atoi(value)
	if err != nil || n < minMTU || n > maxMTU {
		return fmt.Errorf("want a number of bytes from %d to %d", minMTU, maxMTU)
	}
	o.MTU = n
	return nil
}

func boolean(field func(*Options) *bool) func(*Options, string) error { return Bool(field) }

// Bool sets a switch.
func Bool[T any](field func(*T) *bool) func(*T, string) error {
	return func(o *T, value string) error {
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

func mode(field func(*Options) *GatewayMode) func(*Options, string) error {
	return func(o *Options, value string) error {
		if !slices.Contains(gatewayModes(), GatewayMode(value)) {
			return fmt.Errorf("want %s, %s, %s or %s", NAT, NATUnprotected, Routed, Isolated)
		}
		*field(o) = GatewayMode(value)
		return nil
	}
}

// setBridgeName holds to what the kernel takes (dev_valid_name) and what an
// nft interface name can be compared with.
func setBridgeName(o *Options, value string) error {
	bad := strings.ContainsFunc(value, func(r rune) bool {
		return r <= ' ' || r > '~' ||
			strings.ContainsRune(`/:*"\`, r)
	})
	switch {
	case value == "" || len(value) > maxLinkName:
		return fmt.Errorf("a link name has 1 to %d bytes", maxLinkName)
	case bad || value == "." || value == "..":
		return fmt.Errorf("a link name has printable ASCII characters without spaces, quotes and any of / : * \\")
	case value == "lo" || value == "all" || value == "default":
		return fmt.Errorf("the kernel uses this name itself")
	case linkname.IsOurs(value):
		return fmt.Errorf("names that begin with one of %s are made from IDs; choose one that does not",
			strings.Join(linkname.Prefixes(), ", "))
	}
	o.BridgeName = value
	return nil
}

func unknownOption[T any](driver string, known []Option[T], name string) error {
	var names []string
	best, bestDist := "", len(name)/2+1
	for _, k := range known {
		names = append(names, k.Name)
		for _, candidate := range []string{k.Name, k.Alias} {
			if d := distance(name, candidate); candidate != "" && d < bestDist {
				best, bestDist = candidate, d
			}
		}
	}
	hint := ""
	if best != "" {
		hint = fmt.Sprintf(" (did you mean %q?)", best)
	}
	slices.Sort(names)
	return fmt.Errorf("unknown option %q%s: driver %s knows %s", name, hint, driver, strings.Join(names, ", "))
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

// options decodes a network's options; the error names the network.
func options(n cnm.Network) (Options, error) {
	o, err := DecodeOptions(n.Options)
	if err != nil {
		return Options{}, fmt.Errorf("network %s: %w", n.Name, err)
	}
	return o, nil
}
