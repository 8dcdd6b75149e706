package server

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/vethloom/vethloom/engine/image"
)

// This file has what filters mean, for every protocol that serves the interfaces. They are KEY=VALUE: values of one key
// are alternatives, keys must all match.

// MatchNetworks says which networks are wanted.
func MatchNetworks(given []string) (func(NetworkView) bool, error) {
	f, err := parseFilters(given, "driver", "name", "label", "id", "scope=local|cluster|global|swarm",
		"type=builtin|custom", "dangling=true|false|1|0")
	if err != nil {
		return nil, err
	}
	return func(n NetworkView) bool {
		kind, reach := "custom", []string{string(n.Scope)}
		if n.Builtin {
			kind = "builtin"
		}
		if n.Cluster != nil {
			reach = append(reach, "global") // what Docker calls it where there is no swarm
		}
		return f.equal("driver", n.Driver) && f.named("name", n.Name) && f.prefix("id", n.ID) &&
			f.labels(n.Labels) && f.anyOf("scope", reach...) && f.equal("type", kind) &&
			f.boolean("dangling", !n.Builtin && !n.ConfigOnly && len(n.Endpoints) == 0)
	}, nil
}

// MatchVolumes says which volumes are wanted.
func MatchVolumes(given []string) (func(VolumeView) bool, error) {
	f, err := parseFilters(given, "name", "label", "driver", "dangling=true|false|1|0")
	if err != nil {
		return nil, err
	}
	return func(v VolumeView) bool {
		return f.named("name", v.Name) && f.labels(v.Labels) && f.equal("driver", "local") &&
			f.boolean("dangling", len(v.Containers) == 0)
	}, nil
}

// MatchImages says which images are wanted, and with which of their names.
func MatchImages(ctx context.Context, images ImageViews, given []string) (func(image.Image) (image.Image, bool),
	error) {
	f, err := parseFilters(given, "reference", "label", "dangling=true|false|1|0", "before", "since", "until")
	if err != nil {
		return nil, err
	}
	until, err := f.until(time.Now())
	if err != nil {
		return nil, err
	}
	between, err := between(ctx, images, f)
	if err != nil {
		return nil, err
	}
	return func(i image.Image) (image.Image, bool) {
		dangling := len(i.References) == 0
		i.References = f.references(i.References)
		return i, (len(f["reference"]) == 0 || len(i.References) > 0) && between(i) &&
			(until.IsZero() || i.Created.Before(until)) && f.boolean("dangling", dangling) && f.labels(i.Config.Labels)
	}, nil
}

// between says which images were made before or after those that the filters name.
func between(ctx context.Context, images ImageViews, f filters) (func(image.Image) bool, error) {
	var before, since []time.Time
	for key, times := range map[string]*[]time.Time{"before": &before, "since": &since} {
		for _, ref := range f[key] {
			i, err := images.InspectImage(ctx, ref)
			if err != nil {
				return nil, fmt.Errorf("filter %s=%s: %w", key, ref, err)
			}
			*times = append(*times, i.Created)
		}
	}
	return func(i image.Image) bool {
		for _, t := range before {
			if !i.Created.Before(t) {
				return false
			}
		}
		for _, t := range since {
			if !i.Created.After(t) {
				return false
			}
		}
		return true
	}, nil
}

// MatchPruned says which unused things are due to be removed, by when they were made and by their labels.
func MatchPruned(given []string) (func(created time.Time, labels map[string]string) bool, error) {
	f, err := parseFilters(given, "until", "label", "label!")
	if err != nil {
		return nil, err
	}
	before, err := f.until(time.Now())
	if err != nil {
		return nil, err
	}
	return func(created time.Time, labels map[string]string) bool {
		return (before.IsZero() || created.Before(before)) && f.labels(labels) && f.unlabelled(labels)
	}, nil
}

// MatchEvents says which events are wanted. What they call types and actions is the protocol's.
func MatchEvents(given []string) (func(Event) bool, error) {
	f, err := parseFilters(given, "type", "event", "id", "container", "network", "image", "volume", "label",
		"scope=local|global|swarm")
	if err != nil {
		return nil, err
	}
	return func(ev Event) bool {
		name := ev.Attributes["name"]
		return f.equal("type", ev.Type) && f.anyOf("event", ev.Action, kindOf(ev.Action)) && f.prefix("id", ev.ID) &&
			f.equal("scope", "local") && f.labels(ev.Attributes) &&
			f.anyOf("container", ev.ID, ev.Attributes["container"], name) &&
			f.anyOf("network", ev.ID, ev.Attributes["network"], name) &&
			f.anyOf("image", ev.ID, ev.Attributes["image"], name) &&
			(len(f["volume"]) == 0 || ev.Type == "volume" && slices.Contains(f["volume"], ev.ID))
	}, nil
}

// kindOf is what an action is without its detail: health_status of "health_status: healthy".
func kindOf(action string) string {
	kind, _, _ := strings.Cut(action, ":")
	return kind
}
