package server

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/plan"
)

// healthNone is the health of a container without checks.
const healthNone = "none"

// MatchContainers says which containers are wanted, for every protocol that serves the interfaces, and whether those
// that do not run may be among them. Filters are KEY=VALUE: values of one key are alternatives, keys must all match.
func MatchContainers(ctx context.Context, containers ContainerViews, given []string) (
	wanted func(ContainerView) bool, all bool, err error) {
	f, err := parseFilters(given, "name", "id",
		"status=created|running|paused|exited|restarting|removing|dead", "network", "ancestor", "label", "exited",
		"health="+strings.Join([]string{engine.HealthStarting, engine.HealthGood, engine.HealthUnhealthy, healthNone},
			"|"), "volume", "before", "since", "publish", "expose")
	if err != nil {
		return nil, false, err
	}
	ports := map[string][]portSpan{}
	for _, key := range []string{"publish", "expose"} {
		for _, v := range f[key] {
			p, err := parseSpan(key, v)
			if err != nil {
				return nil, false, err
			}
			ports[key] = append(ports[key], p)
		}
	}
	before, err := createdAt(ctx, containers, f["before"])
	if err != nil {
		return nil, false, err
	}
	since, err := createdAt(ctx, containers, f["since"])
	if err != nil {
		return nil, false, err
	}
	// Who asks for a status, or for what was made around another one, means containers that do not run, too.
	all = slices.ContainsFunc([]string{"status", "exited", "before", "since"},
		func(key string) bool { return len(f[key]) > 0 })
	return func(c ContainerView) bool {
		return f.container(c) && f.health(c) && f.mounted(c) &&
			(before.IsZero() || c.Created.Before(before)) && (since.IsZero() || c.Created.After(since)) &&
			spansMatch(ports["publish"], published(c)) && spansMatch(ports["expose"], exposed(c))
	}, all, nil
}

// createdAt is when a container was made that a filter names; the zero time without such a filter.
func createdAt(ctx context.Context, containers ContainerViews, refs []string) (time.Time, error) {
	if len(refs) == 0 {
		return time.Time{}, nil
	}
	if len(refs) > 1 {
		return time.Time{}, invalid("filter", refs[1], "is a second container", "name one")
	}
	c, err := containers.Inspect(ctx, refs[0])
	return c.Created, err
}

func (f filters) health(c ContainerView) bool {
	have := healthNone
	if c.Health != nil {
		have = c.Health.Status
	}
	return f.equal("health", have)
}

// mounted matches volumes by name, and every mount by where it is.
func (f filters) mounted(c ContainerView) bool {
	var have []string
	for _, m := range c.Spec.Mounts {
		have = append(have, m.Source, m.Target)
	}
	return f.anyOf("volume", have...)
}

// portSpan is a range of ports.
type portSpan struct {
	first, last uint16
	proto       plan.L4
}

// parseSpan reads PORT[-PORT][/PROTO].
func parseSpan(key, value string) (portSpan, error) {
	numbers, proto, given := strings.Cut(value, "/")
	if !given {
		proto = string(plan.TCP)
	}
	from, to, isRange := strings.Cut(numbers, "-")
	if !isRange {
		to = from
	}
	first, firstErr := strconv.ParseUint(from, 10, 16)
	last, lastErr := strconv.ParseUint(to, 10, 16)
	if firstErr != nil || lastErr != nil || first == 0 || last < first {
		return portSpan{}, invalid("filter", key+"="+value, "is no port", "use "+key+"=80, 8000-8010/tcp or 53/udp")
	}
	return portSpan{uint16(first), uint16(last), plan.L4(strings.ToLower(proto))}, nil
}

func spansMatch(want, have []portSpan) bool {
	if len(want) == 0 {
		return true
	}
	return slices.ContainsFunc(want, func(w portSpan) bool {
		return slices.ContainsFunc(have, func(h portSpan) bool {
			return w.proto == h.proto && w.first <= h.last && h.first <= w.last
		})
	})
}

// published are the ports of a container that the host leads to it, by their numbers in the container and on the host.
func published(c ContainerView) []portSpan {
	var out []portSpan
	for _, e := range c.Sandbox.Endpoints {
		for _, p := range e.Ports {
			more := max(p.Count, 1) - 1
			out = append(out, portSpan{p.Port, p.Port + more, p.Proto},
				portSpan{p.HostPort, p.HostPort + more, p.Proto})
		}
	}
	return out
}

// exposed are the ports that a container serves, published or not.
func exposed(c ContainerView) []portSpan {
	var out []portSpan
	serves := c.Spec.Expose
	for _, e := range c.Sandbox.Endpoints {
		serves = slices.Concat(serves, e.Serves)
		for _, p := range e.Ports {
			out = append(out, portSpan{p.Port, p.Port + max(p.Count, 1) - 1, p.Proto})
		}
	}
	for _, p := range serves {
		out = append(out, portSpan{p.Port, p.Port, p.Proto})
	}
	return out
}
