package docker

import (
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
)

// events streams what happens, and what has happened as far as that is remembered.
func (s systemService) events(w *answer, r *http.Request) error {
	given, err := filtersOf(r)
	if err != nil {
		return err
	}
	_, given = take(given, "daemon") // there is one
	wanted, err := server.MatchEvents(given)
	if err != nil {
		return err
	}
	since, err := moment(r, "since")
	if err != nil {
		return err
	}
	until, err := moment(r, "until")
	if err != nil {
		return err
	}
	ctx := r.Context()
	if !until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until)
		defer cancel()
	}
	out := lines{w}
	happened := s.cfg.System.Events(ctx, since)
	if err := out.open(); err != nil { // tells the client that from here on nothing is missed
		return err
	}
	names := networkNames{networks: s.cfg.Networks}
	names.learn(r.Context())
	for ev := range happened {
		ev, ok := dockerEvent(r.Context(), ev, &names)
		if !ok || !wanted(ev) || !until.IsZero() && ev.Time.After(until) {
			continue
		}
		if err := out.send(events.Message{Type: events.Type(ev.Type), Action: events.Action(ev.Action),
			Actor: events.Actor{ID: ev.ID, Attributes: ev.Attributes}, Scope: "local", Time: ev.Time.Unix(),
			TimeNano: ev.Time.UnixNano()}); err != nil {
			return err
		}
	}
	return nil
}

// actions are what Docker calls what happens to a thing, where it has another word for it.
var actions = map[string]map[string]string{
	"container": {"exit": "die", "remove": "destroy", "exec": "exec_start"},
	"network":   {"remove": "destroy"},
	"image":     {"remove": "delete"},
	"volume":    {"remove": "destroy"},
	"endpoint":  {"create": "connect", "remove": "disconnect"},
}

// dockerEvent is an event as Docker has it. Docker knows nothing of some.
func dockerEvent(ctx context.Context, ev server.Event, names *networkNames) (server.Event, bool) {
	words, known := actions[ev.Type]
	if !known {
		return ev, false
	}
	if word := words[ev.Action]; word != "" {
		ev.Action = word
	} else if ev.Type == "endpoint" {
		return ev, false
	}
	ev.Attributes = maps.Clone(ev.Attributes)
	if ev.Attributes == nil {
		ev.Attributes = map[string]string{}
	}
	switch ev.Type {
	case "endpoint":
		n := names.of(ctx, ev.Attributes["network"])
		ev.Type, ev.ID = "network", ev.Attributes["network"]
		ev.Attributes = map[string]string{"name": n.Name, "type": n.Driver, "container": ev.Attributes["container"]}
	case "network":
		ev.Attributes["type"] = names.of(ctx, ev.ID).Driver
	case "volume":
		ev.Attributes["driver"] = "local"
	}
	return ev, true
}

// networkNames are what networks are called, kept for when they are gone.
type networkNames struct {
	networks server.Networks
	seen     map[string]cnm.Network
}

// maxNames bounds how many are kept.
const maxNames = 4096

// learn keeps those of the networks that there are.
func (n *networkNames) learn(ctx context.Context) {
	n.seen = map[string]cnm.Network{}
	all, _ := n.networks.ListNetworks(ctx) // without, events have the IDs alone
	for _, v := range all {
		n.seen[v.ID] = v.Network
	}
}

func (n *networkNames) of(ctx context.Context, id string) cnm.Network {
	v, err := n.networks.InspectNetwork(ctx, id)
	if err != nil || v.ID != id {
		return n.seen[id]
	}
	if len(n.seen) >= maxNames {
		clear(n.seen)
	}
	n.seen[id] = v.Network
	return v.Network
}

// moment reads seconds since 1970 with a fraction, or a time; the zero time where none is given.
func moment(r *http.Request, name string) (time.Time, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339Nano, text); err == nil {
		return t, nil
	}
	whole, fraction, _ := strings.Cut(text, ".")
	seconds, err := strconv.ParseInt(whole, 10, 64)
	var nanos int64
	if err == nil && fraction != "" {
		nanos, err = strconv.ParseInt((fraction + "000000000")[:9], 10, 64)
	}
	if err != nil || seconds < 0 || nanos < 0 || len(fraction) > 9 || seconds > 1<<40 {
		return time.Time{}, invalid(name, text, "is no time", "give the seconds since 1970, such as 1700000000.5")
	}
	return time.Unix(seconds, nanos), nil
}
