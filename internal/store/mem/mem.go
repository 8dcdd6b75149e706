package mem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/store"
)

// Store keeps records in memory. The zero value is not usable; call New.
type Store struct {
	watch store.Watchers

	mu       sync.RWMutex
	records  map[cnm.Kind]map[string]cnm.Record
	revision uint64
}

// New returns an empty store.
func New() *Store {
	return &Store{records: map[cnm.Kind]map[string]cnm.Record{}}
}

// Get implements [cnm.Store].
func (s *Store) Get(ctx context.Context, k cnm.Key) (cnm.Record, error) {
	if err := ctx.Err(); err != nil {
		return cnm.Record{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	r, ok := s.records[k.Kind][k.ID]
	if !ok {
		return cnm.Record{}, fmt.Errorf("get %s %q: %w", k.Kind, k.ID, cnm.ErrNotFound)
	}
	return clone(r), nil
}

// List implements [cnm.Store].
func (s *Store) List(ctx context.Context, kind cnm.Kind) ([]cnm.Record, error) {
	return s.Find(ctx, kind, "")
}

// Find implements [cnm.Store], but looks at every record of the kind.
func (s *Store) Find(ctx context.Context, kind cnm.Kind, prefix string) ([]cnm.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := []cnm.Record{}
	for id, r := range s.records[kind] {
		if strings.HasPrefix(id, prefix) {
			out = append(out, clone(r))
		}
	}
	slices.SortFunc(out, func(a, b cnm.Record) int { return strings.Compare(a.Key.ID, b.Key.ID) })
	return out, nil
}

// Commit implements [cnm.Store].
func (s *Store) Commit(ctx context.Context, writes ...cnm.Write) error {
	if err := store.Check(writes); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range writes {
		if have := s.records[w.Key.Kind][w.Key.ID].Revision; have != w.Revision {
			return store.Conflict(w, have)
		}
	}
	s.revision++
	for _, w := range writes {
		s.apply(w)
	}
	s.watch.Wake(writes)
	return nil
}

func (s *Store) apply(w cnm.Write) {
	kind := s.records[w.Key.Kind]
	if w.Value == nil {
		delete(kind, w.Key.ID)
		return
	}
	if kind == nil {
		kind = map[string]cnm.Record{}
		s.records[w.Key.Kind] = kind
	}
	kind[w.Key.ID] = cnm.Record{Key: w.Key, Value: append([]byte{}, w.Value...), Revision: s.revision}
}

// Watch implements [cnm.Store].
func (s *Store) Watch(ctx context.Context, kind cnm.Kind) <-chan struct{} {
	return s.watch.Add(ctx, kind)
}

func clone(r cnm.Record) cnm.Record {
	r.Value = append([]byte{}, r.Value...)
	return r
}
