package cnm

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ParsePort reads what a user writes to publish a port or a range of them:
// [IP:][HOST:]CONTAINER[/PROTOCOL][,from=SUBNET]…, with an IPv6 address in brackets, or the long form
// target=CONTAINER[,published=HOST][,host_ip=IP][,protocol=PROTOCOL][,from=SUBNET]…. A mapping without a host
// port is Dynamic. The error is an [ErrInvalid].
func ParsePort(text string) (PortMapping, error) {
	m, err := parsePort(text)
	if err != nil {
		return m, &Error{Kind: ErrInvalid, Reason: err.Error()}
	}
	return m, nil
}

func parsePort(text string) (none PortMapping, err error) {
	short, options, _ := strings.Cut(text, ",")
	if strings.Contains(short, "=") {
		return parseLongPort(text)
	}
	from, err := parseSources(text, options)
	if err != nil {
		return none, err
	}
	m, err := parseShortPort(short)
	if err == nil && len(from) > 0 {
		m.From, err = checkSources(from, m.HostIP)
	}
	return m, err
}

// parseSources reads the options of the short form.
func parseSources(text, options string) (from []netip.Prefix, err error) {
	for _, o := range strings.Split(options, ",") {
		key, v, _ := strings.Cut(o, "=")
		switch {
		case o == "" && !strings.Contains(text, ","):
			return nil, nil
		case key != "from":
			return nil, fmt.Errorf("unknown option %q: known is from=SUBNET", key)
		}
		p, err := ParseSource(v)
		if err != nil {
			return nil, err
		}
		from = append(from, p)
	}
	return from, nil
}

// parseLongPort reads the form of names and values, as Compose files and services have it.
func parseLongPort(text string) (none PortMapping, err error) {
	given := map[string]string{}
	var from []netip.Prefix
	for o := range strings.SplitSeq(text, ",") {
		key, v, _ := strings.Cut(o, "=")
		_, twice := given[key]
		switch key {
		case "from":
			p, err := ParseSource(v)
			if err != nil {
				return none, err
			}
			from = append(from, p)
			continue
		case "target", "published", "host_ip", "protocol":
		case "mode":
			if v != "host" {
				return none, fmt.Errorf("mode %q: ports are published on the container's host, which is mode=host", v)
			}
		default:
			return none, fmt.Errorf("unknown option %q: known are target, published, host_ip, protocol, mode, from",
				key)
		}
		if v == "" || twice {
			return none, fmt.Errorf("option %q has no value or is given twice", key)
		}
		given[key] = v
	}
	m, err := parseShortPort(shortPort(given))
	if err == nil && len(from) > 0 {
		m.From, err = checkSources(from, m.HostIP)
	}
	return m, err
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
