package subnet

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
)

// Config is the network that nodes lease subnets of. Its JSON is flannel's.
type Config struct {
	EnableIPv4, EnableIPv6       bool
	Network, IPv6Network         netip.Prefix // the zero value where the family is off
	SubnetLen, IPv6SubnetLen     int          // of each node's subnet, in bits
	SubnetMin, SubnetMax         netip.Addr   // the first and the last subnet that is leased
	IPv6SubnetMin, IPv6SubnetMax netip.Addr
	Backend                      Backend
	Extra                        map[string]json.RawMessage // what vethloom does not know, kept
}

// Backend is how the nodes of a network reach each other.
type Backend struct {
	Type          string // vxlan, udp, host-gw, or one of flannel's that vethloom does not have
	VNI           uint32 // of vxlan; 0: the backend's default
	Port          uint16 // UDP, of vxlan and udp; 0: the backend's default
	DirectRouting bool
	Extra         map[string]json.RawMessage // what vethloom does not know, kept
}

// flannel's limits and defaults.
const (
	defaultBackend = "udp" // when a config names none
	spareBits      = 2     // a network has at least four subnets, of which the first is not used
)

// ParseConfig reads a config, fills in what flannel fills in and refuses what flannel refuses. The
// error is an [ErrBadConfig] that names the field.
func ParseConfig(b []byte) (Config, error) {
	c, err := decodeConfig(b)
	if err == nil {
		err = c.complete()
	}
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	return c, nil
}

// Complete fills in the defaults of a config that was made in memory and checks it, as [ParseConfig] does.
func (c Config) Complete() (Config, error) {
	if c.Backend.Type == "" {
		c.Backend.Type = defaultBackend
	}
	if err := c.complete(); err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrBadConfig, err)
	}
	return c, nil
}

func decodeConfig(b []byte) (Config, error) {
	c := Config{EnableIPv4: true, Backend: Backend{Type: defaultBackend}}
	var net4, net6, min4, max4, min6, max6 string
	var backend json.RawMessage
	extra, err := decodeFields("config", b, map[string]any{
		"EnableIPv4": &c.EnableIPv4, "EnableIPv6": &c.EnableIPv6,
		"Network": &net4, "IPv6Network": &net6,
		"SubnetLen": &c.SubnetLen, "IPv6SubnetLen": &c.IPv6SubnetLen,
		"SubnetMin": &min4, "SubnetMax": &max4, "IPv6SubnetMin": &min6, "IPv6SubnetMax": &max6,
		"Backend": &backend,
	})
	if err != nil {
		return Config{}, err
	}
	c.Extra = extra
	for _, f := range []struct {
		name, value string
		is4         bool
		to          *netip.Prefix
	}{{"Network", net4, true, &c.Network}, {"IPv6Network", net6, false, &c.IPv6Network}} {
		if *f.to, err = parseNetwork(f.name, f.value, f.is4); err != nil {
			return Config{}, err
		}
	}
	for _, f := range []struct {
		name, value string
		is4         bool
		to          *netip.Addr
	}{
		{"SubnetMin", min4, true, &c.SubnetMin}, {"SubnetMax", max4, true, &c.SubnetMax},
		{"IPv6SubnetMin", min6, false, &c.IPv6SubnetMin}, {"IPv6SubnetMax", max6, false, &c.IPv6SubnetMax},
	} {
		if *f.to, err = parseBound(f.name, f.value, f.is4); err != nil {
			return Config{}, err
		}
	}
	return c, c.Backend.decode(backend)
}

func (b *Backend) decode(msg json.RawMessage) error {
	if raw(msg) == nil {
		return nil
	}
	b.Type = ""
	var err error
	b.Extra, err = decodeFields("Backend", msg, map[string]any{
		"Type": &b.Type, "VNI": &b.VNI, "Port": &b.Port, "DirectRouting": &b.DirectRouting,
	})
	switch {
	case err != nil:
		return err
	case b.Type == "":
		return fmt.Errorf("the Backend has no Type: want vxlan, udp or host-gw")
	case b.VNI > 1<<24-1:
		return fmt.Errorf("Backend: VNI %d: want at most %d (RFC 7348)", b.VNI, 1<<24-1)
	}
	return nil
}

