package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/cli"
)

// present has who is on a network, of this node and of another one.
type present struct {
	server.Networks
	asked string
}

func (p *present) ListEndpoints(_ context.Context, network string) ([]server.EndpointView, error) {
	p.asked = network
	prefixes := []netip.Prefix{netip.MustParsePrefix("10.7.0.9/32"), netip.MustParsePrefix("fd07::9/128")}
	return []server.EndpointView{
		{NetworkName: "web", ContainerName: evil, Node: evil, Endpoint: cnm.Endpoint{ID: "b", Addrs: prefixes,
			Engine: cnm.EngineDocker, Created: time.Unix(60, 0)}},
		{NetworkName: "web", ContainerName: "db", Node: "n1", ContainerID: "0123456789abcdef",
			Endpoint: cnm.Endpoint{ID: "a"}, Path: &server.EndpointPath{}},
		{NetworkName: "web", ContainerName: "web", Node: "n2", Endpoint: cnm.Endpoint{ID: "c"},
			Path: &server.EndpointPath{Slow: "it has a rate"}},
	}, nil
}

// Who is on a network is listed by node and name, and what others are called does not drive the terminal.
func TestEndpointsOfAllEngines(t *testing.T) {
	p := &present{}
	n := newNetdFor(t, p)
	run := func(args ...string) string {
		t.Helper()
		var b bytes.Buffer
		app := cli.New("1.0", "abc")
		app.In, app.Out, app.Err = strings.NewReader(""), &b, &b
		app.Now = func() time.Time { return time.Unix(180, 0) }
		app.Env = func(key string) (string, bool) { return "unix://" + n.path, key == "VETHLOOM_HOST" }
		if code := app.Run(context.Background(), append([]string{"endpoint", "ls"}, args...)); code != 0 {
			t.Fatalf("net endpoint ls %v: %s", args, b.String())
		}
		return b.String()
	}
	lines := strings.Split(strings.TrimSpace(run("web")), "\n")
	if len(lines) != 4 || p.asked != "web" {
		t.Fatalf("of network %q:\n%s", p.asked, strings.Join(lines, "\n"))
	}
	for i, want := range []string{"NETWORK NAME ENGINE CONTAINER ID NODE ADDRESSES PATH CREATED",
		"10.7.0.9, fd07::9 2 minutes ago", "web db vethloom 0123456789ab n1 fast",
		"web web vethloom n2 slow"} {
		if got := strings.Join(strings.Fields(lines[i]), " "); !strings.Contains(got, want) {
			t.Errorf("line %d: %q, want %q", i, got, want)
		}
	}
	if out := strings.Join(lines, "\n"); strings.ContainsAny(out, "\x1b\u009b\u202e") {
		t.Errorf("a terminal's commands: %q", out)
	}
	if got := run("--no-trunc", "--format", "{{.ContainerID}}"); !strings.Contains(got, "0123456789abcdef\n") {
		t.Errorf("whole IDs: %q", got)
	}
	var row struct{ Network, Engine, Addresses, Node, Path, PathReason string }
	rows := strings.Split(strings.TrimSpace(run("--format", "json")), "\n")
	if err := json.Unmarshal([]byte(rows[0]), &row); err != nil || row.Network != "web" || row.Path != "" {
		t.Errorf("JSON %s: %+v, %v", rows[0], row, err)
	}
	if err := json.Unmarshal([]byte(rows[2]), &row); err != nil || row.Path != "slow" ||
		row.PathReason != "it has a rate" {
		t.Errorf("JSON %s: %+v, %v", rows[2], row, err)
	}
	if got := strings.Fields(run("-q")); len(got) != 3 {
		t.Errorf("IDs: %v", got)
	}
}
