package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/vethloom/vethloom/api/server"
)

// eventBacklog is how many events a slow watcher may lag behind before it loses the oldest.
const eventBacklog = 256

// eventHistory is how many events are kept for those who ask for the past.
const eventHistory = 256

// events hands each event to everyone who watches at that moment, and keeps the latest.
type events struct {
	mu       sync.Mutex // guards what follows
	watchers map[chan server.Event]struct{}
	past     []server.Event // oldest first
}

func newEvents() *events { return &events{watchers: map[chan server.Event]struct{}{}} }

// emit never blocks: a watcher whose backlog is full loses its oldest event.
func (e *events) emit(ev server.Event) {
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.past) == eventHistory {
		e.past = append(e.past[:0], e.past[1:]...)
	}
	e.past = append(e.past, ev)
	for w := range e.watchers {
		for sent := false; !sent; {
			select {
			case w <- ev:
				sent = true
			default:
				select {
				case <-w:
				default:
				}
			}
		}
	}
}

// watch returns what happened since a time, as far as it is kept, and happens from now on; the zero time leaves the
// past out. The channel is closed with the context.
func (e *events) watch(ctx context.Context, since time.Time) <-chan server.Event {
	w := make(chan server.Event, eventHistory+eventBacklog)
	e.mu.Lock()
	for _, ev := range e.past {
		if !since.IsZero() && !ev.Time.Before(since) {
			w <- ev
		}
	}
	e.watchers[w] = struct{}{}
	e.mu.Unlock()
	context.AfterFunc(ctx, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.watchers, w)
		close(w)
	})
	return w
}
