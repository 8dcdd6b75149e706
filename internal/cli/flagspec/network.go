package flagspec

import (
	"encoding/csv"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
)

// Network parses a value of --network: a network's name or ID, host, none,
// container:ID, or the long form name=NET,ip=…,ip6=…,mac-address=…,alias=…,gw-priority=…,ifname=…,
// sysctl=…,outbound-ip=…,rate-in=…,rate-out=…, which is a line of comma-separated values, with quotes around
// those that have a comma.
func Network(value string) (*apiv1.ConnectRequest, error) {
	c := &apiv1.ConnectRequest{}
	if !strings.Contains(value, "=") {
		c.Network = value
		if value == "" || strings.ContainsAny(value, ", \x00") || value == "container:" {
			return nil, fmt.Errorf("invalid --network %q: give a network's name, host, none or container:NAME", value)
		}
		return c, nil
	}
	parts, err := csv.NewReader(strings.NewReader(value)).Read()
	if err != nil || strings.Contains(value, "\n") {
		return nil, fmt.Errorf("invalid --network %q: it is not a line of comma-separated KEY=VALUE", value)
	}
	for _, part := range parts {
		key, v, _ := strings.Cut(part, "=")
		if err := networkOption(c, key, v); err != nil {
			return nil, fmt.Errorf("invalid --network %q: %w", value, err)
		}
	}
	if c.Network == "" {
		return nil, fmt.Errorf("invalid --network %q: the long form needs name=NETWORK", value)
	}
	return c, nil
}

func networkOption(c *apiv1.ConnectRequest, key, v string) (err error) {
	if v == "" {
		return fmt.Errorf("%s has no value", strconv.Quote(key))
	}
	switch key {
	case "name":
		c.Network = v
	case "alias":
		c.Aliases = append(c.Aliases, v)
	case "ip":
		err = address(&c.Addresses, "ip", v, netip.Addr.Is4)
	case "ip6":
		err = address(&c.Addresses, "ip6", v, netip.Addr.Is6)
	case "outbound-ip":
		err = address(&c.OutboundAddresses, "outbound-ip", v, netip.Addr.Is4)
	case "outbound-ip6":
		err = address(&c.OutboundAddresses, "outbound-ip6", v, netip.Addr.Is6)
	case "mac-address":
		c.MacAddress, err = MAC(v)
	case "gw-priority":
		c.GatewayPriority, err = Priority(v)
	case "rate-in":
		c.RateIn, err = Rate(v)
	case "rate-out":
		c.RateOut, err = Rate(v)
	case "ifname":
		err = IfName(c, v)
	case "sysctl":
		err = LinkSysctl(c, v)
	case "driver-opt":
		err = EndpointOption(c, v)
	default:
		err = fmt.Errorf("unknown option %q: known are name, ip, ip6, mac-address, alias, gw-priority, ifname, "+
			"sysctl, driver-opt, outbound-ip, outbound-ip6, rate-in, rate-out", key)
	}
	return err
}

// Rate parses bits a second: a number, or one with kbit, mbit or gbit (of 1000) behind it.
func Rate(v string) (uint64, error) {
	number, unit := strings.TrimRight(strings.ToLower(v), "bitkmgs/"), uint64(1)
	switch suffix := strings.ToLower(v)[len(number):]; strings.TrimSuffix(suffix, "/s") {
	case "", "bit":
	case "kbit":
		unit = 1e3
	case "mbit":
		unit = 1e6
	case "gbit":
		unit = 1e9
	default:
		number = ""
	}
	n, err := strconv.ParseFloat(number, 64)
	rate := n * float64(unit)
	if err != nil || !(rate >= cnm.MinRate && rate <= cnm.MaxRate) {
		return 0, fmt.Errorf("rate %q is not a number of bits a second, from 8kbit to 1000gbit: write 512kbit, "+
			"100mbit or 2.5gbit", v)
	}
	return uint64(rate), nil
}

// IfName adds the name of the link in the container to a request.
func IfName(c *apiv1.ConnectRequest, v string) error {
	return setLink(c, func(o *cnm.LinkOptions) error { return o.SetIfName(v) })
}

// LinkSysctl adds NAME=VALUE, a sysctl of the link in the container, to a request.
func LinkSysctl(c *apiv1.ConnectRequest, v string) error {
	return setLink(c, func(o *cnm.LinkOptions) error { return o.SetSysctl(v) })
}

