package storetest

import (
	"errors"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// RunReopen runs what stores that persist must do besides: fresh returns
// a function that opens the same store again and again, and how to close it.
func RunReopen(t *testing.T, fresh func(*testing.T) (open func() (cnm.Store, func() error))) {
	open := fresh(t)
	kinds := []cnm.Kind{cnm.KindNetwork, cnm.KindEndpoint, cnm.KindPeer, cnm.KindMember}
	var last uint64
	for round := range 3 {
		s, closing := open()
		for _, kind := range kinds {
			if got := len(list(t, s, kind)); got != round {
				t.Errorf("round %d: %d %s records", round, got, kind)
			}
			r := create(t, s, cnm.Key{Kind: kind, ID: ids(round + 1)[round]}, "value")
			if kind == cnm.KindNetwork && r.Revision <= last {
				t.Errorf("round %d: revision %d after %d", round, r.Revision, last)
			}
			if kind == cnm.KindNetwork {
				last = r.Revision
			}
		}
		// Revisions go on: what a reader has seen before is still known to be old.
		temporary := cnm.Key{Kind: cnm.KindNetwork, ID: "temporary"}
		old := create(t, s, temporary, "x")
		if err := s.Commit(t.Context(), cnm.Write{Key: temporary, Revision: old.Revision}); err != nil {
			t.Fatal(err)
		}
		if err := closing(); err != nil {
			t.Fatal(err)
		}
		s, closing = open()
		if _, err := s.Get(t.Context(), temporary); !errors.Is(err, cnm.ErrNotFound) {
			t.Errorf("a deleted record is back: %v", err)
		}
		again := create(t, s, temporary, "x")
		if again.Revision <= old.Revision {
			t.Errorf("revision %d was given out before the store was reopened", again.Revision)
		}
		if err := s.Commit(t.Context(), cnm.Write{Key: temporary, Revision: again.Revision}); err != nil {
			t.Fatal(err)
		}
		if err := closing(); err != nil {
			t.Fatal(err)
		}
	}
}
