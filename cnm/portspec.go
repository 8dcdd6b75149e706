package cnm

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/vethloom/vethloom/plan"
)

// ParsePort reads what a user writes to publish a port or a range of them:
// [IP:][HOST:]CONTAINER[/PROTOCOL], with an IPv6 address in brackets. A mapping without a host
// port is Dynamic. The error is an [ErrInvalid].
func ParsePort(text string) (PortMapping, error) {
	m, err := parsePort(text)
	if err != nil {
		return m, &Error{Kind: ErrInvalid, Reason: err.Error()}
	}
	return m, nil
}

func parsePort(text string) (none PortMapping, err error) {
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
