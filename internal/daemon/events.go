package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/vethloom/vethloom/api/server"
)

// eventBacklog is how many events a slow watcher may lag behind before it loses the oldest.
const eventBacklog = 256

// events hands each event to everyone who watches at that moment.
type events struct {
	mu       sync.Mutex // guards watchers
	watchers map[chan server.Event]struct{}
}

func newEvents() *events { return &events{watchers: map[chan server.Event]struct{}{}} }

// emit never blocks: a watcher whose backlog is full loses its oldest event.
func (e *events) emit(ev server.Event) {
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
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

// watch returns what happens from now on; the channel is closed with the context.
func (e *events) watch(ctx context.Context) <-chan server.Event {
	w := make(chan server.Event, eventBacklog)
	e.mu.Lock()
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
