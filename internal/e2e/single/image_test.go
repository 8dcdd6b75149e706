package single

import (
	"archive/tar"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// archive is a tar of the given entries.
func archive(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestImportRefuses(t *testing.T) {
	n := newNode(t)
	for name, c := range map[string]struct{ data, words string }{
		"absolute": {archive(t, tar.Header{Name: "/etc/evil"}),
			`"/etc/evil": has an absolute path.*tar -C DIR -c \.`},
		"climbing": {archive(t, tar.Header{Name: "../../evil"}), `climbs with '\.\.'`},
		"whiteout": {archive(t, tar.Header{Name: "w", Typeflag: tar.TypeChar}), `device node.*mounted root`},
		"hard link": {archive(t, tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "../etc/passwd"}),
			`hard link`},
		"no tar":     {strings.Repeat("not a tar ", 200), `is not a tar archive`},
		"cut short":  {archive(t, tar.Header{Name: "a"})[:700], `(truncated|cut short)|not a tar`},
		"empty gzip": {"\x1f\x8b", `truncated|not a tar|gzip`},
	} {
		r := n.pipe(c.data, "import", "-", "x")
		if r.code != 1 {
			t.Errorf("%s: exit code %d: %s", name, r.code, r.err)
		}
		matches(t, name, r.err, `^net: import -: .*(`+c.words+`)`)
	}
	n.refuses(
		refusal{"import nope.tar", 1, `no such file`},
		refusal{"import .", 1, `is a directory`},
		refusal{"load -i .", 1, `is a directory.*net load'$`},
		refusal{"load -i nope.tar", 1, `no such file`},
		refusal{"rmi nope", 1, `no such image.*net images`},
		refusal{"tag nope x", 1, `no such image`},
	)
	is(t, "images", n.ok("images", "-q"), "")
	for _, place := range []string{"blobs/sha256", "ingest", "layers", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(n.root, "images", place)); err != nil || len(left) > 0 {
			t.Errorf("left of what was refused in %s: %v, %v", place, left, err)
		}
	}
}

func TestImportLoadTagRemove(t *testing.T) {
	path := rootfs(t)
	n := newNode(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	matches(t, "from standard input", n.pipe(string(data), "import", "-c", `CMD ["cat","/data/seed"]`, "-",
		"mine:1").out, `^sha256:[0-9a-f]{64}$`)
	is(t, "its command", n.ok("run", "--rm", "mine:1"), "from the image")
	n.ok("tag", "mine:1", "yours:2")
	is(t, "names", n.ok("images", "--format", "{{.Repository}}:{{.Tag}}"), "mine:1\nyours:2")
	is(t, "untag", n.ok("rmi", "mine:1"), "Untagged: mine:1")
	matches(t, "remove", n.ok("rmi", "yours:2"), `^Untagged: yours:2\nDeleted: sha256:`)
	r := n.pipe(string(data), "load")
	matches(t, "load of a root filesystem", r.err, `net import`)
	if layers, err := os.ReadDir(filepath.Join(n.root, "images", "layers")); err != nil || len(layers) > 0 {
		t.Errorf("layers of images that are gone: %v, %v", layers, err)
	}
}

func TestLoadWhatSkopeoWrites(t *testing.T) {
	if out, err := exec.Command("skopeo", "--version").CombinedOutput(); err != nil {
		t.Fatalf("skopeo is needed: %v: %s", err, out)
	}
	dir := dirImage(t, rootfs(t))
	n := newNode(t)
	for _, format := range []string{"docker-archive", "oci-archive"} {
		path := filepath.Join(t.TempDir(), format)
		if out, err := exec.Command("skopeo", "--insecure-policy", "copy", "-q", "dir:"+dir,
			format+":"+path+":app:1").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		is(t, format, n.ok("load", "-i", path), "Loaded image: app:1")
		is(t, format, n.ok("run", "--rm", "app:1"), "from skopeo")
		n.ok("rmi", "app:1")
	}
}
