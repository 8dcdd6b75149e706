package cnm

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ParsePort reads what a user writes to publish a port or a range of them:
// [IP:][HOST:]CONTAINER[/PROTOCOL][,from=SUBNET]…[,mode=host|cluster], with an IPv6 address in brackets, or the long
// form target=CONTAINER[,published=HOST][,host_ip=IP][,protocol=PROTOCOL][,from=SUBNET]…[,mode=MODE]. A mapping
// without a host port is Dynamic. The error is an [ErrInvalid].
func ParsePort(text string) (PortMapping, error) {
	m, err := parsePort(text)
	if err != nil {
		return m, &Error{Kind: ErrInvalid, Reason: err.Error()}
	}
	return m, nil
}

func parsePort(text string) (none PortMapping, err error) {
	short, rest, further := strings.Cut(text, ",")
	if strings.Contains(short, "=") {
		return parseLongPort(text)
	}
	var o portOptions
	for option := range strings.SplitSeq(rest, ",") {
		key, v, _ := strings.Cut(option, "=")
		if known, err := o.set(key, v); err != nil {
			return none, err
		} else if !known && further {
			return none, fmt.Errorf("unknown option %q: known are from=SUBNET and mode=host or cluster", key)
		}
	}
	m, err := parseShortPort(short)
	if err != nil {
		return m, err
	}
	return o.of(m)
}

// portOptions are what both forms have beside the port itself.
type portOptions struct {
	from []netip.Prefix
	mode string
}

// set takes an option, and reports whether it is one.
func (o *portOptions) set(key, value string) (known bool, err error) {
	switch key {
	case "from":
		p, err := ParseSource(value)
		if err != nil {
			return true, err
		}
		o.from = append(o.from, p)
	case "mode":
		if value == "ingress" { // as Docker's services call it
			value = "cluster"
		}
		if value != "host" && value != "cluster" || o.mode != "" {
			return true, fmt.Errorf("mode %q: want one of host, for the container's node alone, and cluster, for "+
				"every node of the network", value)
		}
		o.mode = value
	default:
		return false, nil
	}
	return true, nil
}

// of is the mapping with the options.
func (o portOptions) of(m PortMapping) (PortMapping, error) {
	var err error
	if len(o.from) > 0 {
		m.From, err = checkSources(o.from, m.HostIP)
	}
	if err == nil && o.mode == "cluster" {
		m, err = m.OnEveryNode()
	}
	return m, err
}

// parseLongPort reads the form of names and values, as Compose files and services have it.
func parseLongPort(text string) (none PortMapping, err error) {
	given := map[string]string{}
	var o portOptions
	for option := range strings.SplitSeq(text, ",") {
		key, v, _ := strings.Cut(option, "=")
		known, err := o.set(key, v)
		switch {
		case err != nil:
			return none, err
		case known:
			continue
		case !slices.Contains([]string{"target", "published", "host_ip", "protocol"}, key):
			return none, fmt.Errorf("unknown option %q: known are target, published, host_ip, protocol, mode, from",
				key)
		}
		if _, twice := given[key]; v == "" || twice {
			return none, fmt.Errorf("option %q has no value or is given twice", key)
		}
		given[key] = v
	}
	m, err := parseShortPort(shortPort(given))
	if err != nil {
		return m, err
	}
	return o.of(m)
}

// shortPort puts the values of the long form into the short one.
func shortPort(given map[string]string) string {
	short := given["target"]
	if host, on := given["published"], given["host_ip"]; on != "" {
		a, err := netip.ParseAddr(on)
		if err == nil && a.Is6() {
			on = "[" + on + "]"
		}
		short = on + ":" + host + ":" + short
	} else if host != "" {
		short = host + ":" + short
	}
	if proto := given["protocol"]; proto != "" {
		short += "/" + proto
	}
	return short
}

func parseShortPort(text string) (none PortMapping, err error) {
	rest, proto, given := strings.Cut(text, "/")
	l4 := plan.L4(strings.ToLower(proto))
	if given && l4 != plan.TCP && l4 != plan.UDP && l4 != plan.SCTP {
		return none, fmt.Errorf("unknown protocol %q", proto)
	}
	rest, target, published := cutLast(rest, ":")
	if !published {
		target = rest
	}
	to, count, err := parsePortSpan(target)
	if err != nil {
		return none, fmt.Errorf("container port: %w", err)
	}
	if !published {
		return NewPortMapping(l4, netip.Addr{}, 0, to, count)
	}
	ip, host, hasIP := cutLast(rest, ":")
	var on netip.Addr
	if !hasIP {
		host = rest
	} else if on, err = parseHostIP(ip); err != nil {
		return none, err
	}
	if host == "" && !hasIP {
		return none, fmt.Errorf("the host port before %q is empty", ":"+target)
	}
	if host == "" { // IP::80
		return NewPortMapping(l4, on, 0, to, count)
	}
	from, hostCount, err := parsePortSpan(host)
	if err != nil {
		return none, fmt.Errorf("host port: %w", err)
	}
	if hostCount != count {
		return none, fmt.Errorf("%d host ports for %d container ports: both ranges must have the same length",
			hostCount, count)
	}
	return NewPortMapping(l4, on, from, to, count)
}

func parseHostIP(s string) (netip.Addr, error) {
	bracketed := strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]")
	if bracketed {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("host address %q is not an IP address", s)
	case a.Zone() != "":
		return a, fmt.Errorf("host address %q has a zone, which cannot be published on", s)
	case a.Is4() && bracketed:
		return a, fmt.Errorf("host address %q is IPv4, which takes no brackets", s)
	case !a.Is4() && !bracketed:
		return a, fmt.Errorf("host address %q is IPv6 and needs brackets: [%s]", s, s)
	}
	return a.Unmap(), nil
}

// parsePortSpan reads one port or FIRST-LAST.
func parsePortSpan(s string) (first, count uint32, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = parsePortNumber(a); err != nil || !isRange {
		return first, 1, err
	}
	last, err := parsePortNumber(b)
	if err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("range %q ends before it begins", s)
	}
	return first, last - first + 1, nil
}

func parsePortNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port number (1 to %d)", s, lastPort)
	}
	return uint32(n), nil
}

// cutLast cuts s around the last sep; without one, all of it is before.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
