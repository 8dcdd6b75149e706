package controller_test

import (
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// All endpoints of a sandbox are called otherwise at once, in records and index; a second time does nothing.
func TestRename(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "db", "10.2.0.0/24")
	s, _ := w.sandbox(t, "web", "db")
	w.told()
	for _, wantTold := range []int{2, 0} {
		if err := w.Rename(t.Context(), s.ID, "shop"); err != nil {
			t.Fatal(err)
		}
		if told := w.told(); len(told) != wantTold {
			t.Errorf("told: %v, want %d", told, wantTold)
		}
	}
	now, err := w.EndpointsOf(t.Context(), s.ID)
	if err != nil || len(now) != 2 {
		t.Fatalf("%v, %v", now, err)
	}
	for _, e := range now {
		rec, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindEndpoint, ID: e.ID})
		if err != nil || e.Name != "shop" || !strings.Contains(string(rec.Value), `"name":"shop"`) {
			t.Errorf("%s: %s, %v", e.Name, rec.Value, err)
		}
	}
	wantError(t, w.Rename(t.Context(), s.ID, "no name"), cnm.ErrInvalid)
	if err := w.Rename(t.Context(), "nobody", "shop"); err != nil {
		t.Error(err)
	}
}
