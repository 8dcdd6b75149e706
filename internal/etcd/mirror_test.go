package etcd_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/vethloom/vethloom/internal/etcd"
)

// mirror adds up what Follow hands on, and checks that each step fits on the one before.
type mirror struct {
	mu      sync.Mutex
	set     map[string]etcd.Item
	updates []etcd.Update
	states  []bool
	reasons []error
	faults  []error
	changed chan struct{}
}

// follow follows until the test is over.
func follow(t *testing.T, c *clientv3.Client, prefix string, opts ...etcd.FollowOption) *mirror {
	t.Helper()
	m := &mirror{set: map[string]etcd.Item{}, changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	opts = append(opts, etcd.OnState(m.state))
	go func() { done <- etcd.Follow(ctx, c, prefix, m.update, opts...) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Follow ended with %v", err)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if err := errors.Join(m.faults...); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (m *mirror) state(connected bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.states, m.reasons = append(m.states, connected), append(m.reasons, err)
	m.wake()
}

func (m *mirror) wake() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

func (m *mirror) update(u etcd.Update) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.updates) == 0 && !u.Whole {
		m.faults = append(m.faults, errors.New("the first update is not whole"))
	}
	if n := len(m.updates); len(u.Changes) == 0 && !u.Whole && u.Revision <= m.updates[n-1].Revision {
		m.faults = append(m.faults, errors.New("an update of nothing"))
	}
	seen := map[string]bool{}
	for _, c := range u.Changes {
		if err := m.apply(c, u); err != nil || seen[c.Key()] {
			m.faults = append(m.faults, fmt.Errorf("change of %s (again: %v): %w", c.Key(), seen[c.Key()], err))
		}
		seen[c.Key()] = true
	}
	m.updates = append(m.updates, u)
	m.wake()
	return nil
}

func (m *mirror) apply(c etcd.Change, u etcd.Update) error {
	had, ok := m.set[c.Key()]
	switch {
	case c.Old == nil && ok, c.Old != nil && !reflect.DeepEqual(had, *c.Old):
		return fmt.Errorf("old is %+v, had %+v", c.Old, had)
	case c.Old == nil && c.New == nil, c.Old != nil && c.New != nil && reflect.DeepEqual(*c.Old, *c.New):
		return errors.New("nothing changed")
	case c.Revision == 0 || c.Revision > u.Revision || c.New != nil && c.New.Mod != c.Revision:
		return fmt.Errorf("revision %d in an update of %d", c.Revision, u.Revision)
	}
	if c.New == nil {
		delete(m.set, c.Key())
	} else {
		m.set[c.Key()] = *c.New
	}
	return nil
}

// wait waits until the mirror is as f wants it.
func (m *mirror) wait(t testing.TB, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		m.mu.Lock()
		ok := f()
		m.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-m.changed:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			t.Fatalf("waited in vain for %s; have %d keys, states %v, reasons %v", what, len(m.set), m.states,
				m.reasons)
		}
	}
}

// matches waits until the mirror is what etcd lists, and stays so: the client asks another way.
func (m *mirror) matches(t testing.TB, c *clientv3.Client, prefix string) {
	t.Helper()
	r, err := c.Get(context.Background(), prefix, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]etcd.Item{}
	for _, kv := range r.Kvs {
		want[string(kv.Key)] = etcd.Item{
			Key: string(kv.Key), Value: append([]byte{}, kv.Value...), Create: kv.CreateRevision, Mod: kv.ModRevision,
			Lease: kv.Lease,
		}
	}
	m.wait(t, fmt.Sprintf("%d keys of revision %d", len(want), r.Header.Revision), func() bool {
		return maps.EqualFunc(m.set, want, func(a, b etcd.Item) bool {
			return a.Mod == b.Mod && a.Create == b.Create && a.Lease == b.Lease && bytes.Equal(a.Value, b.Value)
		})
	})
}

// last returns the updates after the first n.
func (m *mirror) since(n int) []etcd.Update {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]etcd.Update{}, m.updates[n:]...)
}

func (m *mirror) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.updates)
}

// disconnected waits until Follow has told so after n states.
func (m *mirror) disconnected(t *testing.T) {
	t.Helper()
	m.wait(t, "a disconnect", func() bool { return len(m.states) > 0 && !m.states[len(m.states)-1] })
}

// whole waits for a list after the first n updates.
func (m *mirror) whole(t *testing.T, n int) {
	t.Helper()
	m.wait(t, "a list", func() bool {
		for _, u := range m.updates[n:] {
			if u.Whole {
				return true
			}
		}
		return false
	})
}