// decodeFields reads an object's known fields, in whatever case they are written, and returns the others.
func decodeFields(what string, b []byte, known map[string]any) (map[string]json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		return nil, fmt.Errorf("%s is no JSON object: %w", what, err)
	}
	if fields == nil {
		return nil, fmt.Errorf("%s is null: want a JSON object", what)
	}
	names := slices.Sorted(maps.Keys(known))
	var extra map[string]json.RawMessage
	for _, given := range slices.Sorted(maps.Keys(fields)) {
		i := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, given) })
		if i < 0 {
			if extra == nil {
				extra = map[string]json.RawMessage{}
			}
			extra[given] = fields[given]
			continue
		}
		if err := json.Unmarshal(fields[given], known[names[i]]); err != nil {
			return nil, fmt.Errorf("%s: %s %s: %w", what, names[i], fields[given], err)
		}
	}
	return extra, nil
}

func parseNetwork(field, value string, is4 bool) (netip.Prefix, error) {
	if value == "" {
		return netip.Prefix{}, nil
	}
	p, err := netip.ParsePrefix(value)
	if err != nil || p.Addr().Is4() != is4 || p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%s %q is no %s network, such as %s", field, value, familyName(is4),
			map[bool]string{true: "10.5.0.0/16", false: "fd05::/48"}[is4])
	}
	return p.Masked(), nil
}

func parseBound(field, value string, is4 bool) (netip.Addr, error) {
	if value == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(value)
	if err != nil || a.Is4() != is4 || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%s %q is no %s address", field, value, familyName(is4))
	}
	if a.IsUnspecified() {
		return netip.Addr{}, nil
	}
	return a, nil
}

// space is the part of a config that is about one family.
type space struct {
	is4      bool
	prefix   string // of the names of its fields
	net      *netip.Prefix
	bits     *int
	min, max *netip.Addr
	longest  int // of a node's subnet
	usual    int // length of a node's subnet in a network with room for it
}

func (c *Config) v4() space {
	return space{true, "", &c.Network, &c.SubnetLen, &c.SubnetMin, &c.SubnetMax, 30, 24}
}

func (c *Config) v6() space {
	return space{false, "IPv6", &c.IPv6Network, &c.IPv6SubnetLen, &c.IPv6SubnetMin, &c.IPv6SubnetMax, 126, 64}
}

func (s space) clear() {
	*s.net, *s.bits, *s.min, *s.max = netip.Prefix{}, 0, netip.Addr{}, netip.Addr{}
}

func (c *Config) complete() error {
	if !c.EnableIPv4 && !c.EnableIPv6 {
		return fmt.Errorf("EnableIPv4 and EnableIPv6 are both false: a network needs one of them")
	}
	for _, f := range []struct {
		on bool
		s  space
	}{{c.EnableIPv4, c.v4()}, {c.EnableIPv6, c.v6()}} {
		if !f.on {
			f.s.clear()
			continue
		}
		if err := f.s.complete(); err != nil {
			return err
		}
	}
	return nil
}

