package single

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The walk of docs/engines.md with the specification's own tool runs as it is written, but for the paths: a plugin and
// a socket of this test's, and a name of a namespace that nobody else has.
func TestWalkWithCNITool(t *testing.T) {
	n := newNode(t)
	page, err := os.ReadFile("../../../docs/engines.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## CNI\n")
	section, _, _ = strings.Cut(section, "\n### ")
	dir := t.TempDir()
	tool := filepath.Join(dir, "cnitool")
	if out, err := exec.Command("go", "build", "-o", tool,
		"github.com/containernetworking/cni/cnitool").CombinedOutput(); err != nil {
		t.Fatalf("build cnitool: %v: %s", err, out)
	}
	pod := fmt.Sprintf("vethloom-walk-%d", os.Getpid())
	t.Cleanup(func() { n.Run("ip", "netns", "del", pod) })
	here := strings.NewReplacer("/opt/cni/bin", filepath.Dir(program(t, "vethloom-cni")), "pod1", pod,
		`"type": "vethloom-cni"`, `"type": "vethloom-cni", "socket": "`+filepath.Join(n.RunDir, "attach.sock")+`"`,
		"cnitool ", tool+" ", "net network ", "network ")
	var config, answer []string
	var steps [][2]string // a command and what it answers
	for line := range strings.Lines(section) {
		text, code := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		switch command, prompt := strings.CutPrefix(text, "$ "); {
		case !code:
		case prompt:
			steps = append(steps, [2]string{here.Replace(command)})
		case len(steps) > 0:
			steps[len(steps)-1][1] += here.Replace(text) + "\n"
		case strings.HasPrefix(text, "net network create"):
			n.ok(strings.Fields(here.Replace(text))...)
		case strings.HasPrefix(text, "{") || len(config) > 0:
			config = append(config, here.Replace(text))
		}
	}
	if len(steps) != 3 || len(config) == 0 {
		t.Fatalf("the walk has %d commands and the configuration %q: it is written in another way", len(steps), config)
	}
	list := filepath.Join(dir, "10-web.conflist")
	if err := os.WriteFile(list, []byte(strings.Join(config, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	chosen := regexp.MustCompile(`vle-[0-9a-f]{8}|([0-9a-f]{2}:){5}[0-9a-f]{2}`)
	for _, s := range steps {
		got := n.Sh("NETCONFPATH=" + dir + " " + s[0])
		answer = append(answer, got)
		want, _, _ := strings.Cut(s[1], "    …")
		if got, want := chosen.ReplaceAllString(got, "X"), chosen.ReplaceAllString(want, "X"); !strings.HasPrefix(got,
			want) {
			t.Errorf("%s answers\n%swant\n%s", s[0], got, want)
		}
	}
	matches(t, "the second command answers", answer[1], `(?s)"ips": .*"routes": `)
	is(t, "containers on web", n.attached(), "0")
}
