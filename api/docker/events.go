package docker

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/vethloom/vethloom/api/server"
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
	for ev := range happened {
		ev, ok := dockerEvent(ev)
		if !ok || !wanted(ev) || !until.IsZero() && ev.Time.After(until) {
			continue
		}
		if err := out.send(encodeEvent(ev, minor(r) < leanEvents)); err != nil {
			return err
		}
	}
	return nil
}

// leanEvents is the version of the API since which events no longer say things twice.
const leanEvents = 52

// eventMessage is an event as clients of older versions expect it: with fields of its own for what the actor says, too.
type eventMessage struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	events.Message
}

func encodeEvent(ev server.Event, twice bool) eventMessage {
	m := eventMessage{Message: events.Message{Type: events.Type(ev.Type), Action: events.Action(ev.Action),
		Actor: events.Actor{ID: ev.ID, Attributes: ev.Attributes}, Scope: "local", Time: ev.Time.Unix(),
		TimeNano: ev.Time.UnixNano()}}
	if twice && (ev.Type == "container" || ev.Type == "image") {
		m.Status, m.ID = ev.Action, ev.ID
	}
	if twice && ev.Type == "container" {
		m.From = ev.Attributes["image"]
	}
	return m
}

// actions are what Docker calls what happens to a thing, where it has another word for it.
var actions = map[string]map[string]string{
	"container": {}, // none: the engine says what Docker says
	"network":   {"remove": "destroy"},
	"image":     {"remove": "delete"},
	"volume":    {"remove": "destroy"},
	"endpoint":  {},
}

// dockerEvent is an event as Docker has it. Docker knows nothing of some.
func dockerEvent(ev server.Event) (server.Event, bool) {
	words, known := actions[ev.Type]
	if !known || ev.Type == "endpoint" && ev.Action != "connect" && ev.Action != "disconnect" {
		return ev, false
	}
	ev.Action = cmp.Or(words[ev.Action], ev.Action)
	ev.Attributes = maps.Clone(ev.Attributes)
	if ev.Attributes == nil {
		ev.Attributes = map[string]string{}
	}
	switch ev.Type {
	case "endpoint": // has the network's name
		ev.Type, ev.ID = "network", ev.Attributes["network"]
		ev.Attributes = map[string]string{"name": ev.Attributes["name"], "type": ev.Attributes["driver"],
			"container": ev.Attributes["container"]}
	case "network":
		ev.Attributes["type"] = ev.Attributes["driver"]
		delete(ev.Attributes, "driver")
	case "volume":
		ev.Attributes["driver"] = "local"
	}
	return ev, true
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
