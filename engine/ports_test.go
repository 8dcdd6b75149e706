package engine_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
)

// A container's ports are its record's: of one that runs, of one that does not, and over restarts of netd.
func TestPortsAreKept(t *testing.T) {
	w := newWorld(t)
	parse := func(specs ...string) (out []cnm.PortMapping) {
		t.Helper()
		for _, s := range specs {
			m, err := cnm.ParsePort(s)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, m)
		}
		return out
	}
	change := func(add, remove []string) error {
		t.Helper()
		return w.e.ChangePorts(t.Context(), "web", parse(add...), parse(remove...))
	}
	is := func(want ...string) {
		t.Helper()
		var got []string
		for _, m := range w.inspect("web").Spec.Ports {
			got = append(got, m.String())
		}
		if !slices.Equal(got, want) {
			t.Errorf("ports %v, want %v", got, want)
		}
	}
	c := w.create(engine.Spec{Name: "web", Image: "busybox", Command: []string{"sleep", "1000"},
		Networks: []cnm.AttachRequest{{Network: "front"}}, Ports: parse("8080:80")})
	if err := change([]string{"8081:80", "81"}, nil); err != nil { // created, not started
		t.Error(err)
	}
	is("8080:80/tcp", "8081:80/tcp", "81/tcp")
	if err := w.e.Start(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := change([]string{"127.0.0.1:90-92:90-92/udp"}, []string{"80"}); err != nil {
		t.Error(err)
	}
	is("81/tcp", "127.0.0.1:90-92:90-92/udp")
	for _, refused := range []struct {
		add, remove []string
		kind        error
		words       string
	}{
		{nil, []string{"81", "80"}, cnm.ErrNotFound, "web does not publish it; see 'net port ls web'"},
		{nil, []string{"91:91/udp"}, cnm.ErrNotFound, "it publishes 127.0.0.1:90-92:90-92/udp"},
		{nil, []string{"32768:81"}, cnm.ErrNotFound,
			"netd has picked the host port; name the container's port alone: 81"},
		{[]string{"91:1/udp"}, []string{"81"}, cnm.ErrExists, "publishes 127.0.0.1:90-92:90-92/udp already"},
		{[]string{"70:1", "70:2"}, nil, cnm.ErrInvalid, "publish each host port once"},
	} {
		err := change(refused.add, refused.remove)
		if !errors.Is(err, refused.kind) || !strings.Contains(err.Error(), refused.words) {
			t.Errorf("%v, %v: %v", refused.add, refused.remove, err)
		}
	}
	w.nets.fail = errors.New("no such luck")
	if err := change([]string{"70:70"}, nil); !errors.Is(err, w.nets.fail) {
		t.Errorf("a refused change: %v", err)
	}
	w.nets.fail = nil
	is("81/tcp", "127.0.0.1:90-92:90-92/udp")
	w.restart()
	is("81/tcp", "127.0.0.1:90-92:90-92/udp")
	if _, err := w.e.Remove(t.Context(), "web", true, false); err != nil {
		t.Error(err)
	}
	// Those before the last are the restart's: a netd that was killed may have changed more, or less, than the record
	// says.
	want := []string{"publish 3", "publish 2", "publish 3", "publish 2", "rename web", "publish 0"}
	if calls := w.nets.calls; !slices.Equal(calls, want) {
		t.Errorf("the controller was asked for %v, want %v", calls, want)
	}
}

// A container without a network of its own has no ports of its own.
func TestPortsOfOthersNetworks(t *testing.T) {
	w := newWorld(t)
	sleep := engine.Spec{Image: "busybox", Command: []string{"sleep", "1000"}}
	for name, c := range map[string]struct {
		network string
		words   string
	}{
		"onhost":  {"host", "has the host's ports already"},
		"shared":  {"container:web", "its network is that of another container"},
		"apart":   {"none", "no network that container apart is on can publish ports"},
		"removed": {"nowhere", ""},
	} {
		if c.network == "container:web" {
			web := sleep
			web.Name = "web"
			w.create(web)
		}
		s := sleep
		s.Name, s.Networks = name, []cnm.AttachRequest{{Network: c.network}}
		w.create(s)
		err := w.e.ChangePorts(t.Context(), name, []cnm.PortMapping{{HostPort: 80, Port: 80}}, nil)
		if c.words == "" && err != nil || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
