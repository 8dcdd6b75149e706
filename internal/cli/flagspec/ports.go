package flagspec

import (
	"fmt"

	apiv1 "github.com/vethloom/vethloom/api/v1"
	"github.com/vethloom/vethloom/cnm"
)

const portForms = "use [IP:][HOST:]CONTAINER[/tcp|udp|sctp], " +
	"for example 8080:80, 127.0.0.1:8080:80, [::1]:8080:80, 8000-8010:80-90 or 53/udp; " +
	"with ,from=SUBNET for some clients only, ,mode=cluster on every node of the network; " +
	"or target=CONTAINER,published=HOST,…"

// Ports parses the values of -p. A range whose host ports are left to the
// daemon becomes one mapping a port, because free ports need not be adjacent.
func Ports(values []string) ([]*apiv1.PortMapping, error) { return ports("-p", values, true) }

// PublishedPorts parses ports that are to be published no more, in the forms of -p.
func PublishedPorts(values []string) ([]*apiv1.PortMapping, error) {
	return ports("port", values, false)
}

func ports(what string, values []string, split bool) ([]*apiv1.PortMapping, error) {
	var out []*apiv1.PortMapping
	for _, v := range values {
		m, err := cnm.ParsePort(v)
		if err != nil {
			return nil, fmt.Errorf("invalid %s %q: %w: %s", what, v, err, portForms)
		}
		each, n := uint32(m.Count), uint32(1)
		if split && m.Dynamic {
			each, n = 1, uint32(m.Count)
		}
		host := ""
		if m.HostIP.IsValid() {
			host = m.HostIP.String()
		}
		var from []string
		for _, p := range m.From {
			from = append(from, p.String())
		}
		for i := range n {
			out = append(out, &apiv1.PortMapping{
				Proto: string(m.Proto), HostIp: host, HostPort: uint32(m.HostPort), ContainerPort: uint32(m.Port) + i,
				Count: each, From: from, Cluster: m.Cluster,
			})
		}
	}
	return out, nil
}
