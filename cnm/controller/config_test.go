package controller_test

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
)

func TestConfigOnlyNetwork(t *testing.T) {
	w := newWorld(t, nil)
	p := netip.MustParsePrefix("10.1.0.0/24")
	pools := []cnm.PoolRequest{{Subnet: p, Gateway: netip.MustParseAddr("10.1.0.9")}, {IPv6: true, Bits: 64}}
	c, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "cfg", ConfigOnly: true, Pools: pools,
		Options: map[string]string{"known": "1"}, Labels: map[string]string{"a": "1", "b": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	if !c.ConfigOnly || c.Driver != "null" || len(c.Pools) > 0 {
		t.Errorf("made as %+v", c)
	}
	if err := w.open(); err != nil { // a new daemon
		t.Fatal(err)
	}
	n, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "web", ConfigFrom: c.ID, Internal: true,
		Labels: map[string]string{"b": "3"}})
	if err != nil {
		t.Fatal(err)
	}
	if n.Driver != "bridge" || len(n.Pools) != 2 || n.Pools[0].Subnet != p || n.Pools[0].Gateway != pools[0].Gateway ||
		n.ConfigFrom != "cfg" || n.ConfigOnly || !n.IPv6 || !n.Internal {
		t.Errorf("made from it: %+v", n)
	}
	if d := cmp.Diff(map[string]string{"a": "1", "b": "3"}, n.Labels) + cmp.Diff(map[string]string{"known": "1"},
		n.Options); d != "" {
		t.Error(d)
	}
	w.sandbox(t, "web")
	_, err = w.DeleteNetwork(t.Context(), "cfg")
	wantError(t, err, cnm.ErrInUse, "made from it is web", "remove")
	if names, err := w.PruneNetworks(t.Context(), every); err != nil || len(names) > 0 {
		t.Errorf("pruned %v, %v", names, err)
	}
	w.consistent(t)
}

func TestConfigOnlyRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	if _, err := w.CreateNetwork(t.Context(), cnm.NetworkRequest{Name: "cfg", ConfigOnly: true}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		r     cnm.NetworkRequest
		kind  error
		parts []string
	}{
		{cnm.NetworkRequest{Name: "x", ConfigOnly: true, Driver: "bridge"}, cnm.ErrInvalid, []string{"driver"}},
		{cnm.NetworkRequest{Name: "x", ConfigOnly: true, ConfigFrom: "cfg"}, cnm.ErrInvalid, []string{"leave out one"}},
		{cnm.NetworkRequest{Name: "x", ConfigOnly: true, Internal: true}, cnm.ErrInvalid, []string{"internal"}},
		{cnm.NetworkRequest{Name: "host", ConfigOnly: true}, cnm.ErrExists, []string{"builtin"}},
		{cnm.NetworkRequest{Name: "web", ConfigOnly: true}, cnm.ErrExists, []string{"web"}},
		{cnm.NetworkRequest{Name: "x", ConfigFrom: "web"}, cnm.ErrInvalid, []string{"config-only"}},
		{cnm.NetworkRequest{Name: "x", ConfigFrom: "cfh"}, cnm.ErrNotFound, []string{`did you mean "cfg"`}},
		{cnm.NetworkRequest{Name: "x", ConfigFrom: "cfg", IPv6: true}, cnm.ErrInvalid, []string{"leave them out"}},
		{cnm.NetworkRequest{Name: "x", ConfigFrom: "cfg", Options: map[string]string{"known": "1"}}, cnm.ErrInvalid,
			[]string{"options come from there"}},
	} {
		_, err := w.CreateNetwork(t.Context(), c.r)
		wantError(t, err, c.kind, c.parts...)
	}
	_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "cfg"}}})
	wantError(t, err, cnm.ErrForbidden, "configuration of others", "--config-from cfg")
	s, _ := w.sandbox(t, "web")
	_, err = w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "cfg"})
	wantError(t, err, cnm.ErrForbidden, "configuration of others")
	_, err = w.UpdateNetwork(t.Context(), "cfg", set("known", "1"))
	wantError(t, err, cnm.ErrForbidden, "only the labels")
	if _, err := w.DeleteNetwork(t.Context(), "cfg"); err != nil {
		t.Error(err)
	}
	w.consistent(t)
}
