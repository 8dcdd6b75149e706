package dns

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vethloom/vethloom/plan"
)

// Entry is a question that was answered.
type Entry struct {
	Time           time.Time
	Server, Client string
	Name, Type     string
	Rcode          string
	Answers        []string
	Source         string // names, cache, or the server that was asked
	Took           time.Duration
	Lost           int // entries before this one that nobody read in time
}

// watchBuffer is how many entries wait for a reader.
const watchBuffer = 512

// watchers are told of questions.
type watchers struct {
	mu  sync.Mutex
	all map[*watcher]bool
	n   atomic.Int32
}

type watcher struct {
	want func(plan.NameServer) bool
	out  chan Entry
	lost int // guarded by the watchers' mu
}

// any reports whether somebody watches: then an entry is worth making.
func (w *watchers) any() bool { return w.n.Load() > 0 }

func (w *watchers) tell(s plan.NameServer, e Entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.all {
		if !x.want(s) {
			continue
		}
		e.Lost = x.lost
		select {
		case x.out <- e:
			x.lost = 0
		default:
			x.lost++
		}
	}
}

// Watch yields questions to the servers that are wanted, as they are answered, from now on until the context ends.
func (s *Server) Watch(ctx context.Context, want func(plan.NameServer) bool) iter.Seq[Entry] {
	x := &watcher{want: want, out: make(chan Entry, watchBuffer)}
	s.watch.add(x)
	leave := sync.OnceFunc(func() { s.watch.remove(x) })
	context.AfterFunc(ctx, leave)
	return func(yield func(Entry) bool) {
		defer leave()
		for {
			select {
			case <-ctx.Done():
				return
			case <-s.life.Done():
				return
			case e := <-x.out:
				if !yield(e) {
					return
				}
			}
		}
	}
}

func (w *watchers) add(x *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all == nil {
		w.all = map[*watcher]bool{}
	}
	w.all[x] = true
	w.n.Add(1)
}

func (w *watchers) remove(x *watcher) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.all, x)
	w.n.Add(-1)
}
