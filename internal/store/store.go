package store

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/cnm"
)

// MaxID is the longest ID of a record, in bytes.
const MaxID = 16 << 10

// Check refuses what no store accepts: an empty kind or ID, a NUL byte, a key
// twice, durable and runtime kinds in one commit.
func Check(writes []cnm.Write) error {
	seen := make(map[cnm.Key]bool, len(writes))
	for _, w := range writes {
		k := w.Key
		switch {
		case k.Kind == "" || strings.ContainsRune(string(k.Kind), 0):
			return invalid(k, "the kind is empty or holds a NUL byte")
		case k.ID == "" || strings.ContainsRune(k.ID, 0):
			return invalid(k, "the ID is empty or holds a NUL byte")
		case len(k.ID) > MaxID:
			return invalid(k, fmt.Sprintf("the ID has %d bytes, at most %d fit", len(k.ID), MaxID))
		case k.Kind.Durable() != writes[0].Key.Kind.Durable():
			return invalid(k, fmt.Sprintf(
				"durable and runtime records cannot change together, and %s %q is in the same commit",
				writes[0].Key.Kind, writes[0].Key.ID))
		}
		if seen[k] {
			return invalid(k, "the record is written twice")
		}
		seen[k] = true
	}
	return nil
}

func invalid(k cnm.Key, reason string) error {
	id := k.ID
	if len(id) > 64 {
		id = id[:64] + "…"
	}
	return fmt.Errorf("commit %s %q: %s: %w", k.Kind, id, reason, cnm.ErrInvalid)
}

// Conflict is the error of a write whose record is at revision have.
func Conflict(w cnm.Write, have uint64) error {
	return fmt.Errorf("commit %s %q: revision %d expected, %d found: %w", w.Key.Kind, w.Key.ID, w.Revision, have,
		cnm.ErrConflict)
}

// Watchers are the channels of a store's Watch. The zero value is ready.
type Watchers struct {
	mu     sync.Mutex
	byKind map[cnm.Kind]map[chan struct{}]struct{}
}

// Add returns a channel that wakes after changes of the kind and is closed
// once the context is done. Nobody has to wait for anything: the channel is
// closed by the context's own callback.
func (s *Watchers) Add(ctx context.Context, kind cnm.Kind) <-chan struct{} {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	if s.byKind == nil {
		s.byKind = map[cnm.Kind]map[chan struct{}]struct{}{}
	}
	if s.byKind[kind] == nil {
		s.byKind[kind] = map[chan struct{}]struct{}{}
	}
	s.byKind[kind][ch] = struct{}{}
	s.mu.Unlock()
	context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.byKind[kind], ch)
		close(ch)
	})
	return ch
}

// Wake wakes the watchers of every kind written to. A channel that already
// holds a wake-up is left alone: that is the coalescing.
func (s *Watchers) Wake(writes []cnm.Write) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var last cnm.Kind
	for _, w := range writes {
		if w.Key.Kind == last {
			continue
		}
		last = w.Key.Kind
		for ch := range s.byKind[last] {
			select {
			case ch <- struct{}{}:
			default:
			}
		}
	}
}
