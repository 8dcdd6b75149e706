package cli_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/internal/cli"
)

// TestStatusOfPaths shows what of each network took which path, and why there is no fast one.
func TestStatusOfPaths(t *testing.T) {
	n := newNetd(t)
	run := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		app := cli.New("1.0", "abc")
		app.In, app.Out, app.Err = strings.NewReader(""), &out, &out
		app.Env = func(key string) (string, bool) { return "unix://" + n.path, key == "VETHLOOM_HOST" }
		if code := app.Run(context.Background(), args); code != 0 {
			t.Fatalf("net %v: exit code %d: %s", args, code, out.String())
		}
		return out.String()
	}
	for _, c := range []struct {
		f    server.FastPath
		want []string
		not  string
	}{
		{server.FastPath{State: "off"}, []string{"Fast path:   off\n"}, "packets"},
		{server.FastPath{State: "none: the kernel has no fast path"},
			[]string{"Fast path:   none: the kernel has no fast path\n"}, "packets"},
		{server.FastPath{State: "on", Counts: []server.PathCount{
			{Network: "db", Reason: "size", Packets: 2, Bytes: 3000},
			{Network: "web", Fast: true, Packets: 1200, Bytes: 3_600_000},
			{Network: "web", Reason: "sender", Packets: 3},
			{Network: "web", Reason: "published", Packets: 4},
		}}, []string{
			"\ndb: 0 packets (0B) took the fast path, 2 the slow one (2 size)\n",
			"\nweb: 1200 packets (3.6MB) took the fast path, 7 the slow one (3 sender, 4 published)\n",
		}, "db: 1200"},
		{server.FastPath{State: "on", Counts: []server.PathCount{{Network: "web", Fast: true, Packets: 1}}},
			[]string{"\nweb: 1 packets (0B) took the fast path, 0 the slow one\n"}, "one ("},
	} {
		n.domain.SetStatus(server.Status{Version: "1.0", FastPath: c.f})
		got := run("status")
		for _, want := range c.want {
			if !strings.Contains(got, want) {
				t.Errorf("status of %+v:\n%s\nlacks %q", c.f, got, want)
			}
		}
		if strings.Contains(got, c.not) {
			t.Errorf("status of %+v:\n%s\nhas %q", c.f, got, c.not)
		}
		if state := run("status", "-f", "{{.FastPath.State}}"); state != c.f.State+"\n" {
			t.Errorf("state %q, want %q", state, c.f.State)
		}
	}
}
