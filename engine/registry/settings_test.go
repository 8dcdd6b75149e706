package registry

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/vethloom/vethloom/cnm"
	"github.com/vethloom/vethloom/internal/golden"
	"github.com/vethloom/vethloom/internal/registrytest"
)

// layouts are settings, and what is asked for with them.
var layouts = []struct {
	name       string
	hosts      map[string]string // hosts.toml by folder
	registries string
	refs       []string
}{
	{name: "nothing", refs: []string{"busybox", "index.docker.io/team/app:1",
		"Example.org:5000/x@sha256:" + strings.Repeat("a", 64),
		"localhost/x", "127.0.0.1:5000/x", "[::1]:5000/x"}},
	{name: "hosts.toml", hosts: map[string]string{"docker.io": `
server = "https://docker.io"
[host."https://z.example"]
  capabilities = ["pull", "resolve"]
[host."http://a.example:5000"]
  capabilities = ["pull"]
[host."https://harbor.example/v2/hub"]
  override_path = true
[host."https://other.example/path"]
[host."https://push.example"]
  capabilities = ["push"]
`}, refs: []string{"busybox", "docker.io/team/app:1", "example.org/x"}},
	{name: "_default", hosts: map[string]string{"_default": "[host.\"https://mirror.example\"]\n",
		"own.example_5000_": "server = \"https://else.example\"\n"},
		registries: "[[registry]]\nlocation = \"conf.example\"\n[[registry.mirror]]\nlocation = \"m.example\"\n",
		refs:       []string{"busybox", "own.example:5000/x", "conf.example/x"}},
	{name: "both", hosts: map[string]string{"both.example": "server = \"https://hosts.example\"\n"},
		registries: "[[registry]]\nprefix = \"both.example\"\nlocation = \"conf.example\"\n",
		refs:       []string{"both.example/x"}},
	{name: "registries.conf", registries: `
unqualified-search-registries = ["quay.example"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example:5000/hub"
[[registry.mirror]]
location = "plain.example"
insecure = true
[[registry]]
prefix = "docker.io/team"
location = "team.example/all/"
[[registry]]
prefix = "*.wild.example"
insecure = true
[[registry]]
prefix = "by.example"
location = "by.example"
[[registry.mirror]]
location = "digest.example"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "tag.example"
pull-from-mirror = "tag-only"
[[registry]]
prefix = "only.example"
mirror-by-digest-only = true
location = "only.example"
[[registry.mirror]]
location = "digest.example"
`, refs: []string{
		"busybox", "docker.io/team/app:1", "docker.io/teams/app:1", "a.wild.example:5000/x", "a.b.wild.example/x",
		"wild.example/x", "by.example/x:1", "by.example/x@sha256:" + strings.Repeat("a", 64), "by.example:5000/x",
		"only.example/x:1"}},
}

func TestEndpoints(t *testing.T) {
	var text strings.Builder
	for _, l := range layouts {
		h := newHost(t)
		for folder, toml := range l.hosts {
			h.hosts(folder, toml)
		}
		if l.registries != "" {
			h.registries(l.registries)
		}
		fmt.Fprintf(&text, "%s\n", l.name)
		for _, ref := range l.refs {
			for _, push := range []bool{false, true} {
				all, err := h.Endpoints(ref, push)
				if err != nil {
					t.Errorf("%s: %s: %v", l.name, ref, err)
				}
				fmt.Fprintf(&text, "  %s push=%t\n", ref, push)
				for _, e := range all {
					fmt.Fprintf(&text, "    %s %s mirror=%t credential=%s config=%s\n", e.URL, e.Repository, e.Mirror,
						e.Host, e.ConfigKey)
				}
			}
		}
	}
	golden.Equal(t, "endpoints.txt", text.String())
}