// EndpointOption adds what Docker's options of an endpoint ask for to a request.
func EndpointOption(c *apiv1.ConnectRequest, v string) error {
	name, value, _ := strings.Cut(v, "=")
	return setLink(c, func(o *cnm.LinkOptions) error { return o.SetDocker(name, value) })
}

func setLink(c *apiv1.ConnectRequest, set func(*cnm.LinkOptions) error) error {
	o := cnm.LinkOptions{IfName: c.Ifname, Sysctls: c.Sysctls}
	if err := set(&o); err != nil {
		return err
	}
	c.Ifname, c.Sysctls = o.IfName, o.Sysctls
	return o.Check()
}

func address(to *[]string, flag, v string, family func(netip.Addr) bool) error {
	a, err := netip.ParseAddr(v)
	if err != nil || a.Zone() != "" || !family(a) {
		return fmt.Errorf("--%s %q is not an IPv%s address", flag, v, version(flag))
	}
	for _, have := range *to {
		if h, err := netip.ParseAddr(have); err == nil && family(h) {
			return fmt.Errorf("--%s %q: the address %s was given before, and an endpoint has one a family", flag, v, h)
		}
	}
	*to = append(*to, a.String())
	return nil
}

// version is the family of the addresses that a flag takes.
func version(flag string) string {
	if strings.HasSuffix(flag, "6") {
		return "6"
	}
	return "4"
}

// Addresses adds the values of --ip and --ip6, where given, to a request.
func Addresses(c *apiv1.ConnectRequest, ip, ip6 string) error {
	if ip != "" {
		if err := address(&c.Addresses, "ip", ip, netip.Addr.Is4); err != nil {
			return err
		}
	}
	if ip6 != "" {
		return address(&c.Addresses, "ip6", ip6, netip.Addr.Is6)
	}
	return nil
}

// Outbound adds the values of --outbound-ip, of either family, to a request.
func Outbound(c *apiv1.ConnectRequest, values []string) error {
	for _, v := range values {
		flag, family := "outbound-ip", netip.Addr.Is4
		if strings.Contains(v, ":") {
			flag, family = "outbound-ip6", netip.Addr.Is6
		}
		if err := address(&c.OutboundAddresses, flag, v, family); err != nil {
			return err
		}
	}
	return nil
}

// MAC checks a unicast EUI-48 address and gives its colon-separated form.
func MAC(v string) (string, error) {
	parts := strings.FieldsFunc(v, func(r rune) bool { return r == ':' || r == '-' })
	if len(parts) != 6 || len(v) != 17 {
		return "", fmt.Errorf("%q is not a MAC address: use six hexadecimal bytes, for example 02:42:0a:00:00:05", v)
	}
	for i, p := range parts {
		b, err := strconv.ParseUint(p, 16, 8)
		if err != nil || len(p) != 2 {
			return "", fmt.Errorf("%q is not a MAC address: %q is not a hexadecimal byte", v, p)
		}
		if i == 0 && b&1 != 0 {
			return "", fmt.Errorf("%q is a multicast MAC address: the lowest bit of the first byte must be 0", v)
		}
	}
	out := strings.ToLower(strings.Join(parts, ":"))
	if out == "00:00:00:00:00:00" {
		return "", fmt.Errorf("%q is the null MAC address: leave it out to have one made", v)
	}
	return out, nil
}

// Priority checks a gateway priority.
func Priority(v string) (int32, error) {
	n, err := strconv.ParseInt(v, 10, 32)
	if err != nil || n < -1000 || n > 1000 {
		return 0, fmt.Errorf("gateway priority %q is not a number from -1000 to 1000", v)
	}
	return int32(n), nil
}

// ExtraHost parses a value of --add-host: NAME:ADDRESS or NAME=ADDRESS.
func ExtraHost(v string) (string, error) {
	i := strings.IndexAny(v, ":=")
	if i <= 0 {
		return "", fmt.Errorf("invalid --add-host %q: use NAME:ADDRESS, for example db:10.0.0.5", v)
	}
	name, addr := v[:i], strings.Trim(v[i+1:], "[]")
	if addr != "host-gateway" {
		if _, err := netip.ParseAddr(addr); err != nil {
			return "", fmt.Errorf("invalid --add-host %q: %q is not an IP address", v, addr)
		}
	}
	if strings.ContainsAny(name, " \t\n\x00#") {
		return "", fmt.Errorf("invalid --add-host %q: %q is not a host name", v, name)
	}
	return name + ":" + addr, nil
}
