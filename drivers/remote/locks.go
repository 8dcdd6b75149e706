package remote

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// locks are locks by name, one for each network and endpoint that is being worked on. The zero value is ready.
type locks struct {
	mu   sync.Mutex
	held map[string]*waiting
}

type waiting struct {
	*semaphore.Weighted
	many int // who hold it or wait for it
}

// lock waits for a name, or for the end of the context.
func (l *locks) lock(ctx context.Context, name string) (unlock func(), err error) {
	l.mu.Lock()
	w := l.held[name]
	if w == nil {
		if l.held == nil {
			l.held = map[string]*waiting{}
		}
		w = &waiting{Weighted: semaphore.NewWeighted(1)}
		l.held[name] = w
	}
	w.many++
	l.mu.Unlock()
	left := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.many--; w.many == 0 {
			delete(l.held, name)
		}
	}
	if err := w.Acquire(ctx, 1); err != nil {
		left()
		return nil, err
	}
	return func() { w.Release(1); left() }, nil
}
