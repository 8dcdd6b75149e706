package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/internal/lab"
	"github.com/vethloom/vethloom/internal/lab/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// netlab runs the program and gives its output, both streams, and its exit code.
func netlab(t *testing.T, args ...string) (string, int) {
	t.Helper()
	cmd := exec.Command(filepath.Join(labtest.Bin(t), "netlab"), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func TestALabFromTheCommandLine(t *testing.T) {
	name := labtest.Name()
	t.Cleanup(func() {
		if left := labtest.Left(lab.DefaultDir, name); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
	defer netlab(t, "down", "--name", name)
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"up --nodes 2 --etcd none --no-image", 0, "lab " + name + ": 2 nodes"},
		{"up", 1, "exists: netlab down --name " + name},
		{"ls", 0, "192.0.2.2"},
		{"ls -q", 0, name + "\n"},
		{"exec n1 -- sh -c exit\\ 7", 7, ""},
		{"exec n1 ip -brief addr show eth0", 0, "192.0.2.1/24"},
		{"exec n1 net status", 0, ""},
		{"exec n9 -- true", 1, `host "n9": lab`},
		{"exec n1 --", 1, "which command?"},
		{"fault cut n2", 0, ""},
		{"ls", 0, "cable pulled"},
		{"fault heal", 0, ""},
		{"fault kill n2", 0, ""},
		{"ls", 0, "stopped"},
		{"fault kill n2", 1, "netlab fault start n2"},
		{"fault start n2", 0, ""},
		{"fault cut", 1, "wants HOST"},
		{"down", 0, ""},
		{"down", 0, ""},
		{"exec n1 -- true", 1, "no such lab"},
		{"run 99", 1, "there is none"},
	} {
		args := []string{"--name", name}
		for arg := range strings.FieldsSeq(strings.ReplaceAll(c.args, `\ `, "\x00")) {
			args = append(args, strings.ReplaceAll(arg, "\x00", " "))
		}
		out, code := netlab(t, args...)
		if code != c.code || !strings.Contains(out, c.want) {
			t.Errorf("netlab %s: exit code %d, want %d with %q:\n%s", c.args, code, c.code, c.want, out)
		}
	}
}

func TestRunShowsALabAndRemovesIt(t *testing.T) {
	name := labtest.Name()
	out, code := netlab(t, "run", "--name", name, "01")
	for _, want := range []string{"A network namespace", "n1$ ip -brief link show left", "left@if", "✓"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit code %d, without %q:\n%s", code, want, out)
		}
	}
	wrong := filepath.Join(t.TempDir(), "wrong.md")
	if err := os.WriteFile(wrong,
		[]byte("# Wrong\n```lab\n--nodes 1 --etcd none --no-image\n```\n```run\nn1$ echo a\n```\n```expect\nb\n```\n"),
		0o644); err != nil {
		t.Fatal(err)
	}
	out, code = netlab(t, "run", "--name", name, wrong)
	if code != 1 || !strings.Contains(out, wrong+": line 9: the output has no b") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
	if left := labtest.Left(lab.DefaultDir, name); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func TestListNamesEveryLab(t *testing.T) {
	out, code := netlab(t, "list")
	if code != 0 || !strings.Contains(out, "01-namespace") || !strings.Contains(out, "08-failure") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}

func TestOnlyRootHasLabs(t *testing.T) {
	// As nobody, from a place that nobody may read.
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join(labtest.Bin(t), "netlab"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "netlab")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", path, "up").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "needs root") {
		t.Errorf("%v: %s", err, out)
	}
}
