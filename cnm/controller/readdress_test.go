package controller_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
)

// What a DHCP server decides of an endpoint is written, rendered and told; of one that is gone or going, nothing is.
func TestReaddress(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	s, es := w.sandbox(t, "web")
	w.told()
	w.fabric.passes = nil
	addrs := []netip.Prefix{netip.MustParsePrefix("10.1.0.77/24")}
	leased := &cnm.Leased{Router: netip.MustParseAddr("10.1.0.9")}
	e, err := w.Readdress(t.Context(), es[0].ID, addrs, leased)
	if err != nil || e.Sandbox != s.ID || !slices.Equal(e.Addrs, addrs) {
		t.Fatalf("%+v, %v", e, err)
	}
	now, err := w.EndpointsOf(t.Context(), s.ID)
	if err != nil || !slices.Equal(now[0].Addrs, addrs) || now[0].Leased != leased || now[0].MAC != es[0].MAC {
		t.Errorf("the endpoint is %+v, %v", now, err)
	}
	rec, err := w.store.Get(t.Context(), cnm.Key{Kind: cnm.KindEndpoint, ID: e.ID})
	if err != nil || !strings.Contains(string(rec.Value), `"10.1.0.77/24"`) {
		t.Errorf("its record is %s, %v", rec.Value, err)
	}
	if len(w.fabric.passes) != 1 || !slices.Equal(w.told(), []string{"endpoint renumber web"}) {
		t.Errorf("passes %v, want one, and one event", w.fabric.passes)
	}
	if err := w.Detach(t.Context(), s.ID, "web"); err != nil {
		t.Fatal(err)
	}
	_, err = w.Readdress(t.Context(), e.ID, nil, nil)
	wantError(t, err, cnm.ErrNotFound)
}
