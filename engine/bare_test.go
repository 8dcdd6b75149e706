package engine_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vethloom/vethloom/engine"
	"github.com/vethloom/vethloom/engine/shim/shimtest"
)

// An image may have nothing but one program: no /etc, no users, no directories.
func TestBareImage(t *testing.T) {
	shimtest.Copier(t)
	w := newWorld(t)
	entries, err := os.ReadDir(w.images.root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Name() != "bin" {
			if err := os.RemoveAll(filepath.Join(w.images.root, e.Name())); err != nil {
				t.Fatal(err)
			}
		}
	}
	host := t.TempDir()
	shimtest.Write(t, filepath.Join(host, "file"), "of the host\n")
	for name, c := range map[string]struct {
		spec engine.Spec
		do   string
		want string
	}{
		"as it is": {engine.Spec{Hostname: "bare"}, "cat /etc/hostname; ls -d /proc/1 /sys/class /dev/null; pwd; id -u",
			"bare\n/dev/null\n/proc/1\n/sys/class\n/\n0\n"},
		"a user by number":       {engine.Spec{User: "1000:2000"}, "id -u; id -g; echo $HOME", "1000\n2000\n/\n"},
		"a directory to work in": {engine.Spec{WorkDir: "/srv/deep/work"}, "pwd; touch x; ls", "/srv/deep/work\nx\n"},
		"mounts": {engine.Spec{Mounts: []engine.Mount{{Source: host, Target: "/a/b"},
			{Target: "/run", Tmpfs: &engine.Tmpfs{}},
			{Target: "/v/w", Volume: true}, {Source: filepath.Join(host, "file"), Target: "/c/d/e"}}},
			"cat /a/b/file /c/d/e; touch /run/x /v/w/y; ls /run /v/w",
			"of the host\nof the host\n/run:\nx\n\n/v/w:\ny\n"},
		"read-only": {engine.Spec{Options: engine.Options{ReadOnly: true}, Mounts: []engine.Mount{
			{Source: host, Target: "/a/b"}}}, "touch /x 2>/dev/null || cat /a/b/file", "of the host\n"},
	} {
		for _, users := range []string{"", "auto"} {
			t.Run(name+" "+users, func(t *testing.T) {
				s := c.spec
				s.Command, s.Remove, s.UserNS = sh(c.do), true, users
				if got := w.mustRun(s, ""); got.out != c.want {
					t.Errorf("%q, want %q: %s", got.out, c.want, got.err)
				}
			})
		}
	}
	t.Run("files", func(t *testing.T) {
		c := w.create(engine.Spec{Mounts: []engine.Mount{{Source: host, Target: "/a/b"}}})
		if err := w.in(c.ID, "/", engine.CopyInOptions{}, file("tmp/x", "made")); err != nil {
			t.Error(err)
		}
		for path, want := range map[string]string{"/tmp/x": "made", "/a/b/file": "of the host\n"} {
			if _, got, err := w.out(c.ID, path); err != nil || got[filepath.Base(path)].text != want {
				t.Errorf("%s: %+v, %v", path, got, err)
			}
		}
	})
	t.Run("a user by name", func(t *testing.T) {
		_, err := w.run(engine.Spec{User: "ann", Command: sh("true"), Remove: true}, "")
		if err == nil || !strings.Contains(err.Error(), "ann") {
			t.Errorf("got %v", err)
		}
	})
}
