package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What CNI runtimes would do is told from what is in their folders.
func TestCNIRuntimes(t *testing.T) {
	root := t.TempDir()
	put := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	is := func(severity Severity, found, remedy string) {
		t.Helper()
		var f Facts
		Host{Root: root}.cni(&f)
		all := cniRuntimes(f)
		switch {
		case found == "" && len(all) == 0:
		case len(all) != 1 || all[0].Severity != severity || !strings.Contains(all[0].Found, found) ||
			!strings.Contains(all[0].Remedy, remedy):
			t.Errorf("%+v, want %s, %q, %q", all, severity, found, remedy)
		}
	}
	is(OK, "", "")
	put("etc/cni/net.d/README", "no configuration")
	is(OK, "", "")
	put("etc/cni/net.d/20-bridge.conflist", `{"name": "b", "plugins": [{"type": "bridge"}]}`)
	is(Info, "20-bridge.conflist", "docs/engines.md")
	put("etc/cni/net.d/30-web.conflist", `{"name": "web", "plugins": [{"type": "vethloom-cni"}]}`)
	is(Warning, "in none of /opt/cni/bin", "ln -s $(command -v vethloom-cni) /opt/cni/bin/")
	put("usr/lib/cni/vethloom-cni", "")
	is(Warning, "20-bridge.conflist, and not 30-web.conflist", "mv /etc/cni/net.d/30-web.conflist")
	if err := os.Rename(filepath.Join(root, "etc/cni/net.d/30-web.conflist"),
		filepath.Join(root, "etc/cni/net.d/10-web.conf")); err != nil {
		t.Fatal(err)
	}
	is(OK, "10-web.conf is used", "")
	if err := os.Symlink("/dev/zero", filepath.Join(root, "etc/cni/net.d/00-zero.conf")); err != nil {
		t.Fatal(err)
	}
	is(OK, "10-web.conf is used", "")
}
