package cli_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/vethloom/vethloom/api/server"
	"github.com/vethloom/vethloom/api/server/fake"
	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/image"
	"github.com/vethloom/vethloom/engine/volume"
	"github.com/vethloom/vethloom/internal/cli"
	"github.com/vethloom/vethloom/internal/cluster"
	"github.com/vethloom/vethloom/internal/cluster/record"
	"github.com/vethloom/vethloom/internal/doctor"
)

// evil sets a terminal's title, clears it with a C1 control, and turns the direction of text.
const evil = "\x1b]0;pwned\x07\u009b2J\u202e"

// newNetd serves a domain in memory, for the time of a test.
func newNetd(t *testing.T) *netd { return newNetdFor(t, nil) }

// newNetdFor serves networks from elsewhere, unless that is nil.
func newNetdFor(t *testing.T, networks server.Networks) *netd {
	t.Helper()
	dir, err := os.MkdirTemp("", "net")
	if err != nil {
		t.Fatal(err)
	}
	n := &netd{domain: fake.New(), path: filepath.Join(dir, "s"), networks: networks}
	if err := n.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Error(err)
		}
		n.domain.Close()
		os.RemoveAll(dir)
	})
	return n
}

// Whatever containers, images, labels, other nodes and errors are called, no command writes a byte that a terminal
// takes for a command.
func TestNamesOfOthersDoNotDriveTheTerminal(t *testing.T) {
	n := newNetd(t)
	if _, _, err := n.domain.Create(t.Context(), engine.Spec{Name: "box", Image: "busybox", Command: []string{evil},
		User: evil, Env: []string{"A=" + evil}, Labels: map[string]string{"l": evil}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.domain.CreateVolume(t.Context(), volume.Request{Name: "data",
		Labels: map[string]string{"l": evil}}); err != nil {
		t.Fatal(err)
	}
	if _, err := n.domain.CreateNetwork(t.Context(),
		cnm.NetworkRequest{Name: "web", Labels: map[string]string{"l": evil}}); err != nil {
		t.Fatal(err)
	}
	n.domain.SetNodes(server.NodeView{NodeView: cluster.NodeView{Node: record.Node{ID: "n", Name: evil, Version: evil,
		Drivers: []string{evil}}, Alive: true}})
	n.domain.SetFindings(doctor.Finding{Check: "peers", Severity: doctor.Warning, Found: evil, Remedy: evil})
	n.domain.SetStatus(server.Status{Version: evil, Root: evil, Notices: []string{evil}, Cluster: &server.ClusterStatus{
		Store: evil, NodeName: evil, Problems: []string{evil}}})
	n.domain.SetRemote("evil.test/a:1", fake.Remote{Layers: 2, Size: 10, Text: evil})
	n.domain.SetChanges(server.FileChange{Kind: server.ChangeAdded, Path: "/" + evil})
	n.domain.SetProcesses(engine.Processes{Titles: []string{"PID", evil}, Rows: [][]string{{"1", evil}}})
	if err := n.domain.Edit("box", func(c *engine.Container) {
		c.Spec.Mounts = []engine.Mount{{Source: evil, Target: "/" + evil, Volume: true}}
		c.Spec.LogOptions = map[string]string{"labels": "l", "env": "A"}
		c.Health = &engine.Health{Status: evil, Log: []engine.HealthProbe{{Output: evil}}}
		c.Error = evil
	}); err != nil {
		t.Fatal(err)
	}
	n.domain.AddDamage(image.Damage{Object: evil, Problem: evil, Remedy: evil, Images: []string{evil}})
	if _, err := n.domain.Commit(t.Context(), server.CommitRequest{Container: "box", Reference: "mine",
		Author: evil}); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) (string, int) {
		var out bytes.Buffer
		app := cli.New("1.0", "abc")
		app.In, app.Out, app.Err = strings.NewReader(""), &out, &out
		app.Env = func(key string) (string, bool) {
			return map[string]string{"VETHLOOM_HOST": "unix://" + n.path}[key], key == "VETHLOOM_HOST"
		}
		code := app.Run(context.Background(), args)
		return out.String(), code
	}
	check := func(out string, args ...string) {
		t.Helper()
		if strings.ContainsFunc(out, func(r rune) bool {
			return r != '\n' && r != '\t' && unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r)
		}) {
			t.Errorf("net %s writes %q", strings.Join(args, " "), out)
		}
	}
	shown := 0
	for _, line := range []string{
		"ps -a", "ps -a --no-trunc", "ps -a --format json", "ps -a --format {{.Labels}}", "inspect box",
		"inspect -f {{.Config.User}} box", "volume ls --format {{.Labels}}", "volume inspect data",
		"network inspect web",
		"network inspect -f {{.Labels}} web", "network ls --format json", "node ls", "node ls --format json",
		"node inspect n",
		"node inspect -f {{.Name}} n", "status", "status --format json", "doctor", "doctor --format json",
		"doctor --format {{.Found}}", "image inspect busybox", "version",
		"pull --progress plain evil.test/a:1", "pull --progress json evil.test/a:1", "changes box",
		"changes --format json box", "system check", "image inspect mine", "image inspect -f {{.Author}} mine",
		"top box", "ps -a --no-trunc --format {{.Mounts}}", "ps -a --format {{.Health}}", "inspect -s box",
		"inspect -f {{.State.Error}} box", "inspect -f {{json .State.Health}} box", "stats --no-stream -a",
		"logs --details box", "container inspect box",
		"system df -v", "system df -v --format json", "history " + "mine",
	} {
		args := strings.Fields(line)
		out, _ := run(args...)
		check(out, args...)
		if strings.Contains(out, "pwned") {
			shown++
		}
	}
	if shown < 30 {
		t.Errorf("only %d commands show the texts at all: the test proves little", shown)
	}
	for method, args := range map[string][]string{
		"List": {"ps"}, "InspectNetwork": {"network", "inspect", "x"}, "Status": {"status"}, "Doctor": {"doctor"},
		"ListNodes": {"node", "ls"}, "Remove": {"rm", "box"}, "Start": {"start", "box"},
		"CreateVolume": {"volume", "create", "v"},
		"RemoveImage":  {"rmi", "busybox"}, "ListImages": {"images"}, "Create": {"run", "busybox"},
		"PullImage": {"pull", "x"}, "PushImage": {"push", "busybox"}, "RegistryHosts": {"pull", "x"},
		"SaveImages": {"save", "busybox"}, "ImageHistory": {"history", "busybox"}, "Commit": {"commit", "box"},
		"Changes": {"changes", "box"}, "Export": {"export", "box"}, "DiskUsage": {"system", "df"},
		"Top": {"top", "box"}, "Stats": {"stats", "box"}, "StatPath": {"cp", "box:/x", "."},
		"CopyIn": {"cp", "-", "box:/srv"}, "Rename": {"rename", "box", "b"}, "Update": {"update", "-m", "9m", "box"},
		"Stop": {"restart", "box"}, "Pause": {"pause", "box"}, "Unpause": {"unpause", "box"},
		"PruneContainers": {"container", "prune", "-f"},
		"PruneImages":     {"image", "prune", "-f"}, "CheckImages": {"system", "check"},
	} {
		n.domain.Fail(method, &cnm.Error{Kind: cnm.ErrInvalid, Field: "user", Value: evil, Reason: "is " + evil,
			Remedy: "choose " + evil, Cause: errors.New(evil)})
		out, code := run(args...)
		check(out, args...)
		if code == 0 || !strings.Contains(out, "pwned") {
			t.Errorf("net %s: exit code %d, %q", strings.Join(args, " "), code, out)
		}
		n.domain.Fail(method, nil)
	}
}
