package cli_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/vethloom/vethloom/internal/cli"
)

// call runs a command line against a netd.
func (n *netd) call(t *testing.T, args ...string) (out, errs string, code int) {
	t.Helper()
	var o, e bytes.Buffer
	a := cli.New("test", "test")
	a.Out, a.Err = &o, &e
	a.Env = func(name string) (string, bool) { return "unix://" + n.path, name == "VETHLOOM_HOST" }
	code = a.Run(t.Context(), args)
	return o.String(), e.String(), code
}

// What a container asks for may be anything: names, and the container's own name, are shown and not obeyed.
func TestQuestionsDoNotDriveTheTerminal(t *testing.T) {
	n := newNetd(t)
	for _, args := range [][]string{{"dns", "log", evil}, {"dns", "lookup", "web", evil},
		{"dns", "lookup", evil, "no" + evil}} {
		out, errs, code := n.call(t, args...)
		if code != 0 || out == "" {
			t.Errorf("%q: exit code %d: %s%s", args, code, out, errs)
		}
		for _, r := range out + errs {
			if r != '\n' && r != '\t' && (unicode.IsControl(r) || unicode.Is(unicode.Cf, r)) {
				t.Errorf("%q writes %q of %q", args, r, out+errs)
				break
			}
		}
	}
}

// Every form of the log has the same questions.
func TestFormsOfTheLogOfQuestions(t *testing.T) {
	n := newNetd(t)
	if out, errs, code := n.call(t, "dns", "log", "blank"); code != 0 || !strings.Contains(out, "db A -> , ") {
		t.Errorf("an answer without a text: %d %q %q", code, out, errs)
	}
	out, _, _ := n.call(t, "dns", "log", "front", "--format", "json")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("as JSON: %s", out)
	}
	for i, want := range []struct {
		Name, Source string
		Lost         int
	}{{"db", "names", 0}, {"example.org", "192.0.2.53", 3}} {
		got := want
		if err := json.Unmarshal([]byte(lines[i]), &got); err != nil || got != want {
			t.Errorf("line %d: %s: %v", i, lines[i], err)
		}
	}
	if out, errs, code := n.call(t, "dns", "log", "--format", "{{.Nothing}}"); code == 0 || out != "" ||
		!strings.Contains(errs, "Nothing") {
		t.Errorf("a template that is wrong: %d %q %q", code, out, errs)
	}
	if out, errs, code := n.call(t, "dns", "lookup", "web", "db", "--format", "{{"); code == 0 || out != "" ||
		!strings.Contains(errs, "template") {
		t.Errorf("a template that cannot be read: %d %q %q", code, out, errs)
	}
	if out, _, code := n.call(t, "dns", "lookup", "web", "db", "--format", "{{.Type}} {{len .Records}}"); code != 0 ||
		out != "A 1\n" {
		t.Errorf("by a template: %d %q", code, out)
	}
}