func (s space) complete() error {
	if !s.net.IsValid() || s.net.Bits() == 0 || s.net.Addr().IsMulticast() {
		return fmt.Errorf("%sNetwork: want a network of unicast addresses to take subnets from", s.prefix)
	}
	if err := s.completeLen(); err != nil {
		return err
	}
	last := spread(uint128{math.MaxUint64, math.MaxUint64}, *s.net, *s.bits)
	if !s.min.IsValid() {
		// The first subnet would share its address with the network itself.
		*s.min = addrAt(s.net.Addr(), uint128{lo: 1}, *s.bits)
	}
	if !s.max.IsValid() {
		*s.max = addrAt(s.net.Addr(), last, *s.bits)
	}
	for i, a := range []netip.Addr{*s.min, *s.max} {
		name := []string{"SubnetMin", "SubnetMax"}[i]
		if !s.net.Contains(a) {
			return fmt.Errorf("%s%s %s is not inside the network %s", s.prefix, name, a, s.net)
		}
		if m := netip.PrefixFrom(a, *s.bits).Masked().Addr(); m != a {
			return fmt.Errorf("%s%s %s is not where a /%d begins: did you mean %s?", s.prefix, name, a, *s.bits, m)
		}
	}
	if s.max.Less(*s.min) {
		return fmt.Errorf("%sSubnetMin %s is behind %sSubnetMax %s", s.prefix, s.min, s.prefix, s.max)
	}
	return nil
}

func (s space) completeLen() error {
	n := s.net.Bits()
	switch {
	case *s.bits < 0 || *s.bits > s.longest:
		return fmt.Errorf("%sSubnetLen %d: want %d at most: a node needs addresses for itself and its endpoints",
			s.prefix, *s.bits, s.longest)
	case *s.bits > 0 && *s.bits < n+spareBits:
		return fmt.Errorf("%sSubnetLen %d: want %d at least, for four subnets in %s", s.prefix, *s.bits, n+spareBits,
			s.net)
	case *s.bits > 0:
	case n > s.longest-spareBits:
		return fmt.Errorf("%sNetwork %s is too small: want a /%d at least", s.prefix, s.net, s.longest-spareBits)
	case n <= s.usual-spareBits:
		*s.bits = s.usual
	default:
		*s.bits = n + spareBits
	}
	return nil
}

// JSON writes the config as flannel reads it, with all that was not known.
func (c Config) JSON() ([]byte, error) {
	out := map[string]any{"EnableIPv4": c.EnableIPv4, "EnableIPv6": c.EnableIPv6}
	for k, v := range c.Extra {
		out[k] = v
	}
	put := func(s space) {
		out[s.prefix+"Network"] = s.net
		out[s.prefix+"SubnetLen"] = *s.bits
		out[s.prefix+"SubnetMin"], out[s.prefix+"SubnetMax"] = s.min, s.max
	}
	if c.EnableIPv4 {
		put(c.v4())
	}
	if c.EnableIPv6 {
		put(c.v6())
	}
	backend := map[string]any{"Type": c.Backend.Type}
	for k, v := range c.Backend.Extra {
		backend[k] = v
	}
	if c.Backend.VNI != 0 {
		backend["VNI"] = c.Backend.VNI
	}
	if c.Backend.Port != 0 {
		backend["Port"] = c.Backend.Port
	}
	if c.Backend.DirectRouting {
		backend["DirectRouting"] = true
	}
	out["Backend"] = backend
	b, err := json.Marshal(out)
	if err != nil {
		return nil, fmt.Errorf("write the config of %s: %w", Subnets{c.Network, c.IPv6Network}, err)
	}
	return b, nil
}

// check says what is wrong with a lease of these subnets in this network; "" when nothing is.
func (c Config) check(s Subnets) string {
	for _, f := range []struct {
		on       bool
		net, sub netip.Prefix
	}{{c.EnableIPv4, c.Network, s.V4}, {c.EnableIPv6, c.IPv6Network, s.V6}} {
		if f.on && f.sub.IsValid() && (!f.net.Contains(f.sub.Addr()) || f.sub.Bits() <= f.net.Bits()) {
			return fmt.Sprintf("%s is not inside the network %s", f.sub, f.net)
		}
	}
	if !(c.EnableIPv4 && s.V4.IsValid()) && !(c.EnableIPv6 && s.V6.IsValid()) {
		return fmt.Sprintf("%s is of a family that the network does not have", s)
	}
	return ""
}
