package flagspec

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	apiv1 "github.com/vethloom/vethloom/api/v1"
)

const portForms = "use [IP:][HOST:]CONTAINER[/tcp|udp|sctp], for example 8080:80, 127.0.0.1:8080:80, [::1]:8080:80, 8000-8010:80-90 or 53/udp"

// Ports parses the values of -p. A range whose host ports are left to the
// daemon becomes one mapping a port, because free ports need not be adjacent.
func Ports(values []string) ([]*apiv1.PortMapping, error) {
	var out []*apiv1.PortMapping
	for _, v := range values {
		m, err := port(v)
		if err != nil {
			return nil, fmt.Errorf("invalid -p %q: %w: %s", v, err, portForms)
		}
		if m.HostPort != 0 || m.Count == 1 {
			out = append(out, m)
			continue
		}
		for i := range m.Count {
			out = append(out, &apiv1.PortMapping{
				Proto: m.Proto, HostIp: m.HostIp, ContainerPort: m.ContainerPort + i, Count: 1,
			})
		}
	}
	return out, nil
}

func port(v string) (*apiv1.PortMapping, error) {
	m := &apiv1.PortMapping{Proto: "tcp"}
	rest, proto, given := strings.Cut(v, "/")
	if given {
		m.Proto = strings.ToLower(proto)
		switch m.Proto {
		case "tcp", "udp", "sctp":
		default:
			return nil, fmt.Errorf("unknown protocol %q", proto)
		}
	}
	rest, target, ok := cutLast(rest, ":")
	if !ok {
		rest, target = "", rest
	}
	from, count, err := portRange(target)
	if err != nil {
		return nil, fmt.Errorf("container port: %w", err)
	}
	m.ContainerPort, m.Count = from, count
	if !ok {
		return m, nil
	}
	ip, host, hasIP := cutLast(rest, ":")
	if !hasIP {
		ip, host = "", rest
	}
	if hasIP {
		if m.HostIp, err = hostIP(ip); err != nil {
			return nil, err
		}
	}
	if host == "" {
		if !hasIP {
			return nil, fmt.Errorf("the host port before %q is empty", ":"+target)
		}
		return m, nil // IP::80 leaves the port to the daemon
	}
	from, hostCount, err := portRange(host)
	if err != nil {
		return nil, fmt.Errorf("host port: %w", err)
	}
	if hostCount != count {
		return nil, fmt.Errorf("%d host ports for %d container ports: both ranges must have the same length", hostCount, count)
	}
	m.HostPort = from
	return m, nil
}

func hostIP(s string) (string, error) {
	bracketed := strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]")
	if bracketed {
		s = s[1 : len(s)-1]
	}
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return "", fmt.Errorf("host address %q is not an IP address", s)
	case a.Zone() != "":
		return "", fmt.Errorf("host address %q has a zone, which cannot be published on", s)
	case a.Is4() && bracketed:
		return "", fmt.Errorf("host address %q is IPv4, which takes no brackets", s)
	case !a.Is4() && !bracketed:
		return "", fmt.Errorf("host address %q is IPv6 and needs brackets: [%s]", s, s)
	}
	return a.Unmap().String(), nil
}

func portRange(s string) (first, count uint32, err error) {
	a, b, isRange := strings.Cut(s, "-")
	if first, err = portNumber(a); err != nil || !isRange {
		return first, 1, err
	}
	last, err := portNumber(b)
	if err != nil {
		return 0, 0, err
	}
	if last < first {
		return 0, 0, fmt.Errorf("range %q runs backwards", s)
	}
	return first, last - first + 1, nil
}

func portNumber(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || s[0] == '+' {
		return 0, fmt.Errorf("%q is not a port number (1 to 65535)", s)
	}
	return uint32(n), nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
