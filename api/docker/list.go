package docker

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	units "github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/plan"
)

func (s containerService) list(w *answer, r *http.Request) error {
	limit := 0
	if text := r.URL.Query().Get("limit"); text != "" {
		var err error
		if limit, err = strconv.Atoi(text); err != nil {
			return invalid("limit", text, "is no number", "leave it out, or give how many containers are wanted")
		}
	}
	f, err := containerFilters(r)
	if err != nil {
		return err
	}
	all := flag(r, "all") || limit > 0
	// Who asks for a state, or for the order of containers, means those that do not run, too.
	found, err := s.cfg.Containers.List(r.Context(), true)
	if err != nil {
		return err
	}
	l := listing{containerService: s, ids: networkIDs{networks: s.cfg.Networks}, images: map[string]image.Image{},
		sizes: flag(r, "size")}
	out := []container.Summary{}
	ancestors, err := s.ancestors(r.Context(), f["ancestor"])
	if err != nil {
		return err
	}
	newest, oldest, err := between(found, f)
	if err != nil {
		return err
	}
	for _, c := range found[newest:oldest] {
		if !all && !lives(c.Status) && c.Status != engine.Restarting && len(f["status"])+len(f["exited"]) == 0 {
			continue
		}
		img, err := l.image(r.Context(), c.ImageID)
		if err != nil {
			return err
		}
		if !f.container(c, exposedPorts(c.Spec, img), ancestors) {
			continue
		}
		one, err := l.summary(r.Context(), c, img)
		if errors.Is(err, cnm.ErrNotFound) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return err
		}
		if out = append(out, one); len(out) == limit {
			break
		}
	}
	return w.json(http.StatusOK, out)
}

// listing is what several containers of a list have in common.
type listing struct {
	containerService
	ids    networkIDs
	images map[string]image.Image
	sizes  bool
}

// image is the zero one for one that is gone.
func (l *listing) image(ctx context.Context, id string) (image.Image, error) {
	if img, known := l.images[id]; known {
		return img, nil
	}
	img, err := l.cfg.Images.InspectImage(ctx, id)
	if err != nil && !errors.Is(err, cnm.ErrNotFound) {
		return img, err
	}
	l.images[id] = img
	return img, nil
}

func (l *listing) summary(ctx context.Context, c server.ContainerView, img image.Image) (container.Summary, error) {
	nets, err := l.networksOf(ctx, c, &l.ids)
	if err != nil {
		return container.Summary{}, err
	}
	out := container.Summary{
		ID: c.ID, Names: []string{"/" + c.Spec.Name}, Image: c.Spec.Image, ImageID: c.ImageID,
		Command: commandLine(c.Args), Created: seconds(c.Created), Labels: c.Spec.Labels,
		Ports: portSummaries(published(c, exposedPorts(c.Spec, img))), State: encodeState(c).Status,
		Status: statusText(c, time.Now()), Mounts: mountPoints(c),
		NetworkSettings: &container.NetworkSettingsSummary{Networks: nets},
	}
	out.HostConfig.NetworkMode, out.HostConfig.Annotations = networkMode(c.Spec), c.Spec.Annotations
	if out.Labels == nil {
		out.Labels = map[string]string{}
	}
	out.Health = &container.HealthSummary{Status: healthOf(c)}
	if c.Health != nil {
		out.Health.FailingStreak = c.Health.Failing
	}
	if l.sizes {
		written, err := l.cfg.Containers.WrittenBy(ctx, c.ID)
		if err != nil {
			return out, err
		}
		out.SizeRw, out.SizeRootFs = written, written+img.Size
	}
	return out, nil
}