// Settings that are not right are refused with the file, the place and what to do.
func TestSettingsThatAreNotRight(t *testing.T) {
	var text strings.Builder
	for _, c := range []struct{ hosts, registries string }{
		{hosts: "server = "}, {hosts: "skip_verify = 1"}, {hosts: "server = \"ftp://x\""},
		{hosts: "server = \"https://a:b@x\""},
		{hosts: "server = \"https://x?y\""}, {hosts: "server = \"https://../x\""}, {hosts: "ca = 5"},
		{hosts: "ca = [\"a\", 1]"},
		{hosts: "client = [[\"a\", \"b\", \"c\"]]"}, {hosts: "capabilities = [\"fly\"]"}, {hosts: "[host.\"://\"]"},
		{hosts: "[host.\"https://m\".header]\nx = 1"}, {hosts: "[header]\n\"a b\" = \"c\""}, {hosts: "host = 5"},
		{hosts: "ca = \"missing.crt\"\nclient = \"missing.pem\""},
		{registries: "[[registry]]"}, {registries: "[[registry]]\nlocation = \"https://x\""},
		{registries: "[[registry]]\nprefix = \"a b\""},
		{registries: "[[registry]]\nlocation = \"x\"\n[[registry.mirror]]"}, {registries: "x = [\n"},
		{registries: "[[registry]]\nlocation = \"x\"\n" +
			"[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"no\""},
		{registries: "[[registry]]\nlocation = \"x\"\nmirror-by-digest-only = true\n" +
			"[[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"all\""},
		{registries: "[registries.block]\nregistries = [\"x\"]"},
		{registries: "[[registry]]\nlocation = \"x.example\"\nblocked = true"},
		{registries: "[[registry]]\nprefix = \"x.example/a\"\nlocation = \"y.example\""},
	} {
		h := newHost(t)
		if c.hosts != "" {
			h.hosts("x.example", c.hosts)
		}
		h.registries(c.registries)
		_, err := h.Endpoints("x.example/a:1", false)
		if err == nil { // what is only needed for a connection
			_, _, err = h.repository("x.example/a:1").Manifest(t.Context(), "1")
		}
		if err == nil {
			t.Errorf("%+v is taken", c)
			continue
		}
		shown := strings.NewReplacer(h.dir, "/certs.d", h.conf, "/registries.conf").Replace(err.Error())
		fmt.Fprintf(&text, "%s\n\t%s\n", strings.ReplaceAll(c.hosts+c.registries, "\n", " | "), shown)
		if !strings.Contains(shown, "/certs.d/x.example") && !strings.Contains(shown, "/registries.conf") {
			t.Errorf("no file is named: %v", err)
		}
	}
	golden.Equal(t, "settings.txt", text.String())
}

func TestReferencesThatAreNotRight(t *testing.T) {
	h := newHost(t)
	for _, ref := range []string{"", "A/B", "../x", "..:5000/x", "a..b/x@sha256:1", "x:", "user@host/x",
		"_default.x/y", "\x1b[2J", "x/..", strings.Repeat("a", 600)} {
		_, err := h.Endpoints(ref, false)
		if !errors.Is(err, cnm.ErrInvalid) || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%q: %v", ref, err)
		}
	}
}

// Folders of files are read in the order of their names, and the later table of a prefix counts.
func TestDropIns(t *testing.T) {
	h := newHost(t)
	dir := filepath.Join(t.TempDir(), "conf.d")
	h.settings.files = append(h.settings.files, dir)
	h.registries("[[registry]]\nlocation = \"x.example\"\nblocked = true\n")
	if _, err := h.Endpoints("x.example/a", false); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("%v", err)
	}
	h.hosts("x.example", "server = \"https://x.example\"\n") // does not lift it
	if _, err := h.Endpoints("x.example/a", true); !errors.Is(err, cnm.ErrForbidden) {
		t.Errorf("%v", err)
	}
	registrytest.Write(t, []byte("[[registry]]\nlocation = \"x.example\"\n"), dir, "20.conf")
	registrytest.Write(t, []byte("[[registry]]\nlocation = \"x.example\"\nblocked = true\n"), dir, "10.conf")
	registrytest.Write(t, []byte("nonsense"), dir, "30.conf.off")
	if _, err := h.Endpoints("x.example/a", false); err != nil {
		t.Error(err)
	}
}

// What is no regular file, or has no end, is not read.
func TestFilesThatAreNone(t *testing.T) {
	h := newHost(t)
	fifo := filepath.Join(h.dir, "x.example", "hosts.toml")
	if err := os.MkdirAll(filepath.Dir(fifo), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Endpoints("x.example/a", false); err == nil || !strings.Contains(err.Error(),
		"is not a regular file") {
		t.Errorf("a pipe: %v", err)
	}
	if err := os.Remove(fifo); err != nil {
		t.Fatal(err)
	}
	h.hosts("x.example", strings.Repeat("#\n", maxFile))
	if _, err := h.Endpoints("x.example/a", false); err == nil || !strings.Contains(err.Error(), "has more than") {
		t.Errorf("a large file: %v", err)
	}
	h.hosts("x.example", "client = \"/dev/zero\"\nca = \"/dev/zero\"\n")
	if _, _, err := h.repository("x.example/a").Manifest(t.Context(), "1"); err == nil ||
		!strings.Contains(err.Error(), "is not a regular file") {
		t.Errorf("a device: %v", err)
	}
}
