package controller_test

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vethloom/vethloom/cnm"
)

func (w *world) update(t *testing.T, name string, c cnm.NetworkChange) cnm.Network {
	t.Helper()
	if _, err := w.UpdateNetwork(t.Context(), name, c); err != nil {
		t.Fatal(err)
	}
	n, err := w.Network(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	w.consistent(t)
	return n
}

func set(kv ...string) cnm.NetworkChange {
	c := cnm.NetworkChange{Options: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		c.Options[kv[i]] = kv[i+1]
	}
	return c
}

func TestUpdateNetwork(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.sandbox(t, "web")
	passes := len(w.fabric.passes)
	n := w.update(t, "web", cnm.NetworkChange{Labels: map[string]string{"a": "1", "b": "2"}})
	n = w.update(t, n.ID, cnm.NetworkChange{Labels: map[string]string{"a": "3"}, RemoveLabels: []string{"b", "c"}})
	if d := cmp.Diff(map[string]string{"a": "3"}, n.Labels); d != "" {
		t.Error(d)
	}
	if got := len(w.fabric.passes); got != passes {
		t.Errorf("labels took %d passes", got-passes)
	}
	n = w.update(t, "web", set("docker.known", "1"))
	n = w.update(t, "web", set("known", "2"))
	if d := cmp.Diff(map[string]string{"known": "2"}, n.Options); d != "" {
		t.Error(d)
	}
	if got := w.fabric.passes[len(w.fabric.passes)-1]; len(got) != 2 {
		t.Errorf("the last pass was over %v, want the network and its endpoint", got)
	}
	n = w.update(t, "web", cnm.NetworkChange{RemoveOptions: []string{"docker.known", "binding"}})
	if len(n.Options) > 0 {
		t.Errorf("options %v", n.Options)
	}
	if err := w.open(); err != nil { // a new daemon
		t.Fatal(err)
	}
	again, err := w.Network(t.Context(), "web")
	if err != nil || !cmp.Equal(n.Labels, again.Labels) || len(again.Options) > 0 {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	if i := slices.Index(w.events, "network update web"); i < 0 {
		t.Errorf("events %q", w.events)
	}
}

func TestUpdateNetworkRefuses(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	_, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Name: "box",
		Attach: []cnm.AttachRequest{{Network: "web"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change cnm.NetworkChange
		kind   error
		parts  []string
	}{
		{"wbe", set(), cnm.ErrNotFound, []string{`did you mean "web"`}},
		{"web", set("link", "br0"), cnm.ErrForbidden, []string{`option "link"`, "cannot change", "another network"}},
		{"web", set("what", "1"), cnm.ErrInvalid, []string{`"what"`, "unknown"}},
		{"web", cnm.NetworkChange{RemoveOptions: []string{"what"}}, cnm.ErrInvalid, []string{`"what"`}},
		{"web", set("known", "bad for box"), cnm.ErrInUse, []string{"box", "not one for this driver"}},
	} {
		if _, err := w.UpdateNetwork(t.Context(), c.name, c.change); true {
			wantError(t, err, c.kind, c.parts...)
		}
		if n, err := w.Network(t.Context(), "web"); err != nil || len(n.Options) > 0 {
			t.Errorf("%v: afterwards %v, %v", c.change, n.Options, err)
		}
	}
	// What the kernel does not take is taken back.
	refused := errors.New("the kernel says no")
	w.fabric.check = func(cnm.Endpoint) error {
		if n, err := w.Network(t.Context(), "web"); err == nil && n.Options["known"] == "1" {
			return refused
		}
		return nil
	}
	if _, err := w.UpdateNetwork(t.Context(), "web", set("known", "1")); !errors.Is(err, refused) {
		t.Errorf("a refusal of the kernel: %v", err)
	}
	if n, err := w.Network(t.Context(), "web"); err != nil || len(n.Options) > 0 {
		t.Errorf("afterwards %v, %v", n.Options, err)
	}
	w.consistent(t)
}

// Ports that name no address of the host move to the one that the network publishes on, and others stay.
func TestUpdateMovesPorts(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	own := netip.MustParseAddr("192.0.2.1")
	s, _, err := w.CreateSandbox(t.Context(), cnm.SandboxRequest{Attach: []cnm.AttachRequest{{Network: "web"}},
		Ports: []cnm.PortMapping{{Proto: "tcp", HostPort: 8080, Port: 80, Count: 1},
			{Proto: "tcp", HostPort: 8081, HostIP: own, Port: 81, Count: 1},
			{Proto: "tcp", Port: 82, Count: 1, Dynamic: true}}})
	if err != nil {
		t.Fatal(err)
	}
	ports := func() (at []string) {
		t.Helper()
		ends, err := w.EndpointsOf(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range ends[0].Ports {
			at = append(at, p.String())
		}
		slices.Sort(at)
		return at
	}
	before := ports()
	w.update(t, "web", set("binding", "192.0.2.7"))
	moved := ports()
	if slices.Equal(before, moved) || !slices.ContainsFunc(moved, func(p string) bool {
		return p == "192.0.2.1:8081:81/tcp"
	}) || !slices.ContainsFunc(moved, func(p string) bool { return p == "192.0.2.7:8080:80/tcp" }) {
		t.Errorf("moved to %v", moved)
	}
	w.update(t, "web", cnm.NetworkChange{RemoveOptions: []string{"binding"}})
	if d := cmp.Diff(before, ports()); d != "" {
		t.Error(d)
	}
}

// A network that becomes internal gives its endpoints' default routes to nobody's harm, and has them back.
func TestUpdateToInternalAndBack(t *testing.T) {
	w := newWorld(t, nil)
	w.network(t, "web", "10.1.0.0/24")
	w.network(t, "back", "10.2.0.0/24")
	yes, no := true, false
	w.update(t, "web", cnm.NetworkChange{Internal: &yes})
	s, _ := w.sandbox(t, "web")
	plain := func() (names []string) {
		t.Helper()
		ends, err := w.EndpointsOf(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range ends {
			if n, err := w.Network(t.Context(), e.Network); err == nil && e.Plain {
				names = append(names, n.Name)
			}
		}
		return names
	}
	if got := plain(); len(got) > 0 {
		t.Errorf("internal: the default route is of %v", got)
	}
	w.update(t, "web", cnm.NetworkChange{Internal: &no})
	if got := plain(); !slices.Equal(got, []string{"web"}) {
		t.Errorf("no longer internal: the default route is of %v", got)
	}
	w.update(t, "web", cnm.NetworkChange{Internal: &yes})
	if _, err := w.Attach(t.Context(), s.ID, cnm.AttachRequest{Network: "back"}); err != nil {
		t.Fatal(err)
	}
	w.update(t, "web", cnm.NetworkChange{Internal: &no})
	if got := plain(); !slices.Equal(got, []string{"back"}) {
		t.Errorf("with another network: the default route is of %v", got)
	}
}

func TestUpdateOfAClusterNetwork(t *testing.T) {
	w, c := newCluster(t, nil)
	n := w.shared(t, "overlay", "app")
	w.sandbox(t, "app")
	w.update(t, "app", set("known", "1"))
	if got := c.networks[n.ID].Options["known"]; got != "1" {
		t.Errorf("the cluster has %q", got)
	}
	if err := c.sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Network(t.Context(), "app"); err != nil || n.Options["known"] != "1" {
		t.Errorf("%v, %v", n.Options, err)
	}
	yes := true
	for _, change := range []cnm.NetworkChange{{Internal: &yes}, set("binding", "192.0.2.1")} {
		if _, err := w.UpdateNetwork(t.Context(), "app", change); true {
			wantError(t, err, cnm.ErrForbidden, "other nodes", "another network")
		}
	}
	c.err = cnm.ErrUnavailable
	if _, err := w.UpdateNetwork(t.Context(), "app", set("known", "2")); !errors.Is(err, cnm.ErrUnavailable) {
		t.Errorf("without the cluster: %v", err)
	}
	if n, err := w.Network(t.Context(), "app"); err != nil || n.Options["known"] != "1" {
		t.Errorf("without the cluster: %v, %v", n.Options, err)
	}
	w.consistent(t)
}