// commandLine is a command as lists show it: arguments with spaces in quotes.
func commandLine(args []string) string {
	var out []string
	for i, a := range args {
		if i > 0 && strings.Contains(a, " ") {
			a = "'" + a + "'"
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

func healthOf(c server.ContainerView) container.HealthStatus {
	if c.Health == nil {
		return container.NoHealthcheck
	}
	return container.HealthStatus(c.Health.Status)
}

// statusText is how a container is, as Docker puts it.
func statusText(c server.ContainerView, now time.Time) string {
	ago := func(t time.Time) string { return units.HumanDuration(max(now.Sub(t), 0)) }
	switch c.Status {
	case engine.Running:
		up := "Up " + ago(c.Started)
		switch health := healthOf(c); health {
		case container.NoHealthcheck:
			return up
		case container.Starting:
			return up + " (health: starting)"
		default:
			return fmt.Sprintf("%s (%s)", up, health)
		}
	case engine.Paused:
		return "Up " + ago(c.Started) + " (Paused)"
	case engine.Restarting:
		return fmt.Sprintf("Restarting (%d) %s ago", c.ExitCode, ago(c.Finished))
	case engine.Exited:
		return fmt.Sprintf("Exited (%d) %s ago", c.ExitCode, ago(c.Finished))
	}
	return "Created"
}

// filters are the values that are wanted, by key.
type filters map[string][]string

// containerKeys are the filters of a list of containers, with the values that there are.
func containerKeys() map[string][]string {
	yes := []string{"true", "false", "1", "0"}
	return map[string][]string{
		"ancestor": nil, "before": nil, "since": nil, "exited": nil, "expose": nil, "publish": nil, "id": nil,
		"label": nil, "name": nil, "network": nil, "volume": nil, "is-task": yes, "isolation": nil,
		"health": {"none", "starting", "healthy", "unhealthy"},
		"status": {"created", "restarting", "running", "removing", "paused", "exited", "dead"},
	}
}

func containerFilters(r *http.Request) (filters, error) {
	given, err := filtersOf(r)
	if err != nil {
		return nil, err
	}
	known, f := containerKeys(), filters{}
	for _, g := range given {
		key, value, _ := strings.Cut(g, "=")
		values, ok := known[key]
		switch {
		case !ok:
			return nil, invalid("filters", g, "invalid filter '"+key+"'", "use one of "+
				strings.Join(sortedKeys(known), ", "))
		case values != nil && !slices.Contains(values, value):
			return nil, invalid("filters", g, "invalid filter '"+g+"'", "use one of "+strings.Join(values, ", "))
		}
		switch key {
		case "name":
			_, err = regexp.Compile(value)
		case "exited":
			_, err = strconv.Atoi(value)
		case "expose", "publish":
			_, _, _, err = span(value)
		}
		if err != nil {
			return nil, invalid("filters", g, "invalid filter '"+g+"': "+err.Error(), "correct it, or leave it out")
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

// any reports whether one of the values of a key will do; with none all will.
func (f filters) any(key string, ok func(want string) bool) bool {
	return len(f[key]) == 0 || slices.ContainsFunc(f[key], ok)
}

func (f filters) is(key string, have ...string) bool {
	return f.any(key, func(want string) bool { return slices.Contains(have, want) })
}

func (f filters) container(c server.ContainerView, exposed []plan.NamePort, ancestors []string) bool {
	return f.is("status", string(encodeState(c).Status)) && f.is("health", string(healthOf(c))) &&
		f.is("is-task", "false", "0") && f.labelled(c.Spec.Labels) && f.onNetwork(c) && f.withVolume(c) &&
		f.any("id", func(want string) bool { return strings.HasPrefix(c.ID, want) }) &&
		f.any("name", func(want string) bool {
			re, err := regexp.Compile(want)
			return err == nil && (re.MatchString(c.Spec.Name) || re.MatchString("/"+c.Spec.Name))
		}) &&
		(len(f["exited"]) == 0 || c.Status == engine.Exited && f.is("exited", strconv.Itoa(c.ExitCode))) &&
		(len(f["ancestor"]) == 0 || slices.Contains(ancestors, c.ImageID) || f.is("ancestor", c.Spec.Image)) &&
		f.withPort("expose", exposed) && f.withPort("publish", publishedPorts(c.Spec.Ports))
}

func (f filters) labelled(have map[string]string) bool {
	for _, want := range f["label"] {
		key, value, given := strings.Cut(want, "=")
		if v, ok := have[key]; !ok || given && v != value {
			return false
		}
	}
	return true
}

func (f filters) onNetwork(c server.ContainerView) bool {
	var have []string
	for _, a := range c.Spec.Networks {
		have = append(have, a.Network)
	}
	for _, e := range c.Sandbox.Endpoints {
		have = append(have, e.NetworkName, e.Network)
	}
	return f.any("network", func(want string) bool {
		return slices.ContainsFunc(have, func(h string) bool {
			return h == want || cnm.Begins(h, want)
		})
	})
}

func (f filters) withVolume(c server.ContainerView) bool {
	var have []string
	for _, m := range c.Spec.Mounts {
		have = append(have, m.Source, m.Target)
	}
	return f.is("volume", have...)
}

func (f filters) withPort(key string, have []plan.NamePort) bool {
	return f.any(key, func(want string) bool {
		first, count, proto, err := span(want)
		return err == nil && slices.ContainsFunc(have, func(p plan.NamePort) bool {
			return p.Proto == proto && uint32(p.Port) >= first && uint32(p.Port) < first+count
		})
	})
}

func publishedPorts(ports []cnm.PortMapping) []plan.NamePort {
	var out []plan.NamePort
	for _, m := range ports {
		for i := range max(m.Count, 1) {
			out = append(out, plan.NamePort{Proto: m.Proto, Port: m.Port + i})
		}
	}
	return out
}

// ancestors are the IDs of images that containers are wanted of.
func (s containerService) ancestors(ctx context.Context, refs []string) ([]string, error) {
	var out []string
	for _, ref := range refs {
		img, err := s.cfg.Images.InspectImage(ctx, ref)
		if errors.Is(err, cnm.ErrNotFound) || errors.Is(err, cnm.ErrInvalid) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, img.ID)
	}
	return out, nil
}

// between is the part of a list, newest first, that is made after since and before before.
func between(all []server.ContainerView, f filters) (newest, oldest int, err error) {
	oldest = len(all)
	at := func(ref string) (int, error) {
		ref = strings.TrimPrefix(ref, "/")
		i := slices.IndexFunc(all, func(c server.ContainerView) bool { return c.Spec.Name == ref || c.ID == ref })
		if i < 0 {
			i = slices.IndexFunc(all, func(c server.ContainerView) bool { return cnm.Begins(c.ID, ref) })
		}
		if i < 0 {
			return 0, &cnm.Error{Kind: cnm.ErrNotFound, Field: "container", Value: ref, Reason: "no such container"}
		}
		return i, nil
	}
	for _, ref := range f["before"] {
		i, err := at(ref)
		if err != nil {
			return 0, 0, err
		}
		newest = max(newest, i+1)
	}
	for _, ref := range f["since"] {
		i, err := at(ref)
		if err != nil {
			return 0, 0, err
		}
		oldest = min(oldest, i)
	}
	return newest, max(newest, oldest), nil
}
